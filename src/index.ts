/** lutra compiles low-bit language models into fast code for the hardware at hand, and runs them. */
export { type CompileOptions, compile } from './api/compile.ts';
export { type Converted, type ConvertOptions, convert } from './api/convert.ts';
export { type Embedder, loadEmbedder } from './api/embed.ts';
export { load } from './api/load.ts';
export { compileStandalone, type StandaloneCompileOptions } from './api/standalone.ts';
export { type TuneOptions, type TuneResult, tune } from './api/tune.ts';
export type { Extend, Extension } from './artifact/build.ts';
export type { Standalone } from './artifact/standalone.ts';
export { type ErrorCode, LutraError } from './common/errors.ts';
export { GraphBuilder } from './graph/builder.ts';
// What it takes to write operators and code generators of one's own: see examples/custom-operator.
export type { Graph, Node } from './graph/ir.ts';
export { coreOperators } from './graph/operators/core.ts';
export { partitionGraph } from './graph/partition.ts';
export { outputOf, pattern } from './graph/pattern.ts';
export { defineOperator, extendRegistry } from './graph/registry.ts';
export { FunctionBuilder } from './loops/builder.ts';
export * as expr from './loops/expr.ts';
export type { LoopFunction } from './loops/ir.ts';
export { parseFunction } from './loops/parse.ts';
export { type ExternalCodegen, externalKernels } from './plan/external.ts';
export type { OperatorKernel, OperatorKernels } from './plan/lower.ts';
export type {
  ChatMessage,
  FinishReason,
  GenerateOptions,
  Generation,
  GenerationResult,
  LoadOptions,
  Model,
  Progress,
  SamplingOptions,
  Session,
} from './runtime/types.ts';
