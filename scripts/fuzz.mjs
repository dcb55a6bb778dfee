// npm run fuzz -- [--runs 1000000] [--seed 51] [--only PARSER]: test/fuzz.test.ts with as many inputs for each parser.
import { spawnSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import { root } from './setup.mjs';

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '1000000' },
    seed: { type: 'string', default: '51' },
    only: { type: 'string' },
  },
});
const { status } = spawnSync(
  process.execPath,
  [`${root}/node_modules/vitest/vitest.mjs`, 'run', 'test/fuzz.test.ts', '--reporter', 'verbose'],
  {
    cwd: root,
    stdio: 'inherit',
    env: {
      ...process.env,
      LUTRA_FUZZ_RUNS: values.runs,
      LUTRA_FUZZ_SEED: values.seed,
      ...(values.only === undefined ? {} : { LUTRA_FUZZ_ONLY: values.only }),
    },
  },
);
process.exitCode = status ?? 1;
