/**
 * What tuning found, one JSON object a line: every schedule tried, with its times or what was wrong with it, and
 * the sets of schedules that made a whole model faster and so were adopted.
 */
import { appendFile, mkdir, readFile, truncate } from 'node:fs/promises';
import { dirname } from 'node:path';
import { z } from 'zod';
import { fileFailure } from '../checkpoint/failure.ts';
import { LutraError } from '../common/errors.ts';
import { kernelKey } from '../plan/lower.ts';
import type { TunedSchedule } from '../plan/types.ts';
import { plainSchema } from './job.ts';

/** A kernel of some shape on some machine: what a schedule is chosen for. */
const subjectSchema = z.object({
  op: z.string(),
  family: z.string(),
  shape: plainSchema,
  /** `c:avx2`, `wasm:relaxed`, ... */
  machine: z.string(),
});

const trialSchema = subjectSchema.extend({
  kind: z.literal('trial'),
  /** Processor and what generated and compiled the code: times hold only where all of these are the same. */
  host: z.string(),
  schedule: plainSchema,
  /** `ok`; `wrong` results; it `crashed`; it took too long (`timeout`); it could not be built or run (`failed`). */
  outcome: z.enum(['ok', 'wrong', 'crashed', 'timeout', 'failed']),
  /** Tokens of the calls that were timed, and threads, where they are more than one. */
  tokens: z.array(z.int().positive()).optional(),
  threads: z.int().positive().optional(),
  /** Median seconds of a call, and of the default's in the same turns; of the first number of tokens. */
  seconds: z.number().positive().optional(),
  defaultSeconds: z.number().positive().optional(),
  /**
   * Median over the turns of seconds / defaultSeconds, of all numbers of tokens together; and of each. With `threads`
   * the default is the same schedule without its grain.
   */
  ratio: z.number().positive().optional(),
  ratios: z.array(z.number().positive()).optional(),
  reason: z.string().optional(),
});

const choiceSchema = subjectSchema.extend({ schedule: plainSchema });

const adoptionSchema = z.object({
  kind: z.literal('adoption'),
  host: z.string(),
  model: z.string(),
  machine: z.string(),
  choices: z.array(choiceSchema),
  /** Tokens per second of the whole model, with the defaults and with the choices. */
  decode: z.object({ default: z.number(), tuned: z.number() }),
  prefill: z.object({ default: z.number(), tuned: z.number() }),
  adopted: z.boolean(),
  /** What the model is compiled with instead, where it was not: what was before, or the defaults. */
  kept: z.enum(['earlier', 'defaults']).optional(),
});

const recordSchema = z.discriminatedUnion('kind', [trialSchema, adoptionSchema]);

export type Subject = z.infer<typeof subjectSchema>;
export type Trial = z.infer<typeof trialSchema>;
export type Adoption = z.infer<typeof adoptionSchema>;
export type TuneRecord = z.infer<typeof recordSchema>;

/** Equal for equal subjects. */
export function subjectKey(subject: Subject): string {
  return `${subject.machine} ${kernelKey(subject)}`;
}

/**
 * The records of a file's text. A last line that was cut short (the machine stopped while writing) is left out;
 * any other line that is no record is `invalid`, with its number.
 */
export function parseRecords(text: string, where: string): readonly TuneRecord[] {
  const lines = text.split('\n');
  const records: TuneRecord[] = [];
  lines.forEach((line, i) => {
    if (line.trim() === '') return;
    let json: unknown;
    try {
      json = JSON.parse(line);
    } catch (cause) {
      // The text ends without a newline: the machine stopped while writing.
      if (i === lines.length - 1) return;
      throw new LutraError('invalid', `${where}:${i + 1} is not JSON`, { cause, hint: 'Remove that line.' });
    }
    const parsed = recordSchema.safeParse(json);
    if (!parsed.success) {
      const issue = parsed.error.issues[0];
      throw new LutraError(
        'invalid',
        `${where}:${i + 1} is no tuning record: ${issue?.path.join('.')}: ${issue?.message}`,
        { hint: 'Remove that line, or tune again.' },
      );
    }
    records.push(parsed.data);
  });
  return records;
}

/** The records of a file. Throws `not-found` where there is none. */
export async function readRecords(path: string): Promise<readonly TuneRecord[]> {
  const text = await readFile(path, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    throw new LutraError(cause.code === 'ENOENT' ? 'not-found' : 'environment', `cannot read ${path}`, {
      cause,
      hint: 'lutra tune --records FILE writes tuning records.',
    });
  });
  return parseRecords(text, path);
}

/** A file of records that grows. */
export interface RecordFile {
  readonly path: string;
  readonly records: readonly TuneRecord[];
  append(record: TuneRecord): Promise<void>;
}

/** Opens a file of records, or starts one; a last line that was cut short is removed. */
export async function openRecords(path: string): Promise<RecordFile> {
  const unwritable = (cause: unknown) => {
    throw fileFailure(cause, 'writing', path, 'choose another file with --records');
  };
  await mkdir(dirname(path), { recursive: true }).catch(unwritable);
  const file = await readFile(path).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') return Buffer.alloc(0);
    throw fileFailure(cause, 'reading', path);
  });
  const records = [...parseRecords(file.toString('utf8'), path)];
  const complete = file.lastIndexOf('\n') + 1;
  if (complete < file.length) await truncate(path, complete);
  return {
    path,
    records,
    async append(record) {
      records.push(record);
      await appendFile(path, `${JSON.stringify(record)}\n`).catch(unwritable);
    },
  };
}

/** The schedules, of several for a kernel the last one, in the order in which they came. */
export function lastChoices(choices: readonly TunedSchedule[]): readonly TunedSchedule[] {
  const byKey = new Map<string, TunedSchedule>();
  for (const choice of choices) {
    // Of choices of other encodings for one product, the last is the one that counts.
    byKey.delete(subjectKey(choice));
    byKey.set(subjectKey(choice), choice);
  }
  return [...byKey.values()];
}

/** What was checked on a machine, adopted or not; where `host` is given, only what was measured on it. */
function checkedOn(records: readonly TuneRecord[], machine: string, host?: string): readonly Adoption[] {
  return records
    .filter((record) => record.kind === 'adoption')
    .filter((one) => one.machine === machine && one.host === (host ?? one.host));
}

/** Whether something was adopted for this very model. */
export function wasAdopted(
  records: readonly TuneRecord[],
  machine: string,
  { host, model }: { readonly host: string; readonly model: string },
): boolean {
  return checkedOn(records, machine, host).some((one) => one.adopted && one.model === model);
}

/**
 * The schedules adopted for these machines; where `host` is given, only those measured on it. A model that was tuned
 * itself gets what was adopted for it last and nothing else, since that was checked as a whole, or the defaults if they
 * were found to be as fast; any other model what was adopted last for kernels like its own.
 */
export function adoptedChoices(
  records: readonly TuneRecord[],
  machines: readonly string[],
  { host, model }: { readonly host?: string; readonly model?: string } = {},
): readonly TunedSchedule[] {
  return machines.flatMap((machine) => {
    const checked = checkedOn(records, machine, host);
    const adopted = checked.filter((one) => one.adopted);
    const own = adopted.findLast((one) => one.model === model);
    if (own === undefined && checked.some((one) => one.model === model && one.kept === 'defaults')) return [];
    return lastChoices((own === undefined ? adopted : [own]).flatMap(({ choices }) => choices));
  });
}
