/**
 * What is measured, suite by suite. Each gives figures: `{ id, title, unit, median, min, max, repetitions, ... }`.
 * A rate has 2 threads or 1 as the goals do, and on larger machines also 4, 8, ... up to the cores.
 */
import { batch } from './suites/batch.mjs';
import { bitnet3b } from './suites/bitnet-3b.mjs';
import { busy } from './suites/busy.mjs';
import { context } from './suites/context.mjs';
import { compile, load, memory } from './suites/costs.mjs';
import { defaults } from './suites/defaults.mjs';
import { llama2 } from './suites/llama2.mjs';
import { native } from './suites/native.mjs';
import { speculation } from './suites/speculation.mjs';
import { wasm } from './suites/wasm.mjs';

/** In the order they run. */
export const SUITES = {
  native,
  wasm,
  context,
  batch,
  'bitnet-3b': bitnet3b,
  llama2,
  busy,
  speculation,
  memory,
  load,
  compile,
  defaults,
};
