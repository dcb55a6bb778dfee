import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { detectCpu } from '../cpu.ts';
import { compileC, findCompilers } from './compile.ts';
import { emitC } from './emit.ts';
import { loadNative } from './executable.ts';
import { runnableMachines } from './machines.ts';
import { legalVariant, MIXER_INFO, mixer, withFolder, writeSource } from './testing.ts';

const [compiler] = await findCompilers();
const machines = runnableMachines(await detectCpu());

test.skipIf(compiler === undefined).each([
  [1, 1 << 21],
  [2, 1 << 14],
])('a step of %i threads ends when it is stopped', (threads, rounds) =>
  withFolder(async (folder) => {
    // Seconds of rounds, if all were computed.
    const variants = machines.map((machine) => legalVariant(machine, mixer(rounds, 5)));
    const library = join(folder, 'model.so');
    const source = await writeSource(folder, emitC(variants, MIXER_INFO));
    await compileC({ compiler: compiler!, source, output: library, variants: variants.length });
    await writeFile(join(folder, 'weights'), new Uint8Array(MIXER_INFO.weightsBytes).fill(3));
    const executable = await loadNative({
      ...{ library, weights: join(folder, 'weights'), machine: machines[0]!.name, threads },
      needs: MIXER_INFO.needs,
    });
    const request = {
      tokens: Int32Array.of(5),
      position: 0,
      cache: executable.createCache(),
      logits: 'last',
    } as const;
    const step = executable.step([request]);
    const ended = expect(step).rejects.toMatchObject({ code: 'cancelled' });
    await sleep(10);
    executable.stop!();
    await ended;
    await expect(executable.step([request])).rejects.toMatchObject({ code: 'cancelled' });
    await executable.close();
  }),
);
