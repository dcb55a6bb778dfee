import { writeFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { fileFailure } from '../../checkpoint/failure.ts';
import { modelSource } from '../../checkpoint/resolve.ts';
import { LutraError } from '../../common/errors.ts';
import { recordsPath } from '../../tune/host.ts';
import { readRecords } from '../../tune/records.ts';
import { drawSearch } from '../../tune/report.ts';
import type { TuneProgress } from '../../tune/tune.ts';
import { pick, positiveInteger } from '../arguments.ts';
import type { Deps } from '../deps.ts';
import { addModelOptions, MODEL_HELP, type ModelOptions } from '../model-options.ts';
import { withProgress } from '../progress.ts';
import { addFormOptions, type FormFlags, formOptions } from '../weight-options.ts';

interface TuneFlags extends ModelOptions, FormFlags {
  readonly trials?: number;
  readonly timeout?: number;
  readonly kernelSeconds?: number;
  readonly seconds?: number;
  readonly ops?: string;
  readonly records?: string;
  readonly report?: string;
  readonly json?: true;
  readonly verbose?: true;
}

const kebab = (name: string) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/** `lutra tune MODEL`: measures schedules and adopts what makes the model faster; `--report` draws the search. */
export function addTuneCommand(program: Command, deps: Deps): void {
  const command = program
    .command('tune')
    .description('find the fastest schedules of a model on this machine; compile uses them from then on')
    .argument('[model]', MODEL_HELP, 'embedded');
  addFormOptions(addModelOptions(command))
    .option('--trials <n>', 'schedules tried per kernel at most (200)', positiveInteger('--trials'))
    .option('--timeout <s>', 'seconds of one measurement at most (30)', positiveInteger('--timeout'))
    .option('--kernel-seconds <s>', 'seconds per kernel at most (300)', positiveInteger('--kernel-seconds'))
    .option('--seconds <s>', 'seconds in all, the final check aside (600)', positiveInteger('--seconds'))
    .option('--ops <names>', 'only kernels of these operators, as lowbit.matmul,matmul')
    .option('--records <file>', 'JSON lines to go on from and add to (default: in the cache)')
    .option('--report <file.svg>', 'draw the searches in the records and do nothing else')
    .option('--json', 'print one JSON object')
    .action((model: string, flags: TuneFlags) =>
      flags.report === undefined ? tuneModel(deps, model, flags) : report(deps, flags.report, flags),
    );
}

async function report({ io }: Deps, output: string, flags: TuneFlags): Promise<void> {
  const { records, target, report: _, verbose: __, ...others } = flags;
  const [idle] = Object.keys(others);
  if (idle !== undefined) {
    throw new LutraError(
      'usage',
      `--report draws what was recorded, for which --${kebab(idle)} means nothing`,
      {
        hint: 'With --report give --records and --target, or nothing.',
      },
    );
  }
  const known = await readRecords(records ?? recordsPath());
  const machine = target ?? known.at(-1)?.machine;
  if (machine === undefined) throw new LutraError('usage', 'there are no trials to draw yet');
  const svg = drawSearch(known, machine);
  await writeFile(output, svg).catch((error: unknown) => {
    throw fileFailure(error, 'writing', output);
  });
  io.out(`${output}: the searches on ${machine}\n`);
}

/** `3/7 lowbit_matmul_2560_2560_one: 12 of 54 tried, best 0.93 of the default's time (mad i2)` */
function describe({ kernel, index, kernels, trials, space, best, variant }: TuneProgress): string {
  const by = variant === undefined ? '' : ` (${variant})`;
  const tried = `${trials} of ${space - 1} tried, best ${best.toFixed(2)} of the default's time${by}`;
  return `${index + 1}/${kernels} ${kernel}: ${tried}`;
}

async function tuneModel(deps: Deps, model: string, flags: TuneFlags): Promise<void> {
  const { io } = deps;
  const { trials, timeout, kernelSeconds, seconds, ops } = flags;
  const limits = {
    ...(trials === undefined ? {} : { trials }),
    ...(timeout === undefined ? {} : { secondsPerTrial: timeout }),
    ...(kernelSeconds === undefined ? {} : { secondsPerKernel: kernelSeconds }),
    ...(seconds === undefined ? {} : { secondsInAll: seconds }),
  };
  const { made: result } = await withProgress(io, (work) =>
    deps.tune(modelSource(model), {
      ...pick(flags, ['target', 'threads', 'context', 'records']),
      ...formOptions(flags),
      ...(ops === undefined ? {} : { ops: ops.split(',').map((op) => op.trim()) }),
      limits,
      ...work,
      onTuning: (p) =>
        work.onProgress({ stage: describe(p), done: p.trials, total: Math.max(1, p.space - 1) }),
    }),
  );
  if (flags.json) {
    io.out(`${JSON.stringify(result)}\n`);
    return;
  }
  const { machine, kernels, trials: tried, failed, choices, check, records } = result;
  if (kernels === 0) {
    io.out(`${machine}: nothing to tune, no kernel of the model has more than one schedule\n`);
    return;
  }
  io.out(`${machine}: ${choices.length} of ${kernels} kernels have a faster schedule than their default\n`);
  if (failed > 0) {
    const rest = failed === tried ? 'the defaults stay' : 'they are never chosen';
    io.error(`lutra: warning: ${failed} of ${tried} measurements failed, ${rest}; the records say how\n`);
  }
  for (const { op, shape, schedule } of choices) {
    io.out(`  ${op} ${JSON.stringify(shape)}: ${JSON.stringify(schedule)}\n`);
  }
  if (check !== undefined) {
    const phase = (name: string, { default: before, tuned }: { default: number; tuned: number }) =>
      `${name} ${before.toFixed(1)} -> ${tuned.toFixed(1)} tokens/s`;
    const verdict = check.adopted
      ? 'adopted: compile uses them from now on'
      : check.kept === 'defaults'
        ? 'not faster: compile takes the defaults for this model'
        : 'not faster: what compile used before stays';
    io.out(`whole model: ${phase('decode', check.decode)}, ${phase('prefill', check.prefill)}; ${verdict}\n`);
  }
  io.out(`records: ${records}\n`);
}
