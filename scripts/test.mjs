// `npm test`: installs what is missing, then lint (which includes types and layering) and all suites.
// `npm test -- FILTER` runs the suites whose path contains FILTER, after the same lint.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { root, setup } from './setup.mjs';

const notes = setup(['compiler', 'simde', 'arm', 'standalone', 'browser']);

const lint = spawnSync('npm', ['run', '--silent', 'lint'], {
  cwd: root,
  stdio: 'inherit',
  shell: process.platform === 'win32',
});

const scratch = mkdtempSync(join(tmpdir(), 'lutra-test-'));
const report = join(scratch, 'report.json');
const vitest = spawnSync(
  process.execPath,
  [
    join(root, 'node_modules', 'vitest', 'vitest.mjs'),
    'run',
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
    ...process.argv.slice(2),
  ],
  // Tests of the command line run this build instead of making their own.
  { cwd: root, stdio: 'inherit', env: { ...process.env, LUTRA_TEST_DIST: join(root, 'dist') } },
);
const results = existsSync(report) ? JSON.parse(readFileSync(report, 'utf8')).testResults : [];
rmSync(scratch, { recursive: true, force: true });

const counts = { passed: 0, failed: 0, skipped: 0 };
for (const { name, status, assertionResults } of results) {
  // A file that could not even be loaded has no tests to count.
  if (status === 'failed' && assertionResults.length === 0) counts.failed++;
  let skipped = 0;
  for (const test of assertionResults) {
    if (test.status === 'passed') counts.passed++;
    else if (test.status === 'failed') counts.failed++;
    else skipped++;
  }
  if (skipped > 0) console.log(`skipped: ${relative(root, name)} (${skipped} of ${assertionResults.length})`);
  counts.skipped += skipped;
}
for (const note of notes) console.log(`note: ${note}`);

// Errors outside of tests fail the run too, and must be seen in the closing line.
if (vitest.status !== 0 && counts.failed === 0) counts.failed++;
console.log(`lint ${lint.status === 0 ? 'passed' : 'failed'}`);
if (lint.status === 0) counts.passed++;
else counts.failed++;
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exit(counts.failed === 0 ? 0 : 1);
