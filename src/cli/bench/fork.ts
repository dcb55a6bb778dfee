import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { temporaryPlace } from '../../checkpoint/folders.ts';
import { type ErrorCode, LutraError } from '../../common/errors.ts';
import type { Progress } from '../../runtime/types.ts';
import type { BenchMeasurement, BenchRequest } from './measure.ts';
import type { ProfileReport, ProfileRequest } from './run-profile.ts';

/** Work that runs in a process of its own, so that its memory is measured alone and it starts cold. */
export type ChildRequest =
  /** Compiles the model into the cache, unless it is there. */
  | {
      readonly kind: 'prepare';
      readonly source: string;
      readonly options: Pick<BenchRequest, 'target' | 'threads' | 'context' | 'head' | 'cache' | 'hugePages'>;
    }
  | { readonly kind: 'model'; readonly request: BenchRequest }
  | { readonly kind: 'profile'; readonly request: ProfileRequest }
  | { readonly kind: 'bandwidth'; readonly target: string; readonly threads: number };

export type ChildAnswer =
  | { readonly kind: 'progress'; readonly progress: Progress }
  | { readonly kind: 'warning'; readonly message: string }
  | { readonly kind: 'result'; readonly value: unknown }
  | {
      readonly kind: 'failure';
      readonly code: ErrorCode;
      readonly message: string;
      readonly hint: string | undefined;
    };

export interface ChildHooks {
  readonly signal: AbortSignal;
  readonly onProgress: (progress: Progress) => void;
  readonly onWarning: (message: string) => void;
}

/** What `lutra bench` asks for; tests answer in this process instead. */
export interface BenchWorker {
  prepare(
    request: Omit<Extract<ChildRequest, { kind: 'prepare' }>, 'kind'>,
    hooks: ChildHooks,
  ): Promise<void>;
  measure(request: BenchRequest, hooks: ChildHooks): Promise<BenchMeasurement>;
  profile(request: ProfileRequest, hooks: ChildHooks): Promise<ProfileReport>;
  /** Bytes per second that this many threads read from memory. */
  bandwidth(target: string, threads: number, hooks: ChildHooks): Promise<number>;
}

export const forkedWorker: BenchWorker = {
  prepare: async (request, hooks) => void (await runInChild({ kind: 'prepare', ...request }, hooks)),
  measure: async (request, hooks) =>
    (await runInChild({ kind: 'model', request }, hooks)) as BenchMeasurement,
  profile: async (request, hooks) => (await runInChild({ kind: 'profile', request }, hooks)) as ProfileReport,
  bandwidth: async (target, threads, hooks) =>
    (await runInChild({ kind: 'bandwidth', target, threads }, hooks)) as number,
};

function runInChild(request: ChildRequest, hooks: ChildHooks): Promise<unknown> {
  return new Promise((resolve, reject) => {
    // A killed process leaves the code that it compiled.
    const place = temporaryPlace('child');
    const child = fork(fileURLToPath(new URL('./child.js', import.meta.url)), {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      env: place.env,
    });
    const stop = () => child.kill('SIGKILL');
    hooks.signal.addEventListener('abort', stop, { once: true });
    let settled = false;
    child.on('message', (answer: ChildAnswer) => {
      if (answer.kind === 'progress') return hooks.onProgress(answer.progress);
      if (answer.kind === 'warning') return hooks.onWarning(answer.message);
      settled = true;
      if (answer.kind === 'result') resolve(answer.value);
      else reject(new LutraError(answer.code, answer.message, { ...(answer.hint && { hint: answer.hint }) }));
    });
    child.on('error', (error) => {
      place.remove();
      reject(error);
    });
    child.on('exit', (code, signal) => {
      place.remove();
      hooks.signal.removeEventListener('abort', stop);
      if (hooks.signal.aborted) return reject(new LutraError('cancelled', 'cancelled'));
      if (settled) return;
      const how = signal === null ? `with code ${code}` : `by ${signal}`;
      reject(
        new LutraError('environment', `the measuring process was ended ${how}`, {
          hint: 'It may have run out of memory: try a smaller --context, or close other programs.',
        }),
      );
    });
    child.send(request);
  });
}
