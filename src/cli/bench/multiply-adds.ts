/**
 * How fast code of a target multiplies and adds bytes in registers: what products of low-bit matrices can reach
 * at best where memory is no wall. It uses the instruction that their kernels use on this machine.
 */
import { LutraError } from '../../common/errors.ts';
import { FunctionBuilder } from '../../loops/builder.ts';
import { add, and, bitcast, constant, dot2, dot4, madd, mul, vector } from '../../loops/expr.ts';
import { type Expr, LINE, type Program } from '../../loops/ir.ts';
import type { Machine } from '../../loops/machine.ts';
import { C_MACHINES } from '../../targets/c/machines.ts';
import { WASM_MACHINES } from '../../targets/wasm/machines.ts';
import { leastSeconds, type Meter, openProbe, probeMain } from './probe.ts';

/** Two registers of codes by five of activations: ten sums, and all of it fits 16 registers. */
const CODES = 2;
const ACTIVATIONS = 5;
/** Bytes of activations, read again and again from the first-level cache. */
const STREAM = 4096;
const PASSES = 5;
/** Scalar code is slow: after so many seconds no further pass begins. */
const ENOUGH_SECONDS = 1;
/** What a step computes, about: long enough that starting it does not count. */
const OPERATIONS = 8e9;
/** Parts of a step: many, so that any number of threads gets equal shares. */
const CHUNKS = 64 * 9 * 5 * 7;
const MAX_CODE = 3;

/** Bytes of a register; scalar code is given vectors to take apart. */
function width(machine: Machine): number {
  return Math.max(16, machine.vectorBytes);
}

/** Iterations that go over the stream once. */
function steps(machine: Machine): number {
  return Math.floor(STREAM / (ACTIVATIONS * width(machine)));
}

/** Multiplications and additions of a thread's part of a step that goes over the stream so often. */
export function operationsOf(machine: Machine, rounds: number): number {
  const lanes = usesWords(machine) ? width(machine) / 2 : width(machine);
  return 2 * lanes * CODES * ACTIVATIONS * steps(machine) * rounds;
}

/** Without a product of bytes, kernels multiply 16-bit words. */
function usesWords({ native }: Machine): boolean {
  return !native.has('dot4') && !native.has('dot2') && native.has('madd');
}

/** One step of a sum, as matrix kernels for many tokens take it; sums wrap, which costs nothing. */
function accumulate(machine: Machine, sum: Expr, codes: Expr, activations: Expr): Expr {
  if (machine.native.has('dot4')) return dot4(sum, codes, activations, MAX_CODE);
  if (machine.native.has('dot2')) return add(sum, dot2(codes, activations, MAX_CODE));
  if (usesWords(machine)) return add(sum, madd(codes, activations));
  return dot4(sum, codes, activations, MAX_CODE);
}

/** A kernel of `chunks` parts, each going over the stream `rounds` times; sums end up in the arena. */
export function multiplyAddProgram(machine: Machine, chunks: number, rounds: number): Program {
  const bytes = width(machine);
  const words = usesWords(machine);
  const i16Sums = machine.native.has('dot2') && !machine.native.has('dot4');
  const sumType = i16Sums ? vector('i16', bytes / 2) : vector('i32', bytes / 4);
  const k = new FunctionBuilder('multiplyAdd');
  const stream = k.buffer('stream', 'i8', 'read');
  const out = k.buffer('sums', 'i32', 'write');
  k.thread('chunk', chunks, (chunk) => {
    // Codes come from memory, so that no compiler knows them; their top bits are cleared to keep the promise.
    const load = (at: Expr | number) => {
      const loaded = k.load(stream, at, bytes);
      return words ? bitcast(loaded, vector('i16', bytes / 2)) : loaded;
    };
    const codes = Array.from({ length: CODES }, (_, i) => {
      const loaded = bitcast(k.load(stream, i * bytes, bytes), vector('u8', bytes));
      const masked = k.let('codes', and(loaded, MAX_CODE));
      return words ? k.let('words', bitcast(masked, vector('i16', bytes / 2))) : masked;
    });
    const sums = Array.from({ length: CODES * ACTIVATIONS }, (_, i) =>
      k.var(`sum${i}`, constant(sumType, 0)),
    );
    const step = ACTIVATIONS * bytes;
    k.for('round', 0, rounds, 1, () =>
      k.for('at', 0, steps(machine) * step, step, (at) => {
        for (let x = 0; x < ACTIVATIONS; x++) {
          const activations = k.let('activations', load(add(at, x * bytes)));
          for (const [c, code] of codes.entries()) {
            const sum = sums[c * ACTIVATIONS + x]!;
            k.set(sum, accumulate(machine, sum, code, activations));
          }
        }
      }),
    );
    const total = sums.reduce((a, b) => add(a, b));
    const lanes = bitcast(total, vector('i32', bytes / 4));
    k.store(out, mul(chunk, LINE / 4), lanes);
  });
  return probeMain([k.build()], (m, weights, arena) =>
    m.call(
      'multiplyAdd',
      [
        { buffer: weights, offset: 0 },
        { buffer: arena, offset: 0 },
      ],
      [],
    ),
  );
}

/** Multiplications and additions per second that this many threads reach. */
export async function openMultiplyAdds(target: string, threads: number): Promise<Meter> {
  const machine = [...C_MACHINES, ...WASM_MACHINES].find(({ name }) => name === target);
  if (machine === undefined) throw new LutraError('internal', `no machine ${target}`);
  const rounds = Math.max(1, Math.round(OPERATIONS / (CHUNKS * operationsOf(machine, 1))));
  const probe = await openProbe(target, threads, {
    // The scalar variant is only there because a file of C needs one.
    program: (one: Machine) => multiplyAddProgram(one, CHUNKS, rounds),
    weightsBytes: STREAM,
    arenaBytes: CHUNKS * LINE,
  });
  await probe.step();
  const limits = { passes: PASSES, enoughSeconds: ENOUGH_SECONDS };
  return {
    measure: async () => (CHUNKS * operationsOf(machine, rounds)) / (await leastSeconds(probe, limits)),
    close: () => probe.close(),
  };
}
