/** lutra compiles low-bit language models into fast code for the hardware at hand, and runs them. */
export { type CompileOptions, compile } from './api/compile.ts';
export { load } from './api/load.ts';
export { type ErrorCode, LutraError } from './common/errors.ts';
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
