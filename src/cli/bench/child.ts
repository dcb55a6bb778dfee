/** The measuring process: takes one request from its parent, answers, and ends. */
import { load } from '../../index.ts';
import type { Progress } from '../../runtime/types.ts';
import { asFailure } from '../failure.ts';
import { measureBandwidth } from './bandwidth.ts';
import type { ChildAnswer, ChildRequest } from './fork.ts';
import { measure } from './measure.ts';
import { runProfile } from './run-profile.ts';

function send(answer: ChildAnswer): Promise<void> {
  return new Promise((resolve) => process.send?.(answer, () => resolve()));
}

async function work(request: ChildRequest): Promise<unknown> {
  const onProgress = (progress: Progress) => void send({ kind: 'progress', progress });
  const onWarning = (message: string) => void send({ kind: 'warning', message });
  switch (request.kind) {
    case 'prepare':
      await (await load(request.source, { ...request.options, onProgress, onWarning })).dispose();
      return null;
    case 'model':
      return measure(load, request.request, (done, total) => onProgress({ stage: 'measure', done, total }));
    case 'profile':
      return runProfile(request.request, { onProgress, onWarning });
    case 'bandwidth':
      return measureBandwidth(request.target, request.threads);
  }
}

process.once('message', async (request: ChildRequest) => {
  try {
    await send({ kind: 'result', value: await work(request) });
  } catch (error) {
    const { code, message, hint } = asFailure(error);
    await send({ kind: 'failure', code, message, hint });
  }
  process.disconnect();
});
