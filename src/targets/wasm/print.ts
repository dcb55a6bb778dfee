/** Prints a module as WebAssembly text, instruction by instruction, as `lutra inspect --stage code` shows it. */
import type { Instr, WasmFunction, WasmModule } from './module.ts';
import { OPCODES, type OpName } from './opcodes.ts';

// Text names may hold letters, digits and some punctuation; names in the loop IR are identifiers already.
const id = (name: string) => `$${name.replace(/[^A-Za-z0-9_.:]/g, '_')}`;

function hex(bytes: Iterable<number>): string {
  let text = '';
  for (const byte of bytes) text += `\\${byte.toString(16).padStart(2, '0')}`;
  return text;
}

function floatText(value: number): string {
  if (Number.isNaN(value)) return 'nan';
  if (!Number.isFinite(value)) return value < 0 ? '-inf' : 'inf';
  return Object.is(value, -0) ? '-0' : String(value);
}

/** `offset=` and `align=` as the text format writes them: left out where they say nothing. */
function memoryText(align: number, offset: number): string {
  return `${offset === 0 ? '' : ` offset=${offset}`} align=${2 ** align}`;
}

function vectorText(bytes: readonly number[]): string {
  const view = new DataView(Uint8Array.from(bytes).buffer);
  const words = [0, 4, 8, 12].map((at) => `0x${view.getUint32(at, true).toString(16).padStart(8, '0')}`);
  return `i32x4 ${words.join(' ')}`;
}

function functionName({ imports = [], functions }: WasmModule, index: number): string {
  return imports[index] ?? functions[index - imports.length]!.name;
}

function instrText([op, ...args]: Instr, locals: readonly string[], module: WasmModule): string {
  const [first = 0, second = 0, third = 0] = args;
  switch (OPCODES[op].immediate) {
    case 'none':
    case 'block':
      return op;
    case 'index': {
      if (op.startsWith('local.')) return `${op} ${locals[first]}`;
      if (op === 'global.get') return `${op} ${id(module.globals[first]!)}`;
      if (op === 'call') return `${op} ${id(functionName(module, first))}`;
      return `${op} ${first}`;
    }
    case 'i32':
    case 'i64':
    case 'lane':
      return `${op} ${first}`;
    case 'f32':
      return `${op} ${floatText(first)}`;
    case 'memory':
      return `${op}${memoryText(first, second)}`;
    case 'memoryLane':
      return `${op}${memoryText(first, second)} ${third}`;
    case 'bytes':
      return `${op} ${op === 'v128.const' ? vectorText(args) : args.join(' ')}`;
  }
}

const OPENS: ReadonlySet<OpName> = new Set(['block', 'loop', 'if']);

function printFunction(fn: WasmFunction, module: WasmModule): string {
  // Scopes may reuse a name: the number of the local keeps them apart.
  const all = [...fn.params, ...fn.locals];
  const count = new Map<string, number>();
  for (const { name } of all) count.set(name, (count.get(name) ?? 0) + 1);
  const names = all.map(({ name }, index) => id(count.get(name) === 1 ? name : `${name}.${index}`));
  const declare = (word: string, from: number, to: number) =>
    all.slice(from, to).map(({ type }, i) => `(${word} ${names[from + i]} ${type})`);

  const head = [
    `(func ${id(fn.name)}`,
    ...(fn.exported ? [`(export "${fn.name}")`] : []),
    ...declare('param', 0, fn.params.length),
  ].join(' ');
  const lines = [`  ${head}`];
  for (const local of declare('local', fn.params.length, all.length)) lines.push(`    ${local}`);
  let depth = 2;
  for (const instr of fn.body) {
    const op = instr[0];
    if (op === 'end' || op === 'else') depth--;
    lines.push(`${'  '.repeat(depth)}${instrText(instr, names, module)}`);
    if (OPENS.has(op) || op === 'else') depth++;
  }
  lines.push('  )');
  return lines.join('\n');
}

/** The whole module; assembles to the same code as `encodeModule` gives. */
export function printModule(module: WasmModule): string {
  const { minPages, maxPages, shared } = module.memory;
  return [
    '(module',
    `  (import "env" "memory" (memory ${minPages} ${maxPages}${shared ? ' shared' : ''}))`,
    ...module.globals.map((name) => `  (import "env" "${name}" (global ${id(name)} i32))`),
    ...(module.imports ?? []).map((name) => `  (import "env" "${name}" (func ${id(name)}))`),
    ...module.functions.map((fn) => printFunction(fn, module)),
    ...module.data.map(({ at, bytes }) => `  (data (i32.const ${at}) "${hex(bytes)}")`),
    ')',
    '',
  ].join('\n');
}
