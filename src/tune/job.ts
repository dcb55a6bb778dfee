/**
 * Measuring is a job: plain JSON in, plain JSON out, so that it can run in a process of its own here, or on
 * another machine.
 */
import { z } from 'zod';

/** Shapes and schedules: fields of plain values. */
export const plainSchema = z.record(z.string(), z.union([z.string(), z.number(), z.boolean()]));

const useSchema = z.object({ op: z.string(), family: z.string(), shape: plainSchema, schedule: plainSchema });

const contenderSchema = useSchema.extend({
  /** A kernel that has to run before it every time, and whose time counts too. */
  before: useSchema.optional(),
});

export type KernelJob = z.infer<typeof useSchema>;
export type Contender = z.infer<typeof contenderSchema>;

export const measureJobSchema = z.object({
  /** `c:avx2`, `wasm:relaxed`, ... */
  machine: z.string(),
  /** What is measured, and what it is measured against, turn by turn. */
  candidate: contenderSchema,
  against: contenderSchema,
  /** The candidate's self-test: seed of its inputs, and digest of what it must compute, whatever its schedule. */
  test: z.object({ seed: z.int(), digest: z.string() }),
  /** Rows (tokens) of a call, one measurement for each number, and position of the first. */
  tokens: z.array(z.int().positive()).min(1),
  position: z.int().nonnegative(),
  /** Threads that share the work. One is timed by the processor's time, several by the clock. */
  threads: z.int().positive(),
  /** Turns of the two, and seconds of each at least. */
  turns: z.int().positive(),
  turnSeconds: z.number().positive(),
});

export type MeasureJob = z.infer<typeof measureJobSchema>;

export const measureResultSchema = z.discriminatedUnion('outcome', [
  z.object({
    outcome: z.literal('ok'),
    /** Medians over the turns: seconds of a call of each, of the first number of tokens. */
    seconds: z.number().positive(),
    againstSeconds: z.number().positive(),
    /** What the candidate is judged by: the two within a turn, `ratioOf` all numbers of tokens. */
    ratio: z.number().positive(),
    /** Of each number of tokens. */
    ratios: z.array(z.number().positive()),
  }),
  z.object({ outcome: z.enum(['wrong', 'crashed', 'timeout', 'failed']), reason: z.string() }),
]);

export type MeasureResult = z.infer<typeof measureResultSchema>;
