/**
 * Runs the loop IR on bytes. This is the definition of what the IR means, bit for bit; only the bits of NaNs
 * are left open (one NaN may come out as another).
 *
 * It checks what targets take on trust and throws a LutraError with the function and the statement: bounds of
 * every load and store, the promises of dot2, dot4 and lookups, division, conversions to i32. Local arrays
 * start as bytes of 0xff, which no kernel should ever see.
 */
import { LutraError } from '../common/errors.ts';
import { int } from './expr.ts';
import { scalarCode } from './interpret/expressions.ts';
import { type BufferSlot, type Frame, newElements, type Register, viewElements } from './interpret/frame.ts';
import { blockCode, type Surroundings } from './interpret/statements.ts';
import { type Expr, type LoopFunction, MAIN_BUFFERS, type Program } from './ir.ts';
import { printStatementHead } from './print.ts';
import { type StepSequence, stepTables } from './step.ts';
import { threadExtent, threadLoop, threadRange } from './thread.ts';

export interface FunctionArguments {
  /** The memory of the buffers, in parameter order, aligned to their elements. */
  readonly buffers: readonly Uint8Array[];
  readonly scalars: readonly number[];
  /** Limits the thread loop to these iterations; without it the whole loop runs. */
  readonly range?: { readonly begin: number; readonly end: number };
}

export interface ProgramArguments {
  /** By the names of MAIN_BUFFERS, each aligned to 4 bytes. */
  readonly buffers: Readonly<Record<'weights' | 'arena' | 'cache' | 'logits', Uint8Array>>;
  readonly sequences: readonly StepSequence[];
  /** Asks for bounds of the logits, in a program that has them. */
  readonly scan?: boolean;
  /** How many parts the thread loop of each call is split into; the parts run one after the other. */
  readonly threads?: number;
}

type CompiledFunction = (args: FunctionArguments) => void;

function inFunction<T>(frame: Frame, run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof LutraError) || error.message.startsWith('interpreter:')) throw error;
    const where = frame.current === undefined ? '' : `, at "${printStatementHead(frame.current)}"`;
    throw new LutraError(error.code, `interpreter: in ${frame.fn.name}${where}: ${error.message}`, {
      cause: error,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
    });
  }
}

function newFrame(fn: LoopFunction): Frame {
  const buffers = new Map<string, BufferSlot>();
  for (const { name, elem } of fn.buffers) buffers.set(name, { kind: elem, memory: newElements(elem, 0) });
  for (const { name, elem, size } of fn.locals) {
    buffers.set(name, { kind: elem, memory: newElements(elem, size) });
  }
  const registers = new Map<string, Register>();
  for (const { name } of fn.scalars) registers.set(name, { shape: 'scalar', value: 0 });
  return { fn, buffers, registers, current: undefined };
}

function setArguments(frame: Frame, args: FunctionArguments): void {
  const { fn, buffers, registers } = frame;
  if (args.buffers.length !== fn.buffers.length || args.scalars.length !== fn.scalars.length) {
    throw new LutraError(
      'internal',
      `${args.buffers.length} buffers and ${args.scalars.length} scalars were passed for ` +
        `${fn.buffers.length} and ${fn.scalars.length}`,
    );
  }
  fn.buffers.forEach((param, i) => {
    buffers.get(param.name)!.memory = viewElements(param.elem, args.buffers[i]!);
  });
  fn.scalars.forEach((param, i) => {
    const value = args.scalars[i]!;
    const register = registers.get(param.name)!;
    if (register.shape === 'scalar') register.value = param.kind === 'f32' ? Math.fround(value) : value | 0;
  });
  for (const local of fn.locals) buffers.get(local.name)!.memory.bytes.fill(0xff);
}

function compileFunction(
  fn: LoopFunction,
  { call, barrier }: Pick<Surroundings, 'call' | 'barrier'> = { call: undefined },
): CompiledFunction {
  const frame = newFrame(fn);
  const around: Surroundings = { range: undefined, call, ...(barrier === undefined ? {} : { barrier }) };
  const splittable = threadLoop(fn) !== undefined;
  const body = inFunction(frame, () => blockCode(frame, around, fn.body));
  return (args) => {
    frame.current = undefined;
    around.range = args.range;
    inFunction(frame, () => {
      if (args.range !== undefined && !splittable) {
        throw new LutraError('internal', 'a range was given but there is no thread loop');
      }
      setArguments(frame, args);
      body();
    });
  };
}

