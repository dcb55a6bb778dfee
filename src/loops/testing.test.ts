import { expect, test } from 'vitest';
import { runFunction } from './interpret.ts';
import type { Expr } from './ir.ts';
import { copyBuffers, firstDifference, randomFunction } from './testing.ts';
import { threadLoop } from './thread.ts';
import { operands, statementExprs, statements } from './walk.ts';

const SEEDS = Array.from({ length: 200 }, (_, i) => i);

test('random functions run, change memory, and are the same for the same seed', () => {
  let changed = 0;
  for (const seed of SEEDS) {
    const { fn, buffers, scalars } = randomFunction(seed);
    const after = copyBuffers(buffers);
    runFunction(fn, { buffers: after, scalars });
    if (firstDifference(fn, buffers, after) !== undefined) changed++;
    expect(randomFunction(seed).fn).toEqual(fn);
  }
  expect(changed).toBeGreaterThan(0.9 * SEEDS.length);
});

test('their thread loop can be split anywhere', () => {
  let split = 0;
  for (const seed of SEEDS) {
    const { fn, buffers, scalars } = randomFunction(seed);
    if (threadLoop(fn) === undefined) continue;
    split++;
    const [whole, parts] = [copyBuffers(buffers), copyBuffers(buffers)];
    runFunction(fn, { buffers: whole, scalars });
    runFunction(fn, { buffers: parts, scalars, range: { begin: 1, end: scalars[0]! } });
    runFunction(fn, { buffers: parts, scalars, range: { begin: 0, end: 1 } });
    const rest = fn.body.some((s) => s.kind === 'let') ? scalars[0]! + 1 : scalars[0]!;
    runFunction(fn, { buffers: parts, scalars, range: { begin: scalars[0]!, end: rest } });
    expect(firstDifference(fn, whole, parts)).toBeUndefined();
  }
  expect(split).toBeGreaterThan(50);
});

test('they use every kind of expression and statement', () => {
  const seen = new Set<string>();
  const visit = (e: Expr) => {
    seen.add(e.kind);
    operands(e).forEach(visit);
  };
  for (const seed of SEEDS) {
    for (const s of statements(randomFunction(seed).fn.body)) {
      seen.add(s.kind);
      statementExprs(s).forEach(visit);
    }
  }
  const expressions =
    'const ref load unary binary shift compare select cast bitcast repeat slice concat shuffle ' +
    'dot2 madd dot4 lookup16 lookup128 reduce';
  const all = `${expressions} let var assign store for if prefetch`.split(' ');
  expect(all.filter((kind) => !seen.has(kind))).toEqual([]);
});
