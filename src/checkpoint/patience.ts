/** Long work on tensors of a checkpoint that a signal ends: see `common/pause`. */
import { pause } from '../common/pause.ts';
import type { Checkpoint } from './checkpoint.ts';

const signals = new WeakMap<Checkpoint, AbortSignal>();

/** From now on the signal ends whatever is made of the checkpoint's tensors. */
export function endWorkBy(signal: AbortSignal, checkpoint: Checkpoint): void {
  signals.set(checkpoint, signal);
}

/** To be awaited now and then in long work on tensors of a checkpoint; throws `cancelled`. */
export function pauseWork(checkpoint: Checkpoint): Promise<void> {
  return pause(signals.get(checkpoint));
}
