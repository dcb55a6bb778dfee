/** What targets share about steps that compute only some logits: bounds first, then what they leave open. */
import { pairTables, type StepTables } from '../loops/step.ts';
import type { Logits, MemoryNeeds, SelectRequest } from './executable.ts';

/** Outputs of a step that may be bounded: their activations stay in memory, whatever the block. */
const MAX_OUTPUTS = 16;

interface SelectedStep {
  readonly requests: readonly SelectRequest[];
  /** For all logits, and for their bounds. */
  readonly full: StepTables;
  readonly scan: StepTables;
  readonly needs: MemoryNeeds;
  /** Runs main: what it writes to the first `floats` of the logits. */
  readonly run: (tables: StepTables, floats: number) => Promise<Float32Array>;
}

/** One step, and one without tokens if bounds leave something open. Nothing may run in between. */
export async function selectLogits(step: SelectedStep): Promise<readonly (readonly Logits[])[]> {
  const { requests, full, scan, needs, run } = step;
  const { vocab, logitsStride } = needs;
  const total = full.rows.reduce((sum, count) => sum + count, 0);
  const rowsOf = (all: Float32Array, from: number, count: number) =>
    Array.from({ length: count }, (_, i) => {
      const at = (from + i) * logitsStride;
      return all.subarray(at, at + vocab);
    });
  const chosen: Int32Array[] = [];
  if (needs.scans === true && total <= MAX_OUTPUTS) {
    const bounds = await run(scan, 2 * total * logitsStride);
    const [low, high] = [rowsOf(bounds, 0, total), rowsOf(bounds, total, total)];
    scan.rows.forEach((count, r) => {
      for (let output = 0; output < count; output++) {
        const at = chosen.length;
        const ids = requests[r]!.select(low[at]!, high[at]!, output);
        if (ids === undefined) return;
        chosen.push(ids);
      }
    });
  }
  const wanted = chosen.length === total ? await exact(chosen, run) : undefined;
  const logits: readonly Logits[] = wanted ?? rowsOf(await run(full, total * logitsStride), 0, total);
  let next = 0;
  return full.rows.map((count) => {
    const own = logits.slice(next, next + count);
    next += count;
    return own;
  });
}

/** The stored table's products with the rows chosen for each output. */
async function exact(chosen: readonly Int32Array[], run: SelectedStep['run']): Promise<readonly Logits[]> {
  const pairs = new Int32Array(2 * chosen.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  chosen.forEach((ids, output) => {
    for (const id of ids) {
      pairs[at++] = output;
      pairs[at++] = id;
    }
  });
  const values = pairs.length > 0 ? await run(pairTables(pairs), pairs.length / 2) : new Float32Array(0);
  let from = 0;
  return chosen.map((ids) => {
    const own = values.subarray(from, from + ids.length);
    from += ids.length;
    return { ids, values: own };
  });
}
