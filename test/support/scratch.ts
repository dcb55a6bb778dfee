import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll } from 'vitest';

/** A folder for the tests of a file, removed after them; until then it holds lutra's cache, too. */
export function scratchWithCache(name: string): string {
  const scratch = mkdtempSync(join(tmpdir(), `lutra-${name}-`));
  const cacheBefore = process.env.LUTRA_CACHE;
  beforeAll(() => {
    process.env.LUTRA_CACHE = join(scratch, 'cache');
  });
  afterAll(() => {
    if (cacheBefore === undefined) delete process.env.LUTRA_CACHE;
    else process.env.LUTRA_CACHE = cacheBefore;
    rmSync(scratch, { recursive: true, force: true });
  });
  return scratch;
}
