import { FunctionBuilder } from '../loops/builder.ts';
import type { Kernel } from './kernel.ts';

export type NoSchedule = Readonly<Record<never, never>>;

/** A kernel that is written one way only. */
export function fixedKernel<Shape>(
  op: string,
  write: (b: FunctionBuilder, shape: Shape) => void,
  family = 'default',
): Kernel<Shape, NoSchedule> {
  return {
    op,
    family,
    defaultSchedule: () => ({}),
    schedules: () => [{}],
    build(name, shape) {
      const b = new FunctionBuilder(name);
      write(b, shape);
      return b.build();
    },
  };
}
