/** What a model costs besides the time of a token: memory, compiling, loading. */
import { choicesOf } from '../models.mjs';
import { startWorker } from '../process.mjs';
import { spread } from '../statistics.mjs';
import { MODEL, USUAL_HEAD } from './common.mjs';

const MIB = 1 << 20;

/**
 * The most memory of a process that fills a context of 2048 and writes its last tokens one by one: by head, and where
 * everything has its least bytes. It hardly differs from run to run.
 */
export async function memory(ctx) {
  const { quick, cores, models, open, figure } = ctx;
  const context = 2048;
  const tokens = 16;
  const threads = Math.min(2, cores);
  const cache = (await choicesOf('cache')).at(-1);
  const leanest = { head: 'int4', encoding: 't5b' };
  const kinds = quick ? [{ head: USUAL_HEAD }] : [{ head: 'stored' }, { head: USUAL_HEAD }, { head: 'int4' }];
  const figures = [];
  for (const { head, encoding } of [...kinds, leanest]) {
    const path = await models.artifact({ preset: MODEL, head, cache, context, encoding });
    const worker = await open({ source: path, target: 'c', threads });
    try {
      await worker.ask('decode', { position: context - tokens, tokens });
      const weights = encoding === undefined ? '' : `, weights ${encoding}`;
      figures.push(
        figure({
          id: ['memory', `decode${context}`, head, encoding].filter(Boolean).join('.'),
          title: `peak memory, native decode, context ${context} full, head ${head}, cache ${cache}${weights}`,
          unit: 'MiB',
          ...spread([(await worker.ask('peakMemory')) / MIB]),
          model: MODEL,
          head,
          cache,
          ...(encoding === undefined ? {} : { encoding }),
          threads,
        }),
      );
    } finally {
      await worker.end();
    }
  }
  return figures;
}

/** `lutra compile` of master weights: a process of its own, C compiler included in the time. */
export async function compile(ctx) {
  const { quick, models, figure } = ctx;
  const preset = 'bitnet-2b-4t-bf16';
  const seconds = [];
  const peaks = [];
  const trees = [];
  for (let run = 0; run < (quick ? 1 : 3); run++) {
    const result = await models.compile({ preset, head: USUAL_HEAD, fresh: true });
    seconds.push(result.seconds);
    peaks.push(result.peakBytes / 1e6);
    trees.push(result.treePeakBytes / 1e6);
  }
  models.remove(preset);
  const common = { model: preset, head: USUAL_HEAD };
  return [
    figure({
      id: 'compile.seconds',
      title: 'import + compile of the bf16 checkpoint',
      unit: 's',
      ...spread(seconds),
      ...common,
    }),
    figure({
      id: 'compile.memory',
      title: 'peak memory of lutra compile',
      unit: 'MB',
      ...spread(peaks),
      ...common,
    }),
    figure({
      id: 'compile.treeMemory',
      title: 'the same with the C compilers it starts',
      unit: 'MB',
      ...spread(trees),
      ...common,
    }),
  ];
}

/** From `load()` to the first token of a short prompt, in a new process each time; files are in the page cache. */
export async function load(ctx) {
  const { quick, cores, models, figure } = ctx;
  const path = await models.artifact({ preset: MODEL, head: USUAL_HEAD });
  const threads = Math.min(2, cores);
  const request = { source: path, target: 'c', threads, tokens: 16 };
  const fromLoad = [];
  const fromStart = [];
  for (let run = 0; run < (quick ? 4 : 8); run++) {
    const worker = startWorker({ env: models.env });
    try {
      const { seconds, sinceStart } = await worker.ask('firstToken', request);
      // The first run reads the files and, on a new machine, tests the kernels.
      if (run === 0) continue;
      fromLoad.push(seconds);
      fromStart.push(sinceStart);
    } finally {
      await worker.end();
    }
  }
  const common = { unit: 's', model: MODEL, head: USUAL_HEAD, threads };
  return [
    figure({
      id: 'load.firstToken',
      title: 'load() to the first token of a 16-token prompt',
      ...spread(fromLoad),
      ...common,
    }),
    figure({
      id: 'load.process',
      title: 'the same from the start of the process',
      ...spread(fromStart),
      ...common,
    }),
  ];
}
