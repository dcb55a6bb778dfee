import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Allocation, Heap } from './heap.ts';

const START = 1 << 20;

describe('Heap', () => {
  test('first fit, in lines of 64 bytes; neighbours become one block again', () => {
    const heap = new Heap(START, 2 * START, () => {});
    const [a, b, c] = [100, 64, 1].map((bytes) => heap.allocate(bytes));
    expect([a!.at, b!.at, c!.at]).toEqual([START, START + 128, START + 192]);
    heap.release(a!);
    heap.release(b!);
    expect(heap.allocate(192)).toEqual({ at: START, bytes: 192, usedBefore: 192 });
  });

  test('knows how much of a block was used before', () => {
    const heap = new Heap(START, 2 * START, () => {});
    const a = heap.allocate(128);
    expect(a.usedBefore).toBe(0);
    heap.release(a);
    expect(heap.allocate(256)).toEqual({ at: START, bytes: 256, usedBefore: 128 });
  });

  test('asks for memory before it hands it out, and refuses what is beyond the limit', () => {
    const ends: number[] = [];
    const heap = new Heap(START, START + 256, (end) => ends.push(end));
    heap.allocate(128);
    expect(() => heap.allocate(192)).toThrow(/no room/);
    heap.allocate(128);
    expect(ends).toEqual([START + 128, START + 256]);
  });

  test('a failure to get memory changes nothing', () => {
    let full = true;
    const heap = new Heap(START, 2 * START, () => {
      if (full) throw new Error('full');
    });
    expect(() => heap.allocate(64)).toThrow('full');
    full = false;
    expect(heap.allocate(64)).toEqual({ at: START, bytes: 64, usedBefore: 0 });
  });

  test('blocks never overlap, never forget use, and all of them freed make room for one', () => {
    const steps = fc.array(
      fc.oneof(
        fc.record({ allocate: fc.integer({ min: 0, max: 1000 }) }),
        fc.record({ release: fc.nat(30) }),
      ),
      { maxLength: 80 },
    );
    fc.assert(
      fc.property(steps, (list) => {
        const heap = new Heap(START, 2 * START, () => {});
        const held: Allocation[] = [];
        let touched = START;
        for (const step of list) {
          if ('allocate' in step) {
            const block = heap.allocate(step.allocate);
            expect(block.at % 64).toBe(0);
            expect(block.bytes).toBeGreaterThanOrEqual(step.allocate);
            expect(block.usedBefore).toBeGreaterThanOrEqual(Math.min(block.bytes, touched - block.at));
            for (const other of held) {
              expect(block.at + block.bytes <= other.at || other.at + other.bytes <= block.at).toBe(true);
            }
            touched = Math.max(touched, block.at + block.bytes);
            held.push(block);
          } else if (held.length > 0) {
            heap.release(held.splice(step.release % held.length, 1)[0]!);
          }
        }
        for (const block of held) heap.release(block);
        expect(heap.allocate(START).at).toBe(START);
      }),
    );
  });
});
