/** Synthetic checkpoints and what lutra compiles of them, in a folder of the benchmark's own. */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseChoices } from './choices.mjs';
import { ROOT } from './machine.mjs';
import { runWatched } from './process.mjs';

const CLI = join(ROOT, 'dist', 'cli', 'main.js');

/** The values that an option of `lutra compile` takes, as its help says. */
export async function choicesOf(option) {
  const { output } = await runWatched(process.execPath, [CLI, 'compile', '--help'], { COLUMNS: '500' });
  return parseChoices(output, option);
}

/**
 * @param {{ folder: string, fingerprint: string, log: (text: string) => void }} options
 *   `fingerprint` names the code: what other code compiled is removed
 */
export function createModels({ folder, fingerprint, log }) {
  mkdirSync(folder, { recursive: true });
  for (const name of readdirSync(folder)) {
    if (name.includes('@') && !name.endsWith(`@${fingerprint}`)) {
      rmSync(join(folder, name), { recursive: true, force: true });
    }
  }
  const env = { LUTRA_CACHE: join(folder, 'lutra') };

  async function checkpoint(preset) {
    if (preset === 'embedded') return join(ROOT, 'models', 'tiny-bitnet');
    const path = join(folder, preset);
    if (!existsSync(path)) {
      log(`synthesizing ${preset}`);
      // A run that was interrupted leaves no half a checkpoint under the final name.
      const draft = `${path}.part`;
      rmSync(draft, { recursive: true, force: true });
      await runWatched(process.execPath, [CLI, 'synth', preset, '-o', draft]);
      renameSync(draft, path);
    }
    return path;
  }

  /** Compiles unless it is there, and tells how long that took and what memory it needed. */
  async function compile(request) {
    const {
      preset,
      head = 'stored',
      cache = 'f32',
      context = 2048,
      encoding,
      activations,
      family,
      fresh = false,
    } = request;
    const kind = [encoding, activations, family]
      .map((part) => (part === undefined ? '' : `.${part}`))
      .join('');
    const path = join(folder, `${preset}.${head}.${cache}.${context}${kind}@${fingerprint}`);
    const source = await checkpoint(preset);
    if (fresh) rmSync(path, { recursive: true, force: true });
    if (existsSync(path)) return { path };
    log(`compiling ${preset}, head ${head}, cache ${cache}, context ${context}`);
    const options = ['--head', head, '--cache', cache, '--context', String(context)];
    if (encoding !== undefined) options.push('--encoding', encoding);
    if (activations !== undefined) options.push('--activations', activations);
    if (family !== undefined) options.push('--family', family);
    const run = await runWatched(process.execPath, [CLI, 'compile', source, '-o', path, ...options], env);
    return { path, ...run };
  }

  return {
    env,
    folder,
    checkpoint,
    compile,
    artifact: async (request) => (await compile(request)).path,
    remove: (name) => rmSync(join(folder, name), { recursive: true, force: true }),
    removeAll: () => rmSync(folder, { recursive: true, force: true }),
  };
}
