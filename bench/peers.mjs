/**
 * Measures node-llama-cpp (llama.cpp for Node) beside lutra, in turns, on the same synthetic model.
 *
 *   npm run bench:peers -- [--quick] [--head q6_k|q8_0|f16] [-o FILE] [--folder DIR]
 *
 * Installs node-llama-cpp with npm into a folder of its own (about 700 MB; $LUTRA_CACHE/bench-peers unless --folder
 * says else), which no other part of lutra uses, and keeps it there together with the model: the 2B model of
 * `npm run bench` with int8 head for lutra, and written by `lutra convert` as TQ2_0 for llama.cpp, whose architecture
 * `bitnet` has SiLU where the model has squared ReLU: the same work. A busy machine makes llama.cpp's threads spin
 * in vain far more than lutra's: measure on a quiet one.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { cacheFolder } from '../dist/artifact/cache.js';
import { createContext } from './lib/context.mjs';
import { commandText, describeMachine, ROOT } from './lib/machine.mjs';
import { createModels } from './lib/models.mjs';
import { runMain, runWatched, startWorker } from './lib/process.mjs';
import { textReport } from './lib/report.mjs';
import { spread } from './lib/statistics.mjs';
import { threadCounts } from './lib/suites/common.mjs';

const MODEL = 'bitnet-2b-4t';
const PACKAGE = 'node-llama-cpp@3';
const POSITION = 64;

const log = (text) => console.error(text);

function install(folder) {
  const facts = join(folder, 'node_modules', 'node-llama-cpp', 'package.json');
  if (!existsSync(facts)) {
    log(`installing ${PACKAGE} into ${folder}`);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'package.json'), '{ "private": true }\n');
    // Its binaries are packages of their own; its install script, which could build another, is not needed.
    const args = ['install', '--no-audit', '--no-fund', '--ignore-scripts', '--omit=dev', PACKAGE];
    execFileSync('npm', args, { cwd: folder, stdio: ['ignore', 'ignore', 'inherit'] });
  }
  return JSON.parse(readFileSync(facts, 'utf8')).version;
}

async function convert(folder, source, head, env) {
  const path = join(folder, `${MODEL}-tq2_0-${head}.gguf`);
  if (!existsSync(path)) {
    log(`writing ${path}`);
    const draft = path.replace(/\.gguf$/, '.part.gguf');
    const cli = join(ROOT, 'dist', 'cli', 'main.js');
    const args = [cli, 'convert', source, '-o', draft, '--type', 'tq2_0', '--head', head];
    await runWatched(process.execPath, [...args, '--architecture', 'bitnet'], env);
    renameSync(draft, path);
  }
  return path;
}

async function main() {
  const { values: options } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      head: { type: 'string', default: 'q6_k' },
      output: { type: 'string', short: 'o', default: 'bench-peers.json' },
      folder: { type: 'string' },
    },
  });
  const { quick, head } = options;
  const started = performance.now();
  const folder = options.folder ?? join(cacheFolder(), 'bench-peers');
  const version = install(folder);
  const machine = await describeMachine();
  const [load = 0] = loadavg();
  if (load > 0.5) log(`this machine is not quiet: its load is ${load.toFixed(1)}`);
  const { fingerprint } = machine.code;
  const models = createModels({ folder: join(folder, 'models'), fingerprint, log });
  const gguf = await convert(folder, await models.checkpoint(MODEL), head, models.env);
  const path = await models.artifact({ preset: MODEL, head: 'int8' });
  const ctx = createContext({ quick, machine, nodes: [], models, log });

  const prompt = quick ? 128 : 512;
  const tokens = quick ? 16 : 48;
  const runs = [];
  const figures = [];
  try {
    for (const threads of threadCounts(machine.physicalCores)) {
      const own = await ctx.open({ source: path, target: 'c', threads });
      const peer = startWorker({ script: './peer.mjs', env: models.env });
      runs.push({ worker: peer });
      const facts = await peer.ask('open', { folder, model: gguf, threads });
      if (facts.threads !== threads) throw new Error(`node-llama-cpp took ${facts.threads} threads`);
      runs.pop();
      for (const [name, worker, title, more] of [
        ['lutra', own, 'lutra, head int8', { target: own.facts.target }],
        ['node-llama-cpp', peer, `node-llama-cpp ${version}, tq2_0, head ${head}`, { system: facts.system }],
      ]) {
        runs.push(
          {
            worker,
            id: `peers.${name}.decode.${threads}t`,
            title: `decode, ${threads}t, ${title}`,
            threads,
            more,
            run: async () => tokens / (await worker.ask('decode', { position: POSITION, tokens })).seconds,
          },
          {
            worker,
            id: `peers.${name}.prefill${prompt}.${threads}t`,
            title: `prefill of ${prompt}, ${threads}t, ${title}`,
            threads,
            more,
            run: async () => prompt / (await worker.ask('prefill', { tokens: prompt })).seconds,
          },
        );
      }
    }
    // The same test of both, one right after the other.
    const kind = ({ id }) => id.replace(/^peers\.[\w-]+\./, '');
    runs.sort((a, b) => (kind(a) < kind(b) ? -1 : kind(a) > kind(b) ? 1 : 0));
    const { values, stolen } = await ctx.inTurns(runs, quick ? 3 : 7);
    for (const [i, { id, title, threads, more }] of runs.entries()) {
      figures.push(
        await ctx.rateFigure({ id, title, threads, ...more, model: MODEL, values: values[i], stolen }),
      );
      // lutra's comes first of the two.
      if (i % 2 === 0) continue;
      const [own, peer] = [values[i - 1], values[i]];
      figures.push(
        ctx.figure({
          id: id.replace('node-llama-cpp', 'ratio'),
          title: `${kind({ id }).replace('.', ', ')}: lutra in times of it, round by round`,
          unit: 'x',
          ...spread(own.map((value, round) => value / peer[round])),
          model: MODEL,
          threads,
        }),
      );
    }
  } finally {
    for (const worker of new Set(runs.map((run) => run.worker))) await worker.end();
  }
  const results = {
    format: 'lutra-bench',
    version: 1,
    started: new Date(Date.now() - (performance.now() - started)).toISOString(),
    seconds: Math.round((performance.now() - started) / 1000),
    quick,
    command: commandText('bench:peers'),
    loadBefore: load,
    machine,
    limits: [],
    figures,
    skipped: [],
  };
  writeFileSync(options.output, `${JSON.stringify(results, null, 1)}\n`);
  console.log(textReport(results));
}

await runMain('bench:peers', main);
