import { modelSource } from '../../checkpoint/resolve.ts';
import { LutraError } from '../../common/errors.ts';
import type { Family, TernaryEncoding } from '../../passes/pass.ts';
import { pick } from '../arguments.ts';
import type { Deps } from '../deps.ts';
import type { ModelOptions } from '../model-options.ts';
import { withProgress } from '../progress.ts';
import { byteSize } from '../render.ts';
import { type FormFlags, formOptions } from '../weight-options.ts';

export interface CompileFlags extends ModelOptions, FormFlags {
  readonly output: string;
  readonly encoding?: 'auto' | TernaryEncoding;
  readonly family?: 'auto' | Family;
  readonly records?: string;
  readonly standalone?: true;
  readonly arch?: string;
  readonly json?: true;
}

/** `lutra compile MODEL --standalone -o DIR`: a C project. */
export async function compileForDevice(deps: Deps, model: string, flags: CompileFlags): Promise<void> {
  if (flags.target !== undefined) {
    throw new LutraError('usage', '--target and --standalone exclude each other', {
      hint: 'Choose the architecture by --arch; of its variants, the device takes the best it can run.',
    });
  }
  const { io } = deps;
  const { made, seconds } = await withProgress(io, (work) =>
    deps.standalone(modelSource(model), {
      ...pick(flags, ['output', 'threads', 'context', 'encoding', 'family', 'arch', 'records']),
      ...formOptions(flags),
      ...work,
    }),
  );
  const { name, path, arch, variants, bytes } = made;
  if (flags.json) {
    io.out(`${JSON.stringify({ model: name, output: path, arch, targets: variants, bytes, seconds })}\n`);
  } else {
    io.out(
      `${name} as C in ${path}: ${byteSize(bytes)} for ${variants.join(', ')}; ${seconds.toFixed(1)} s\n` +
        'README.md there says how to build it.\n',
    );
  }
}
