/**
 * How far the schedules, families and encodings that lutra takes by itself are from the best that its tuner finds:
 * on the operator shapes of published models, one thread, weights from memory, each candidate in turns with the default.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { chooseLookup, chooseTernary } from '../../../dist/api/compile.js';
import { planCheckpoint } from '../../../dist/artifact/build.js';
import { openCheckpoint } from '../../../dist/checkpoint/open.js';
import { SYNTH_PRESETS } from '../../../dist/checkpoint/synth/presets.js';
import { synthesizeConfig } from '../../../dist/checkpoint/synth.js';
import { detectHost } from '../../../dist/runtime/load.js';
import { nativeMachines } from '../../../dist/runtime/targets.js';
import { machineNamed } from '../../../dist/tune/kernels.js';
import { runJob } from '../../../dist/tune/run-job.js';
import { tuneTasks, variantName } from '../../../dist/tune/tasks.js';
import { tuneKernels } from '../../../dist/tune/tune.js';

const PRESETS = ['bitnet-2b-4t', 'bitnet-3b', 'llama2-7b-w2', 'llama2-7b-w4'];

/** The kernels of a model of this shape that can be computed in several ways; one layer has them all. */
async function tasksOf(preset, folder, machine, host) {
  const path = join(folder, `${preset}.layer`);
  rmSync(path, { recursive: true, force: true });
  try {
    await synthesizeConfig({ ...SYNTH_PRESETS[preset], num_hidden_layers: 1 }, path);
    const checkpoint = await openCheckpoint(path);
    try {
      const { plan } = planCheckpoint(checkpoint, {
        cacheElem: 'f32',
        head: 'stored',
        // One layer is not what memory binds: the choice for the whole model is meant.
        ternary: (info) =>
          chooseTernary([machine.name], host, {
            ...info,
            parameters: {
              ...info.parameters,
              ternary: info.parameters.ternary * SYNTH_PRESETS[preset].num_hidden_layers,
            },
          }),
        lookup: chooseLookup('auto', machine),
      });
      return tuneTasks(plan, machine);
    } finally {
      await checkpoint.close();
    }
  } finally {
    rmSync(path, { recursive: true, force: true });
  }
}

/**
 * @param {{ quick: boolean, models: { folder: string }, log: (text: string) => void, figure: Function }} ctx
 */
export async function defaults({ quick, models, log, figure }) {
  const host = await detectHost();
  const [name] = nativeMachines('c', host.cpu);
  const machine = machineNamed(name);
  const records = { path: '', records: [], append: async (record) => void records.records.push(record) };
  const limits = {
    // Of a space that was measured whole, the search left 0.1 % after 16 trials (test/tune-search.test.ts).
    trials: quick ? 12 : 24,
    secondsPerKernel: quick ? 60 : 120,
    secondsInAll: 86_400,
    secondsPerTrial: 60,
  };
  const run = (job, timeoutSeconds) => runJob(job, { timeoutSeconds });
  const seen = new Set();
  const figures = [];
  for (const preset of PRESETS) {
    for (const task of await tasksOf(preset, models.folder, machine, host)) {
      const key = JSON.stringify(task.variants[0].subject);
      if (seen.has(key)) continue;
      seen.add(key);
      const from = records.records.length;
      const [found] = await tuneKernels([task], { host: name, threads: 1, records, limits, run });
      const best = found.best.reduce((a, b) => (b.ratio < a.ratio ? b : a));
      const { subject } = task.variants[best.variant];
      const { schedule } = task.choices[best.choice];
      const trials = records.records.slice(from);
      const slower = 100 * (1 / best.ratio - 1);
      log(
        `${preset} ${task.name}: default ${slower.toFixed(1)} % slower than ${variantName(subject)} ${JSON.stringify(schedule)}; ${trials.length} trials`,
      );
      figures.push(
        figure({
          id: `defaults.${preset}.${task.name}`,
          title: `${preset}, ${task.name}: how much slower the default is`,
          unit: '%',
          median: slower,
          min: slower,
          max: slower,
          repetitions: 1,
          values: [slower],
          target: name,
          threads: 1,
          trials: trials.length,
          failed: trials.filter(({ outcome }) => outcome !== 'ok').length,
          choices: task.choices.length,
          best: { variant: variantName(subject), schedule },
          variants: found.best.map(({ variant, ratio }) => ({
            variant: variantName(task.variants[variant].subject),
            ratio,
          })),
        }),
      );
    }
  }
  return figures;
}