const compiledFunctions = new WeakMap<LoopFunction, CompiledFunction>();

function compiled(fn: LoopFunction): CompiledFunction {
  let code = compiledFunctions.get(fn);
  if (code === undefined) {
    code = compileFunction(fn);
    compiledFunctions.set(fn, code);
  }
  return code;
}

/** Runs one kernel. The buffers are read and written in place. */
export function runFunction(fn: LoopFunction, args: FunctionArguments): void {
  compiled(fn)(args);
}

/** The value of an expression over scalar parameters alone, such as `threadExtent` returns. */
function extentOf(fn: LoopFunction, extent: Expr): (scalars: readonly number[]) => number {
  const frame = newFrame({ ...fn, buffers: [], locals: [] });
  const code = inFunction(frame, () => scalarCode(frame, extent));
  return (scalars) =>
    inFunction(frame, () => {
      setArguments(frame, { buffers: [], scalars });
      return code();
    });
}

type CompiledProgram = (threads: number, args: FunctionArguments) => void;

function compileProgram(program: Program): CompiledProgram {
  let threads = 1;
  const kernels = new Map(
    program.functions.map((fn) => {
      const extent = threadExtent(fn);
      return [fn.name, { fn, extent: extent && extentOf(fn, extent) }];
    }),
  );
  const call: Surroundings['call'] = (name, buffers, scalars) => {
    const kernel = kernels.get(name);
    if (kernel === undefined) throw new LutraError('internal', `there is no function ${name}`);
    const { fn, extent } = kernel;
    if (extent === undefined) throw new LutraError('internal', `${name} has no thread loop`);
    const total = Math.max(0, extent(scalars));
    for (let thread = 0; thread < threads; thread++) {
      runFunction(fn, { buffers, scalars, range: threadRange(total, thread, threads) });
    }
  };
  const main = compileFunction(program.main, { call });
  return (count, args) => {
    threads = count;
    main(args);
  };
}

const compiledPrograms = new WeakMap<Program, CompiledProgram>();

/** Iterations of a function's thread loop for these scalar arguments. Throws `internal` if it has none. */
export function threadIterations(fn: LoopFunction, scalars: readonly number[]): number {
  const extent = threadExtent(fn);
  if (extent === undefined) throw new LutraError('internal', `loop IR: ${fn.name} has no thread loop`);
  const out = new Int32Array(1);
  const evaluate: LoopFunction = {
    name: `${fn.name}_extent`,
    buffers: [{ name: 'extentOut', elem: 'i32', access: 'write' }],
    scalars: fn.scalars,
    locals: [],
    body: [{ kind: 'store', buffer: 'extentOut', index: int(0), value: extent }],
  };
  runFunction(evaluate, { buffers: [new Uint8Array(out.buffer)], scalars });
  return out[0]!;
}

function mainArguments({
  buffers,
  sequences: parts,
  scan,
}: Omit<ProgramArguments, 'threads'>): FunctionArguments {
  const { tokens, sequences, outputs } = stepTables(parts, scan);
  const bytes = (table: Int32Array) => new Uint8Array(table.buffer);
  const memory = {
    ...buffers,
    tokens: bytes(tokens),
    sequences: bytes(sequences),
    outputs: bytes(outputs),
  };
  return {
    buffers: MAIN_BUFFERS.map(({ name }) => memory[name as keyof typeof memory]),
    scalars: [tokens.length, parts.length],
  };
}

/** Runs one forward step. Arena, cache and logits are written in place. */
export function runProgram(program: Program, args: ProgramArguments): void {
  let code = compiledPrograms.get(program);
  if (code === undefined) {
    code = compileProgram(program);
    compiledPrograms.set(program, code);
  }
  code(args.threads ?? 1, mainArguments(args));
}

/**
 * Goes through `main` without running kernels: tells of each call, with views of the given memory that begin
 * where the call's buffers do, and of each barrier.
 */
export function walkMain(
  main: LoopFunction,
  args: Omit<ProgramArguments, 'threads'>,
  on: Required<Pick<Surroundings, 'barrier'>> & { readonly call: NonNullable<Surroundings['call']> },
): void {
  compileFunction(main, on)(mainArguments(args));
}
