import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { spread } from '../statistics.mjs';
import { DECODE_AT, MODEL, perSecond, USUAL_HEAD } from './common.mjs';

/** Keeps one core busy until it is told to stop. */
async function withBusyCore(work) {
  const hog = spawn(process.execPath, ['-e', 'for (;;);'], { stdio: 'ignore' });
  try {
    await sleep(100);
    return await work();
  } finally {
    hog.kill('SIGKILL');
  }
}

/** Decode on all cores while another program takes one of them. */
export async function busy(ctx) {
  const { quick, cores, models, inTurns, open, figure } = ctx;
  if (cores < 2) throw new Error('this machine has one core');
  const path = await models.artifact({ preset: MODEL, head: USUAL_HEAD });
  const tokens = quick ? 16 : 40;
  const one = await open({ source: path, target: 'c', threads: 1 });
  const all = await open({ source: path, target: 'c', threads: cores });
  try {
    const decode = (worker) => perSecond(tokens)(worker.ask('decode', { position: DECODE_AT, tokens }));
    const { values, stolen } = await inTurns(
      [
        { run: () => decode(one) },
        { run: () => decode(all) },
        { run: () => withBusyCore(() => decode(all)) },
        { run: () => withBusyCore(() => decode(one)) },
      ],
      quick ? 3 : 7,
    );
    const common = { model: MODEL, target: all.facts.target, head: USUAL_HEAD, stolen };
    const rate = (id, title, i, threads) =>
      figure({ id, title, unit: 'tokens/s', ...spread(values[i]), ...common, threads });
    return [
      rate('busy.quiet.1t', 'decode, quiet machine, 1t', 0, 1),
      rate('busy.quiet.all', `decode, quiet machine, ${cores}t`, 1, cores),
      rate('busy.loaded.all', `decode, one core taken by another process, ${cores}t`, 2, cores),
      rate('busy.loaded.1t', 'decode, one core taken by another process, 1t', 3, 1),
      figure({
        id: 'busy.share',
        title: `loaded ${cores}t as a share of quiet 1t, round by round`,
        unit: '%',
        ...spread(values[2].map((value, round) => (100 * value) / values[0][round])),
        ...common,
        threads: cores,
      }),
    ];
  } finally {
    await one.end();
    await all.end();
  }
}
