/**
 * Measures lutra against what this machine allows, and writes a table and a JSON file.
 *
 *   npm run bench                                  everything, more than an hour on two cores
 *   npm run bench -- --quick                       fewer repetitions
 *   npm run bench -- --only native,busy            some suites: native, wasm, context, batch, bitnet-3b,
 *                                                  llama2, busy, speculation, memory, load, compile, defaults
 *   npm run bench -- --node PATH [--node PATH]     WebAssembly with other Nodes too
 *   npm run bench -- --resume                      goes on where an interrupted run of the same code ended
 *
 * Also --skip LIST, -o FILE (bench-results.json), --folder DIR for synthetic models (up to 15 GB; removed at the end
 * unless --keep). docs/benchmarks.md describes the JSON. Results are written after every suite.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { cacheFolder } from '../dist/artifact/cache.js';
import { parseArguments } from './lib/arguments.mjs';
import { createContext } from './lib/context.mjs';
import { commandText, describeMachine } from './lib/machine.mjs';
import { createModels } from './lib/models.mjs';
import { runMain } from './lib/process.mjs';
import { mergeLimits, textReport } from './lib/report.mjs';
import { SUITES } from './lib/suites.mjs';

const started = performance.now();
const log = (text) => {
  const seconds = Math.round((performance.now() - started) / 1000);
  console.error(
    `${String(Math.floor(seconds / 60)).padStart(3)}:${String(seconds % 60).padStart(2, '0')}  ${text}`,
  );
};

function usage() {
  const text = readFileSync(new URL(import.meta.url), 'utf8');
  return text.slice(4, text.indexOf('*/')).replace(/^ \* ?/gm, '');
}

/** The Node at a path: what it calls itself. */
function inspectNode(path) {
  const version = execFileSync(path, ['-p', 'process.versions.node'], { encoding: 'utf8' }).trim();
  return { path, version, major: Number(version.split('.')[0]) };
}

function write(path, results) {
  // Whole or not at all: a run that is interrupted here can still be resumed.
  writeFileSync(`${path}.part`, `${JSON.stringify(results, null, 1)}\n`);
  renameSync(`${path}.part`, path);
}

function resumed(path, machine) {
  if (!existsSync(path)) return undefined;
  const before = JSON.parse(readFileSync(path, 'utf8'));
  if (before.machine?.code?.fingerprint !== machine.code.fingerprint) {
    throw new Error(`${path} is of other code: measure again without --resume`);
  }
  return before;
}

async function main() {
  const options = parseArguments(process.argv.slice(2), Object.keys(SUITES));
  if (options.help) return console.log(usage());
  const machine = await describeMachine();
  const nodes = [process.execPath, ...options.node].map(inspectNode);
  const [load = 0] = loadavg();
  if (load > 0.5) log(`this machine is not quiet: its load is ${load.toFixed(1)}`);
  const models = createModels({
    folder: options.folder ?? join(cacheFolder(), 'bench'),
    fingerprint: machine.code.fingerprint,
    log,
  });
  const ctx = createContext({ quick: options.quick, machine, nodes, models, log });
  const before = options.resume ? resumed(options.output, machine) : undefined;
  const results = {
    format: 'lutra-bench',
    version: 1,
    started: before?.started ?? new Date().toISOString(),
    seconds: 0,
    quick: options.quick,
    command: commandText('bench'),
    loadBefore: load,
    machine,
    limits: [...(before?.limits ?? [])],
    done: [...(before?.done ?? [])],
    figures: [...(before?.figures ?? [])],
    skipped: [],
  };
  const save = (readings) => {
    results.limits = mergeLimits(results.limits, readings);
    results.seconds = Math.round((before?.seconds ?? 0) + (performance.now() - started) / 1000);
    write(options.output, results);
  };
  for (const name of options.suites) {
    if (results.done.includes(name)) continue;
    log(name);
    try {
      results.figures.push(...(await SUITES[name](ctx)));
      results.done.push(name);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      log(`${name} failed: ${reason}`);
      results.skipped.push({ suite: name, reason });
    }
    save(await ctx.endMeters());
  }
  console.log(textReport(results));
  log(`written to ${options.output}`);
  if (!options.keep && results.skipped.length === 0) models.removeAll();
  if (results.skipped.length > 0) process.exitCode = 1;
}

await runMain('bench', main);
