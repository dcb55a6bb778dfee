// `npm start` answers a prompt with the embedded model; `npm start -- "a prompt" [options of lutra run]`.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { root, setup } from './setup.mjs';

const DEFAULT_PROMPT = 'What is 4 + 106?';

for (const note of setup(['compiler'])) console.error(note);
const given = process.argv.slice(2);
if (given.length === 0) console.error(`> ${DEFAULT_PROMPT}`);
const args = ['run', 'embedded', ...(given.length === 0 ? [DEFAULT_PROMPT] : given)];
const { status, signal } = spawnSync(process.execPath, [join(root, 'dist', 'cli', 'main.js'), ...args], {
  stdio: 'inherit',
});
process.exit(status ?? (signal === 'SIGINT' ? 130 : 1));
