import { Command, CommanderError } from 'commander';
import { LutraError } from '../common/errors.ts';
import { VERSION } from '../common/version.ts';
import { addBenchCommand } from './commands/bench.ts';
import { addChatCommand } from './commands/chat.ts';
import { addCompileCommand } from './commands/compile.ts';
import { addConvertCommand } from './commands/convert.ts';
import { addDoctorCommand } from './commands/doctor.ts';
import { addEmbedCommand } from './commands/embed.ts';
import { addEvalCommand } from './commands/eval.ts';
import { addInspectCommand } from './commands/inspect.ts';
import { addRunCommand } from './commands/run.ts';
import { addSynthCommand } from './commands/synth.ts';
import { addTuneCommand } from './commands/tune.ts';
import type { Deps } from './deps.ts';
import { reportFailure } from './failure.ts';

const HELP_CODES = new Set(['commander.help', 'commander.helpDisplayed', 'commander.version']);

const COMMANDS = [
  addRunCommand,
  addChatCommand,
  addCompileCommand,
  addConvertCommand,
  addEmbedCommand,
  addInspectCommand,
  addTuneCommand,
  addBenchCommand,
  addEvalCommand,
  addSynthCommand,
  addDoctorCommand,
] as const;

/** Runs one command line, without the program's name; returns the exit code. */
export async function runCli(args: readonly string[], deps: Deps): Promise<number> {
  const program = new Command('lutra')
    .description('Compiles low-bit language models into fast code for this machine, and runs them.')
    .version(VERSION)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => deps.io.out(text),
      writeErr: (text) => deps.io.error(text),
      // Errors are written in one place, below.
      outputError: () => undefined,
    });
  for (const add of COMMANDS) add(program, deps);
  for (const command of program.commands) {
    command.option('--verbose', 'more about what happens, and the stack of an error');
  }
  try {
    await program.parseAsync([...args], { from: 'user' });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError && HELP_CODES.has(error.code)) return error.exitCode === 0 ? 0 : 2;
    const own = error instanceof CommanderError ? usageError(error) : error;
    return reportFailure(own, deps.io, args.includes('--verbose'));
  }
}

/** Commander writes `error: unknown command 'rum'` and, on a second line, `(Did you mean run?)`. */
function usageError(error: CommanderError): LutraError {
  const [line = '', suggestion] = error.message.replace(/^error: /, '').split('\n');
  return new LutraError('usage', line, { hint: suggestion ?? 'See lutra --help, or lutra COMMAND --help.' });
}
