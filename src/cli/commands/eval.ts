import type { Command } from 'commander';
import { LutraError } from '../../common/errors.ts';
import type { Deps } from '../deps.ts';
import { type Accuracy, measureAccuracy, measurePerplexity, parseTests } from '../evaluate.ts';
import { readTextFile } from '../files.ts';
import { interruptible } from '../io.ts';
import { addModelOptions, loadModel, MODEL_HELP, type ModelOptions } from '../model-options.ts';
import { createProgressBar } from '../progress.ts';
import { addHeadOptions } from '../weight-options.ts';

interface EvalFlags extends ModelOptions {
  readonly tests?: string;
  readonly text?: string;
  readonly json?: true;
}

/** What `--json` prints; null is what was not asked for. */
interface EvalReport {
  readonly target: string;
  readonly accuracy: Accuracy | null;
  readonly perplexity: number | null;
}

/** `lutra eval MODEL --tests FILE.jsonl --text FILE.txt`: exact answers per skill, and perplexity. */
export function addEvalCommand(program: Command, deps: Deps): void {
  const command = program
    .command('eval')
    .description('measure exact answers to tests and the perplexity of a text')
    .argument('[model]', MODEL_HELP, 'embedded');
  addHeadOptions(addModelOptions(command))
    .option('--tests <file>', 'JSON lines of {skill, prompt, answer}')
    .option('--text <file>', 'a text, each line of which stands alone')
    .option('--json', 'print one JSON object')
    .action((model: string, flags: EvalFlags) => evaluate(deps, model, flags));
}

async function evaluate(deps: Deps, model: string, flags: EvalFlags): Promise<void> {
  if (flags.tests === undefined && flags.text === undefined) {
    throw new LutraError('usage', 'nothing to evaluate: give --tests, --text or both');
  }
  const tests =
    flags.tests === undefined ? undefined : parseTests(await readTextFile(flags.tests), flags.tests);
  const text = flags.text === undefined ? undefined : await readTextFile(flags.text);
  const report = await interruptible(deps.io, async (signal): Promise<EvalReport> => {
    const bar = createProgressBar(deps.io);
    await using loaded = await loadModel(deps, model, flags, bar, signal);
    const progress = (stage: string) => ({
      signal,
      onProgress: (done: number, total: number) => bar.update({ stage, done, total }),
    });
    try {
      return {
        target: loaded.target,
        accuracy: tests === undefined ? null : await measureAccuracy(loaded, tests, progress('tests')),
        perplexity: text === undefined ? null : await measurePerplexity(loaded, text, progress('text')),
      };
    } finally {
      bar.clear();
    }
  });
  deps.io.out(flags.json ? `${JSON.stringify(report)}\n` : render(report));
}

function render({ target, accuracy, perplexity }: EvalReport): string {
  const lines = [`target      ${target}`];
  if (accuracy !== null) {
    const width = Math.max(7, ...Object.keys(accuracy.skills).map((skill) => skill.length));
    const line = (name: string, share: number) =>
      `  ${name.padEnd(width)}  ${(100 * share).toFixed(1).padStart(5)} %`;
    lines.push('exact answers', ...Object.entries(accuracy.skills).map(([name, share]) => line(name, share)));
    lines.push(line('overall', accuracy.overall));
  }
  if (perplexity !== null) lines.push(`perplexity  ${perplexity.toFixed(4)}`);
  return `${lines.join('\n')}\n`;
}
