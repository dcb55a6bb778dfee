/**
 * Says how every constant lies in memory; src/encodings has the layouts.
 *
 * ```
 * const w: ternary[768, 256] = ...          const w: ternary[768, 256] @i2 = ...
 * const n: f32[256] = ...             ->    const n: f32[256] @padded-rows = ...
 * const embed: bf16[1024, 256] = ...        const embed: bf16[1024, 256] @padded-rows = ...
 * const rope: f32[512, 32] = ...            const rope: f32[512, 32] @rows = ...
 * const c: u4[768, 256] = ...               const c: u4[768, 256] @code-tiles = ...
 * const s: f16[768, 2] = scales(...)        const s: f16[768, 2] @group-lanes = scales(...)
 *
 * and with the option ternary = 't5b' or 'bit-planes', that instead of @i2, with lookup = [4], @bit-planes instead of @code-tiles,
 *
 * and with the option head = 'int8', where a head shares its table with the embedding, which stays:
 * y = matmul(x, embed)                ->    const embed.int8: bf16[1024, 256] @int8-rows = ...
 *                                           y = matmul(x, embed.int8)
 *
 * and with 'exact':
 * y = matmul(x, embed)                ->    const embed.scan: bf16[1024, 256] @int6-g64-scan = ...
 *                                           y = matmul.scanned(x, embed, embed.scan)
 * ```
 */
import { LutraError } from '../common/errors.ts';
import type { Constant, Graph, Node } from '../graph/ir.ts';
import { freshNames, type GraphIndex, indexGraph } from '../graph/rewrite.ts';
import { codeBits, isCode } from '../graph/types.ts';
import { headOf } from './head.ts';
import type { HeadForm, Pass, PassOptions } from './pass.ts';

/** Whether it is a table of angles, whatever its source: what attention reads without padding. */
function isRopeTable({ name, source }: Constant, { usersOf }: GraphIndex): boolean {
  const turnsBy = ({ op, inputs }: Node) =>
    (op === 'rope' || op === 'attention.packed') && inputs[1] === name;
  return source.kind === 'rope-table' || usersOf(name).some(turnsBy);
}

/** Whether it is the scales or zeros of groups or blocks, whatever their source. */
function isOfGroups({ name }: Constant, { usersOf }: GraphIndex): boolean {
  return usersOf(name).some(({ op, inputs }) => {
    if (op === 'lowbit.matmul.group') return inputs[4] === name || inputs[5] === name;
    if (op.startsWith('lowbit.matmul.blocks')) return inputs.lastIndexOf(name) >= 4;
    return op === 'lowbit.matmul.group.add' && (inputs[4] === name || inputs[6] === name);
  });
}

/** Whether the groups of a matrix of codes are wide enough for tables. */
function canLookUp({ name }: Constant, { usersOf }: GraphIndex): boolean {
  return usersOf(name).every(
    ({ op, attrs }) =>
      op.startsWith('lowbit.matmul.group') && Number(attrs.activationGroup) >= NARROWEST_LOOKUP,
  );
}

function defaultEncoding(
  constant: Constant,
  index: GraphIndex,
  { ternary = 'i2', lookup = [] }: PassOptions,
): string {
  const { dtype } = constant.type;
  if (dtype === 'ternary') return ternary;
  if (dtype === 'i32') return 'rows';
  if (isOfGroups(constant, index)) return 'group-lanes';
  if (isCode(dtype)) {
    const looksUp = lookup.includes(codeBits(dtype)!) && canLookUp(constant, index);
    return looksUp ? 'bit-planes' : 'code-tiles';
  }
  return isRopeTable(constant, index) ? 'rows' : 'padded-rows';
}

/** Columns of the narrowest groups that kernels look up; narrower ones they multiply. */
const NARROWEST_LOOKUP = 32;

/** Encodings of heads that are rounded. */
const ROUNDED: Readonly<Record<Exclude<HeadForm, 'stored' | 'exact' | 'none'>, string>> = {
  int8: 'int8-rows',
  int6: 'int6-g64',
  int4: 'int4-g32',
};

/** What `exact` heads are scanned by. */
const SCAN = 'int6-g64-scan';

/**
 * Gives every product by floats, as output heads are, a rounded table: the one it has, if nothing but such products
 * reads that.
 */
function quantizeHeads(graph: Graph, form: keyof typeof ROUNDED): Graph {
  const index = indexGraph(graph);
  const fresh = freshNames(graph);
  const readsAsHead = (node: Node, name: string) => node.op === 'matmul' && node.inputs[1] === name;
  const rounded = new Map<string, Constant>();
  for (const node of graph.nodes) {
    const table = node.op === 'matmul' ? index.constants.get(node.inputs[1]!) : undefined;
    if (table === undefined || table.encoding !== undefined || rounded.has(table.name)) continue;
    const shared = index.usersOf(table.name).some((user) => !readsAsHead(user, table.name));
    const name = shared ? fresh(`${table.name}.${form}`) : table.name;
    rounded.set(table.name, { ...table, name, encoding: ROUNDED[form] });
  }
  const kept = graph.constants.map((constant) => {
    const head = rounded.get(constant.name);
    return head?.name === constant.name ? head : constant;
  });
  return {
    ...graph,
    constants: [
      ...kept,
      ...[...rounded].filter(([name, head]) => head.name !== name).map(([, head]) => head),
    ],
    nodes: graph.nodes.map((node) => {
      const head = node.op === 'matmul' ? rounded.get(node.inputs[1]!) : undefined;
      return head === undefined ? node : { ...node, inputs: [node.inputs[0]!, head.name] };
    }),
  };
}

/** Gives the head that computes the logits a table to scan beside its own. */
function scanHeads(graph: Graph): Graph {
  const index = indexGraph(graph);
  const fresh = freshNames(graph);
  const heads = new Set(graph.outputs.map((name) => headOf(index, name)?.node));
  const added: Constant[] = [];
  const nodes = graph.nodes.map((node): Node => {
    const table = heads.has(node) ? index.constants.get(node.inputs[1]!) : undefined;
    if (table === undefined) return node;
    const scan = { ...table, name: fresh(`${table.name}.scan`), encoding: SCAN };
    added.push(scan);
    return { ...node, op: 'matmul.scanned', inputs: [...node.inputs, scan.name] };
  });
  return { ...graph, constants: [...graph.constants, ...added], nodes };
}

function withHeads(graph: Graph, head: HeadForm): Graph {
  if (head === 'stored' || head === 'none') return graph;
  const index = indexGraph(graph);
  if (graph.outputs.some((name) => headOf(index, name)?.ofCodes === true)) {
    throw new LutraError(
      'usage',
      `the output head of ${graph.name} is integers in its file: no head ${head}`,
      {
        hint: 'Leave out --head: it is read as it is stored.',
      },
    );
  }
  return head === 'exact' ? scanHeads(graph) : quantizeHeads(graph, head);
}

function run(graph: Graph, options: PassOptions): Graph {
  if (graph.constants.every((constant) => constant.encoding !== undefined)) return graph;
  const changed = withHeads(graph, options.head);
  const index = indexGraph(changed);
  const constants = changed.constants.map((constant) =>
    constant.encoding === undefined
      ? {
          ...constant,
          encoding: options.encodings?.get(constant.name) ?? defaultEncoding(constant, index, options),
        }
      : constant,
  );
  return { ...changed, constants };
}

export const chooseEncodings: Pass = { name: 'choose-encodings', run };
