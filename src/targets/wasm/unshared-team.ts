/**
 * One thread with a memory of its own, for pages that may not share memory. Everything goes by messages; the
 * thread does what changes its memory (growing, clearing) together with the next job.
 */
import type { Platform } from '../../platform/platform.ts';
import type { CompiledModule } from './engine.ts';
import { PAGE } from './module.ts';
import { PIECE, type Team } from './team.ts';
import { UNSHARED_SCRIPT, type UnsharedRequest, type UnsharedSetup } from './worker-scripts.ts';
import { startWorkers } from './workers.ts';

export interface UnsharedTeamOptions {
  readonly platform: Platform;
  readonly module: CompiledModule;
  /** Where the scratch memory begins. */
  readonly scratch: number;
}

export async function startUnsharedTeam(options: UnsharedTeamOptions): Promise<Team> {
  const setup: UnsharedSetup = { module: options.module, scratch: options.scratch };
  const workers = await startWorkers(options.platform, UNSHARED_SCRIPT, [setup]);
  let pages = 0;
  let clear: UnsharedRequest['clear'] = [];
  let lastFill: Promise<unknown> = Promise.resolve();

  const ask = async (request: Omit<UnsharedRequest, 'pages' | 'clear'>, transfer: ArrayBuffer[] = []) => {
    const message: UnsharedRequest = { ...request, pages, clear };
    clear = [];
    const reply = await workers.ask((threads) => threads[0]!.post(message, transfer));
    return reply.outputs ?? [];
  };

  return {
    threads: 1,
    ensure: (end) => {
      pages = Math.max(pages, Math.ceil(end / PAGE));
    },
    clear: (at, bytes) => {
      clear = [...clear, { at, bytes }];
    },
    fill: (at, size, read) => {
      const fillPieces = async () => {
        for (let offset = 0; offset < size; offset += PIECE) {
          const buffer = new ArrayBuffer(Math.min(PIECE, size - offset));
          const bytes = new Uint8Array(buffer);
          await read(offset, bytes);
          await ask({ inputs: [{ at: at + offset, bytes }], outputs: [] }, [buffer]);
        }
      };
      // The thread answers one request at a time.
      const filled = lastFill.then(fillPieces);
      lastFill = filled.catch(() => {});
      return filled;
    },
    run: async ({ fn, team, args, inputs, outputs }) => {
      const call = { fn, args: team ? [...args, 0, 1] : args };
      const wanted = outputs.map(({ at, into }) => ({ at, bytes: into.length }));
      const results = await ask({ call, inputs, outputs: wanted });
      outputs.forEach(({ into }, i) => {
        into.set(results[i]!);
      });
    },
    close: () => workers.stop(),
  };
}
