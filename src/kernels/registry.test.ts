import { describe, expect, it } from 'vitest';
import { LutraError } from '../common/errors.ts';
import { KERNELS, kernelFor } from './registry.ts';

describe('registry', () => {
  it('finds every kernel, by operator and by family', () => {
    for (const kernel of KERNELS) {
      expect(kernelFor(kernel.op, kernel.family)).toBe(kernel);
      expect(kernelFor(kernel.op).op).toBe(kernel.op);
    }
  });

  it('names what there is when asked for something else', () => {
    expect(() => kernelFor('fft')).toThrow(LutraError);
    expect(() => kernelFor('add', 'lut')).toThrow('add in family lut');
  });
});
