import { compile, compileStandalone, convert, load, loadEmbedder, tune } from '../index.ts';
import { forkedWorker } from './bench/fork.ts';
import { processIo } from './io.ts';
import { runCli } from './program.ts';

/** Runs the command line that the process was given, and sets its exit code. */
export async function start(): Promise<void> {
  // A reader that closes early, as `| head` does, ends the program without a complaint.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    throw error;
  });

  process.exitCode = await runCli(process.argv.slice(2), {
    io: processIo(),
    load,
    loadEmbedder,
    compile,
    convert,
    standalone: compileStandalone,
    tune,
    bench: forkedWorker,
  });
}
