import { expect, test } from 'vitest';
import type { Executable } from '../targets/executable.ts';
import { startFirstSound } from './first-sound.ts';

test('what fails goes by its label, in warnings and in what is remembered', async () => {
  const sound = { target: 'wasm:relaxed' } as Executable;
  const chain = [
    { machine: 'wasm:relaxed', label: 'wasm:relaxed with joined vectors' },
    { machine: 'wasm:relaxed', plain: true },
  ];
  const warnings: string[] = [];
  const passed: unknown[] = [];
  const start = async (candidate: (typeof chain)[number]) => {
    if (candidate.plain) return sound;
    throw new Error('the engine crashed');
  };
  const started = await startFirstSound(chain, { start, kernels: {} }, (warning) => warnings.push(warning), {
    isTrusted: async () => false,
    passed: async (candidate) => void passed.push(candidate),
  });
  expect(started).toBe(sound);
  expect(passed).toEqual([chain[1]]);
  expect(warnings).toEqual([
    expect.stringMatching(/^wasm:relaxed with joined vectors cannot be started .*crashed/),
  ]);
});
