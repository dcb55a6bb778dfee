/** Draws a search from its records: the best time so far against the trial, for every kernel and family. */
import { LutraError } from '../common/errors.ts';
import { linePlot, type Series } from '../common/plot.ts';
import { productKey } from '../kernels/alternatives.ts';
import { subjectKey, type Trial, type TuneRecord } from './records.ts';
import { variantName } from './tasks.ts';

/** Lines that can be told apart. */
const MOST_SERIES = 12;

function label({ op, family, shape }: Trial): string {
  const { m, k, batch, headDim } = shape;
  const size = m === undefined ? (k ?? headDim) : `${m}x${k}`;
  const name = shape.encoding === undefined ? op : variantName({ family, shape });
  return [name, size ?? '', batch ?? ''].filter((x) => x !== '').join(' ');
}

/** A line for every family and encoding of a kernel, over the trials of all of them. */
function linesOf(trials: readonly Trial[]): readonly Series[] {
  const lines = new Map<string, { label: string; group: string; points: { x: number; y: number }[] }>();
  trials.forEach((trial, i) => {
    const group = variantName(trial);
    const line = lines.get(group) ?? { label: label(trial), group, points: [] };
    lines.set(group, line);
    const before = line.points.at(-1)?.y ?? Infinity;
    const y = trial.outcome === 'ok' && trial.ratio !== undefined ? Math.min(before, trial.ratio) : before;
    if (Number.isFinite(y)) line.points.push({ x: i + 1, y });
  });
  return [...lines.values()]
    .filter(({ points }) => points.length > 0)
    .map((line) => ({ ...line, points: [...line.points, { x: trials.length, y: line.points.at(-1)!.y }] }));
}

/**
 * An SVG of all searches of a machine (`c:avx2`, ...): one line per kernel and family, in the family's colour, of the
 * kernels that gained most, at most 12 lines. Throws `usage` when there are no trials on that machine.
 */
export function drawSearch(records: readonly TuneRecord[], machine: string): string {
  const isSearched = (r: TuneRecord): r is Trial => r.kind === 'trial' && r.threads === undefined;
  const trials = records.filter(isSearched).filter((trial) => trial.machine === machine);
  const groups = new Map<string, Trial[]>();
  for (const trial of trials) {
    const key = productKey(trial) ?? subjectKey(trial);
    groups.set(key, [...(groups.get(key) ?? []), trial]);
  }
  if (groups.size === 0) {
    throw new LutraError('usage', `there are no trials on ${machine} to draw`, {
      hint: `There are some on ${[...new Set(records.map((r) => r.machine))].join(', ') || 'no machine'}.`,
    });
  }
  const least = (lines: readonly Series[]) => Math.min(...lines.map(({ points }) => points.at(-1)!.y));
  const series = [...groups.values()]
    .map(linesOf)
    .sort((a, b) => least(a) - least(b))
    .flat()
    .slice(0, MOST_SERIES);
  if (series.length === 0) {
    throw new LutraError('usage', `all trials on ${machine} failed`, { hint: 'The records say how.' });
  }
  const longest = Math.max(...series.flatMap(({ points }) => points.map(({ x }) => x)));
  return linePlot({
    title: `Tuning on ${machine}`,
    subtitle: `${trials.length} trials, ${trials.filter((t) => t.outcome !== 'ok').length} of them failed`,
    x: 'trial',
    y: 'best time / time of the default',
    series,
    ticks: [0, 0.25, 0.5, 0.75, 1].map((share) => Math.round(share * longest)),
  });
}
