/** Draws a search from its records: the best time so far against the trial, for every kernel. */
import { LutraError } from '../common/errors.ts';
import { linePlot, type Series } from '../common/plot.ts';
import { subjectKey, type Trial, type TuneRecord } from './records.ts';

/** Lines that can be told apart. */
const MOST_SERIES = 12;

function label({ op, family, shape }: Trial): string {
  const { m, k, batch, headDim } = shape;
  const size = m === undefined ? (k ?? headDim) : `${m}x${k}`;
  return [op, family === 'default' ? '' : family, size ?? '', batch ?? ''].filter((x) => x !== '').join(' ');
}

function bestSoFar(trials: readonly Trial[]): Series['points'] {
  let best = 1;
  const points = [{ x: 0, y: best }];
  trials.forEach(({ outcome, ratio }, i) => {
    if (outcome === 'ok' && ratio !== undefined) best = Math.min(best, ratio);
    points.push({ x: i + 1, y: best });
  });
  return points;
}

/**
 * An SVG of all searches of a machine (`c:avx2`, ...): one line per kernel and family, those that gained most
 * first, at most 12. Throws `usage` when there are no trials on that machine.
 */
export function drawSearch(records: readonly TuneRecord[], machine: string): string {
  const trials = records.filter((r): r is Trial => r.kind === 'trial' && r.machine === machine);
  const groups = new Map<string, Trial[]>();
  for (const trial of trials) {
    const key = subjectKey(trial);
    groups.set(key, [...(groups.get(key) ?? []), trial]);
  }
  if (groups.size === 0) {
    throw new LutraError('usage', `there are no trials on ${machine} to draw`, {
      hint: `There are some on ${[...new Set(records.map((r) => r.machine))].join(', ') || 'no machine'}.`,
    });
  }
  const series = [...groups.values()]
    .map((own) => ({ label: label(own[0]!), points: bestSoFar(own) }))
    .sort((a, b) => a.points.at(-1)!.y - b.points.at(-1)!.y)
    .slice(0, MOST_SERIES);
  const longest = Math.max(...series.map(({ points }) => points.length - 1));
  return linePlot({
    title: `Tuning on ${machine}`,
    subtitle: `${trials.length} trials, ${trials.filter((t) => t.outcome !== 'ok').length} of them failed`,
    x: 'trial',
    y: 'best time / time of the default',
    series,
    ticks: [0, 0.25, 0.5, 0.75, 1].map((share) => Math.round(share * longest)),
  });
}
