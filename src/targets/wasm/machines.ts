/** The WebAssembly machines, and which of them this engine runs. */
import type { Machine } from '../../loops/machine.ts';
import type { Platform } from '../../platform/platform.ts';
import { encodeModule } from './encode.ts';
import { engine } from './engine.ts';
import type { Instr, WasmFunction, WasmModule } from './module.ts';

export type WasmMachine = Machine;

const COMMON = {
  vectorBytes: 16,
  // Of x86-64; others have more.
  vectorRegisters: 16,
  dotCodeMax: 127,
  joinsStores: true,
  l1Bytes: 32 << 10,
  l2Bytes: 512 << 10,
} as const;

/** For engines that make one instruction (vpdpbusd, sdot) of relaxed_dot_add. */
const RELAXED_DOT4: WasmMachine = {
  ...COMMON,
  name: 'wasm:relaxed-dot4',
  native: new Set(['dot2', 'dot4', 'madd', 'lookup16', 'averageRound']),
};

/** For engines that make three of it (Node 20 always, later ones on processors without VNNI). */
const RELAXED: WasmMachine = {
  ...COMMON,
  name: 'wasm:relaxed',
  native: new Set(['dot2', 'madd', 'lookup16', 'averageRound']),
};

const BASELINE: WasmMachine = {
  ...COMMON,
  name: 'wasm:baseline',
  native: new Set(['madd', 'lookup16', 'averageRound']),
};

export const WASM_MACHINES: readonly WasmMachine[] = [RELAXED_DOT4, RELAXED, BASELINE];

function probeModule(functions: readonly WasmFunction[]): Uint8Array {
  const module: WasmModule = {
    memory: { minPages: 1, maxPages: 1, shared: false },
    globals: [],
    functions,
    data: [],
    custom: [],
  };
  return encodeModule(module);
}

/** A v128 with this in every byte. */
const bytes = (value: number): Instr => ['v128.const', ...new Array<number>(16).fill(value)];

function snippet(...body: Instr[]): WasmFunction {
  return { name: 'probe', params: [], locals: [], body, exported: true };
}

function instantiate(functions: readonly WasmFunction[]) {
  const memory = new engine.Memory({ initial: 1, maximum: 1, shared: false });
  const module = new engine.Module(probeModule(functions));
  const { exports } = new engine.Instance(module, { env: { memory } });
  return { exports, memory };
}

/** Whether relaxed_dot_add adds: the baseline compiler of Node 20 overwrites the sum before it is read. */
function dotAddIsRight(): boolean {
  const [address, sum]: Instr[] = [
    ['i32.const', 0],
    ['v128.const', 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0],
  ];
  const dotAdd: Instr = ['i32x4.relaxed_dot_i8x16_i7x16_add_s'];
  const { exports, memory } = instantiate([
    snippet(address!, bytes(0x9c), bytes(100), sum!, dotAdd, ['v128.store', 4, 0]),
  ]);
  exports.probe!();
  // 0x9c is -100.
  return [1, 2, 3, 4].every((x, lane) => new Int32Array(memory.buffer)[lane] === x - 4 * 100 * 100);
}

const CHAIN = 64;
const ROUNDS = 100;
const REPEATS = 20;

/**
 * Runs products that each wait for the one before: x = product(x, codes). `dot` takes the operands from
 * the stack.
 */
function chain(name: string, dot: readonly Instr[]): WasmFunction {
  const [x, rounds] = [0, 1];
  const link: Instr[] = [['local.get', x], bytes(0), ...dot, ['local.set', x]];
  return {
    name,
    params: [],
    locals: [
      { name: 'x', type: 'v128' },
      { name: 'rounds', type: 'i32' },
    ],
    body: [
      ['i32.const', ROUNDS],
      ['local.set', rounds],
      ['loop'],
      ...Array.from({ length: CHAIN }, () => link).flat(),
      ['local.get', rounds],
      ['i32.const', 1],
      ['i32.sub'],
      ['local.tee', rounds],
      ['br_if', 0],
      ['end'],
      ['i32.const', 0],
      ['local.get', x],
      ['v128.store', 4, 0],
    ],
    exported: true,
  };
}

/**
 * Whether relaxed_dot_add is about as quick as relaxed_dot. Measured, since neither the version of the
 * engine nor what a page can learn of the processor tells: as one instruction both take 4 to 5 cycles,
 * written out dot_add takes 11. Takes about a millisecond.
 */
function dotAddIsOneInstruction(): boolean {
  const { exports } = instantiate([
    chain('dot', [['i16x8.relaxed_dot_i8x16_i7x16_s']]),
    chain('dotAdd', [bytes(0), ['i32x4.relaxed_dot_i8x16_i7x16_add_s']]),
  ]);
  const best = { dot: Number.POSITIVE_INFINITY, dotAdd: Number.POSITIVE_INFINITY };
  for (let repeat = 0; repeat < REPEATS; repeat++) {
    for (const name of ['dot', 'dotAdd'] as const) {
      const start = performance.now();
      exports[name]!();
      best[name] = Math.min(best[name], performance.now() - start);
    }
  }
  return best.dotAdd < 1.5 * best.dot;
}

let detected: readonly WasmMachine[] | undefined;

/** The machines that this engine runs, best first. Empty if it has no SIMD at all. */
export function detectWasmMachines(platform: Platform): readonly WasmMachine[] {
  platform.unlockEngine();
  detected ??= detect();
  return detected;
}

function detect(): readonly WasmMachine[] {
  const runs = (...body: Instr[]) => engine.validate(probeModule([snippet(...body, ['drop'])]));
  if (!runs(bytes(0))) return [];
  if (!runs(bytes(0), bytes(0), ['i16x8.relaxed_dot_i8x16_i7x16_s'])) return [BASELINE];
  if (!dotAddIsRight()) return [RELAXED, BASELINE];
  return dotAddIsOneInstruction() ? WASM_MACHINES : [RELAXED, RELAXED_DOT4, BASELINE];
}
