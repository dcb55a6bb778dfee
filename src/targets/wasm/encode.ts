/**
 * Writes a module in the WebAssembly binary format.
 *
 * An encoder of our own rather than binaryen: the format that a flat list of instructions needs is the
 * few functions below, while binaryen is 14 MB of JavaScript to ship to every browser, has no way to keep
 * the instructions exactly as chosen here, and its optimizer would have nothing left to do: what counts
 * (hoisting, addressing, SIMD selection) is decided where the loop IR is still known.
 */
import { GrowingBytes } from '../../common/growing-bytes.ts';
import type { Instr, ValType, WasmFunction, WasmModule } from './module.ts';
import { OPCODES } from './opcodes.ts';

const VAL_TYPES: Record<ValType, number> = { i32: 0x7f, i64: 0x7e, f32: 0x7d, v128: 0x7b };
const EMPTY_BLOCK = 0x40;

/** A growing array of bytes with the primitives of the format. */
class ByteWriter {
  readonly #out = new GrowingBytes(1024);

  byte(value: number): void {
    const at = this.#out.grow(1);
    this.#out.bytes[at] = value;
  }

  bytes(values: ArrayLike<number>): void {
    this.#out.append(values);
  }

  /** Unsigned LEB128, 0 <= value < 2^32. */
  unsigned(value: number): void {
    let rest = value;
    while (rest >= 0x80) {
      this.byte((rest % 0x80) | 0x80);
      rest = Math.floor(rest / 0x80);
    }
    this.byte(rest);
  }

  /** Signed LEB128 of an integer that a number holds exactly. */
  signed(value: number): void {
    let rest = value;
    while (rest < -64 || rest > 63) {
      this.byte((((rest % 0x80) + 0x80) % 0x80) | 0x80);
      rest = Math.floor(rest / 0x80);
    }
    this.byte(rest & 0x7f);
  }

  f32(value: number): void {
    const at = this.#out.grow(4);
    this.#out.view.setFloat32(at, value, true);
  }

  /** UTF-8 with its length. */
  name(text: string): void {
    this.sized((inner) => inner.bytes(new TextEncoder().encode(text)));
  }

  /** A count and that many items. */
  vector<T>(items: readonly T[], write: (item: T) => void): void {
    this.unsigned(items.length);
    for (const item of items) write(item);
  }

  /** What `write` writes, after its length in bytes. */
  sized(write: (inner: ByteWriter) => void): void {
    const inner = new ByteWriter();
    write(inner);
    this.unsigned(inner.#out.length);
    this.bytes(inner.take());
  }

  section(id: number, write: (inner: ByteWriter) => void): void {
    this.byte(id);
    this.sized(write);
  }

  take(): Uint8Array {
    return this.#out.written();
  }
}

function writeInstr(out: ByteWriter, [op, ...args]: Instr): void {
  const { prefix, code, immediate } = OPCODES[op];
  if (prefix === 0) {
    out.byte(code);
  } else {
    out.byte(prefix);
    out.unsigned(code);
  }
  switch (immediate) {
    case 'none':
      return;
    case 'index':
      out.unsigned(args[0]!);
      break;
    case 'i32':
    case 'i64':
      out.signed(args[0]!);
      break;
    case 'f32':
      out.f32(args[0]!);
      break;
    case 'memory':
      out.unsigned(args[0]!);
      out.unsigned(args[1]!);
      break;
    case 'memoryLane':
      out.unsigned(args[0]!);
      out.unsigned(args[1]!);
      out.byte(args[2]!);
      break;
    case 'lane':
      out.byte(args[0]!);
      break;
    case 'bytes':
      out.bytes(args);
      break;
    case 'block':
      out.byte(EMPTY_BLOCK);
      break;
  }
}

function writeCode(out: ByteWriter, fn: WasmFunction): void {
  out.sized((body) => {
    // Locals are declared in runs of one type.
    const runs: { count: number; type: ValType }[] = [];
    for (const { type } of fn.locals) {
      const last = runs.at(-1);
      if (last?.type === type) last.count++;
      else runs.push({ count: 1, type });
    }
    body.vector(runs, ({ count, type }) => {
      body.unsigned(count);
      body.byte(VAL_TYPES[type]);
    });
    for (const instr of fn.body) writeInstr(body, instr);
    writeInstr(body, ['end']);
  });
}

/** The module's bytes. */
export function encodeModule(module: WasmModule): Uint8Array {
  const out = new ByteWriter();
  out.bytes([0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00]);

  // One function type per distinct list of parameters.
  const signature = (fn: WasmFunction) => fn.params.map((param) => param.type).join(' ');
  const { imports: imported = [] } = module;
  const signatures = [...new Set([...imported.map(() => ''), ...module.functions.map(signature)])];
  out.section(1, (types) => {
    types.vector(signatures, (text) => {
      types.byte(0x60);
      const params = text === '' ? [] : (text.split(' ') as ValType[]);
      types.vector(params, (type) => types.byte(VAL_TYPES[type]));
      types.unsigned(0);
    });
  });

  out.section(2, (imports) => {
    imports.unsigned(1 + module.globals.length + imported.length);
    imports.name('env');
    imports.name('memory');
    imports.byte(2);
    imports.byte(module.memory.shared ? 3 : 1);
    imports.unsigned(module.memory.minPages);
    imports.unsigned(module.memory.maxPages);
    for (const global of module.globals) {
      imports.name('env');
      imports.name(global);
      imports.byte(3);
      imports.byte(VAL_TYPES.i32);
      imports.byte(0);
    }
    for (const name of imported) {
      imports.name('env');
      imports.name(name);
      imports.byte(0);
      imports.unsigned(signatures.indexOf(''));
    }
  });

  out.section(3, (functions) => {
    functions.vector(module.functions, (fn) => functions.unsigned(signatures.indexOf(signature(fn))));
  });

  out.section(7, (exports) => {
    const exported = module.functions.flatMap((fn, index) => (fn.exported ? [{ fn, index }] : []));
    exports.vector(exported, ({ fn, index }) => {
      exports.name(fn.name);
      exports.byte(0);
      exports.unsigned(imported.length + index);
    });
  });

  out.section(10, (code) => code.vector(module.functions, (fn) => writeCode(code, fn)));

  if (module.data.length > 0) {
    out.section(11, (data) => {
      data.vector(module.data, ({ at, bytes }) => {
        data.unsigned(0);
        writeInstr(data, ['i32.const', at | 0]);
        writeInstr(data, ['end']);
        data.unsigned(bytes.length);
        data.bytes(bytes);
      });
    });
  }

  for (const { name, bytes } of module.custom) {
    out.section(0, (custom) => {
      custom.name(name);
      custom.bytes(bytes);
    });
  }

  out.section(0, (custom) => {
    custom.name('name');
    custom.section(1, (names) => {
      names.vector([...module.functions.entries()], ([index, fn]) => {
        names.unsigned(imported.length + index);
        names.name(fn.name);
      });
    });
  });
  return out.take();
}
