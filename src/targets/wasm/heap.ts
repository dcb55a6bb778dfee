import { LutraError } from '../../common/errors.ts';
import { alignUp } from '../../common/math.ts';
import { LINE } from '../../loops/ir.ts';

interface Block {
  readonly at: number;
  readonly bytes: number;
}

export interface Allocation extends Block {
  /** As many of the first bytes may have been used before; the rest are zeros. */
  readonly usedBefore: number;
}

/** Hands out lines of 64 bytes from `start` up, first fit; freed neighbours become one again. */
export class Heap {
  readonly #ensure: (end: number) => void;
  readonly #limit: number;
  /** Ascending, never adjacent. */
  readonly #free: Block[] = [];
  /** Where what has not been handed out since the last growth or shrinkage begins. */
  #end: number;
  /** The highest end there ever was. */
  #touched: number;

  /** `ensure` makes the memory reach to `end`, or throws. */
  constructor(start: number, limit: number, ensure: (end: number) => void) {
    this.#end = start;
    this.#touched = start;
    this.#limit = limit;
    this.#ensure = ensure;
  }

  allocate(wanted: number): Allocation {
    const bytes = alignUp(Math.max(wanted, 1), LINE);
    const index = this.#free.findIndex((block) => block.bytes >= bytes);
    if (index >= 0) {
      const { at, bytes: size } = this.#free[index]!;
      this.#free.splice(index, 1, ...(size === bytes ? [] : [{ at: at + bytes, bytes: size - bytes }]));
      return { at, bytes, usedBefore: bytes };
    }
    const at = this.#end;
    const end = at + bytes;
    if (end > this.#limit) {
      throw new LutraError(
        'environment',
        `no room for ${Math.ceil(bytes / 2 ** 20)} MiB more: WebAssembly memory ends at ${this.#limit / 2 ** 30} GiB`,
        { hint: 'Use fewer sessions, a shorter context, or native code (--target c).' },
      );
    }
    this.#ensure(end);
    const usedBefore = Math.min(bytes, this.#touched - at);
    this.#end = end;
    this.#touched = Math.max(this.#touched, end);
    return { at, bytes, usedBefore };
  }

  release({ at, bytes }: Block): void {
    let low = at;
    let high = at + bytes;
    const before = this.#free.findIndex((block) => block.at + block.bytes === low);
    if (before >= 0) low = this.#free.splice(before, 1)[0]!.at;
    const after = this.#free.findIndex((block) => block.at === high);
    if (after >= 0) high += this.#free.splice(after, 1)[0]!.bytes;
    if (high === this.#end) {
      this.#end = low;
      return;
    }
    const place = this.#free.findIndex((block) => block.at > low);
    this.#free.splice(place < 0 ? this.#free.length : place, 0, { at: low, bytes: high - low });
  }
}
