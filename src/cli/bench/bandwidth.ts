/**
 * How fast code of a target reads memory: a program in the loop IR that only reads, run like a model. It
 * says what a token can cost at best, as each one reads all weights.
 */
import { freemem } from 'node:os';
import { LutraError } from '../../common/errors.ts';
import { FunctionBuilder } from '../../loops/builder.ts';
import { add, bitcast, constant, mul, vector } from '../../loops/expr.ts';
import { LINE, type Program } from '../../loops/ir.ts';
import { detectCpu } from '../../targets/cpu.ts';
import { leastSeconds, type Meter, openProbe, probeMain } from './probe.ts';

/** What one iteration of the thread loop reads, and how many sums it keeps going at once. */
const CHUNK = 64 << 10;
const SUMS = 4;
const PASSES = 7;
const SMALLEST = 256 << 20;
const LARGEST = 1 << 30;

/** A kernel over so many chunks of weights, which adds everything up. */
export function readProgram(chunks: number): Program {
  const words = vector('i32', LINE / 4);
  const r = new FunctionBuilder('readAll');
  const bytes = r.buffer('bytes', 'u8', 'read');
  const out = r.buffer('sums', 'i32', 'write');
  r.thread('chunk', chunks, (chunk) => {
    const sums = Array.from({ length: SUMS }, (_, i) => r.var(`sum${i}`, constant(words, 0)));
    const start = r.let('start', mul(chunk, CHUNK));
    r.for('at', 0, CHUNK, SUMS * LINE, (at) => {
      const base = r.let('base', add(start, at));
      for (const [i, sum] of sums.entries()) {
        r.set(sum, add(sum, bitcast(r.load(bytes, add(base, i * LINE), LINE), words)));
      }
    });
    r.store(
      out,
      mul(chunk, LINE / 4),
      sums.reduce((a, b) => add(a, b)),
    );
  });
  return probeMain([r.build()], (m, weights, arena) =>
    m.call(
      'readAll',
      [
        { buffer: weights, offset: 0 },
        { buffer: arena, offset: 0 },
      ],
      [],
    ),
  );
}

/** Larger than the caches by far, and no more than half of the memory that is free. */
async function bufferBytes(): Promise<number> {
  const { caches } = await detectCpu();
  const wanted = Math.min(Math.max(SMALLEST, 4 * caches.l3), LARGEST);
  const bytes = Math.floor(Math.min(wanted, freemem() / 2) / CHUNK) * CHUNK;
  if (bytes < CHUNK) throw new LutraError('environment', 'no memory is free to measure its bandwidth');
  return bytes;
}

/** Bytes per second that this many threads read of weights; they are written into the temporary folder first. */
export async function openBandwidth(target: string, threads: number): Promise<Meter> {
  const bytes = await bufferBytes();
  const chunks = bytes / CHUNK;
  const program = () => readProgram(chunks);
  const probe = await openProbe(target, threads, { program, weightsBytes: bytes, arenaBytes: chunks * LINE });
  await probe.step();
  return {
    measure: async () => bytes / (await leastSeconds(probe, { passes: PASSES, enoughSeconds: 10 })),
    close: () => probe.close(),
  };
}

/** The same, measured once. */
export async function measureBandwidth(target: string, threads: number): Promise<number> {
  const meter = await openBandwidth(target, threads);
  try {
    return await meter.measure();
  } finally {
    await meter.close();
  }
}
