/** Bytes that are written one after the other, in a buffer that doubles. */
export class GrowingBytes {
  /** May be longer than what was written. `grow` replaces it: look at it afterwards. */
  bytes: Uint8Array<ArrayBuffer>;
  view: DataView<ArrayBuffer>;
  length = 0;

  constructor(capacity: number) {
    this.bytes = new Uint8Array(capacity);
    this.view = new DataView(this.bytes.buffer);
  }

  /** Makes room for so many bytes more, which are zeros; returns where they begin. */
  grow(count: number): number {
    const at = this.length;
    this.length += count;
    if (this.length > this.bytes.length) {
      const larger = new Uint8Array(Math.max(this.length, this.bytes.length * 2));
      larger.set(this.bytes);
      this.bytes = larger;
      this.view = new DataView(larger.buffer);
    }
    return at;
  }

  append(values: ArrayLike<number>): void {
    const at = this.grow(values.length);
    this.bytes.set(values, at);
  }

  /** A copy of what was written. */
  written(): Uint8Array<ArrayBuffer> {
    return this.bytes.slice(0, this.length);
  }
}
