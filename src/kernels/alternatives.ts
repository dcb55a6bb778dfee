/**
 * Products that can be computed in several ways with equal results: by kernels of other families, from weights in
 * other encodings. Which one a constant gets is chosen with its encoding, for all kernels that read it.
 */
import { PLANE_BITS } from '../encodings/bit-planes.ts';
import type { AnyKernel, PlainRecord } from './kernel.ts';
import { rowTables } from './lowbit-lut.ts';

/** A kernel of some shape, without its schedule. */
interface Use extends Pick<AnyKernel, 'op' | 'family'> {
  readonly shape: PlainRecord;
}

export interface Alternative extends Use {
  /** What has to run before it, where other families need nothing. */
  readonly before?: Use;
}

/** Fields of shapes that differ among the ways of computing one product. */
const CHOSEN: readonly string[] = ['encoding', 'tables'];

/**
 * Equal for kernels that compute the same product, whatever their family and the encoding of the weights; undefined
 * for kernels of which there is but one kind. With `anyBatch` it is also equal for one token and for many.
 */
export function productKey({ op, shape }: Use, anyBatch = false): string | undefined {
  if (shape.encoding === undefined) return undefined;
  const same = Object.entries(shape).filter(
    ([name]) => !CHOSEN.includes(name) && !(anyBatch && name === 'batch'),
  );
  return JSON.stringify([op, same.sort(([a], [b]) => (a < b ? -1 : 1))]);
}

/** All ways to compute what a kernel does, with the same results; the given one comes first. */
export function alternatives({ op, family, shape }: Use): readonly Alternative[] {
  const given = withTables({ op, family, shape });
  return [given, ...others(given)];
}

function others({ op, family, shape }: Use): readonly Alternative[] {
  if (op === 'lowbit.matmul') {
    const forms = { i2: 'mad', t5b: 'mad', 'bit-planes': 'lut' };
    return Object.entries(forms)
      .filter(([encoding]) => encoding !== shape.encoding)
      .map(([encoding, family]) => withTables({ op, family, shape: { ...shape, encoding } }));
  }
  const { tables = 'exact', ...rest } = shape;
  if (op !== 'lowbit.matmul.group' || tables === 'int8' || tables === 'fast') return [];
  if (!PLANE_BITS.some((bits) => bits === shape.bits)) return [];
  const planes = { ...rest, encoding: 'bit-planes' };
  return [
    { op, family: 'mad', shape: { ...rest, encoding: 'code-tiles' } },
    withTables({ op, family: 'lut', shape: { ...planes, tables: 'exact' } }),
    withTables({ op, family: 'popcount', shape: { ...planes, tables: 'bits' } }),
  ].filter((other) => other.family !== family);
}

/** Lookups of one token need its tables first; several tokens are multiplied, but by means (`fast`). */
function withTables(use: Use): Alternative {
  const { batch, k, activationGroup, to, tables } = use.shape;
  if (!use.op.startsWith('lowbit.matmul') || use.family === 'mad') return use;
  if (batch === 'many' && tables !== 'fast') return use;
  const shape =
    use.op === 'lowbit.matmul'
      ? { ...rowTables(Number(k)) }
      : { k: k!, activationGroup: activationGroup!, to: to!, tables: tables! };
  return { ...use, before: { op: 'lut.tables', family: 'default', shape } };
}
