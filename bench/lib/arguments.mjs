// @ts-check
/** The command line of the benchmarks. */
import { parseArgs } from 'node:util';

/**
 * @param {readonly string[]} args
 * @param {readonly string[]} suites names that `--only` and `--skip` may have
 */
export function parseArguments(args, suites) {
  const { values } = parseArgs({
    args: [...args],
    options: {
      quick: { type: 'boolean', default: false },
      only: { type: 'string' },
      skip: { type: 'string' },
      node: { type: 'string', multiple: true },
      output: { type: 'string', short: 'o', default: 'bench-results.json' },
      folder: { type: 'string' },
      keep: { type: 'boolean', default: false },
      resume: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  const names = (/** @type {string | undefined} */ list) => {
    const found = (list ?? '')
      .split(',')
      .map((name) => name.trim())
      .filter(Boolean);
    const wrong = found.find((name) => !suites.includes(name));
    if (wrong !== undefined) throw new Error(`there is no suite "${wrong}"; there are ${suites.join(', ')}`);
    return found;
  };
  const only = names(values.only);
  const skip = names(values.skip);
  return {
    ...values,
    node: values.node ?? [],
    suites: suites.filter((name) => (only.length === 0 || only.includes(name)) && !skip.includes(name)),
  };
}
