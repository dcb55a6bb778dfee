import { expect, it } from 'vitest';
import { hugePagesObstacle } from './huge-pages.ts';

it('says why huge pages are not used', () => {
  const facts = {
    target: 'c:avx2',
    platform: 'linux',
    setting: 'always [madvise] never',
    weightsBytes: 1e9,
    memoryBytes: 4e9,
    mainThread: true,
  };
  expect(hugePagesObstacle(facts)).toBeUndefined();
  expect(hugePagesObstacle({ ...facts, target: 'wasm:relaxed' })).toContain('native code, and wasm:relaxed');
  expect(hugePagesObstacle({ ...facts, platform: 'darwin' })).toContain('Linux');
  expect(hugePagesObstacle({ ...facts, setting: 'always madvise [never]' })).toContain('turned off');
  expect(hugePagesObstacle({ ...facts, setting: undefined })).toContain('turned off');
  expect(hugePagesObstacle({ ...facts, weightsBytes: 3e9 })).toContain('half of the memory');
  expect(hugePagesObstacle({ ...facts, mainThread: false })).toContain('worker thread');
});
