/** What all suites work with: processes, limits of the machine, and how a figure is written down. */
import { openArtifact } from '../../dist/artifact/open.js';
import { stepTraffic } from '../../dist/plan/traffic.js';
import { goalOf } from './goals.mjs';
import { processorTime, stolenShare } from './machine.mjs';
import { compare } from './predict.mjs';
import { startWorker } from './process.mjs';
import { significant, spread } from './statistics.mjs';

/** Tokens that sessions feed in one step of a long prompt. */
const PREFILL_STEP = 256;

export function createContext({ quick, machine, nodes, models, log }) {
  const cores = machine.physicalCores;
  const limits = new Map();

  /** Bandwidth (GB/s) and multiply-adds (GOP/s) of this very run, the first time they are asked for. */
  async function limitsOf(target, threads, node) {
    const key = JSON.stringify([node?.major ?? null, target, threads]);
    if (!limits.has(key)) {
      log(`limits of ${target} with ${threads} thread${threads > 1 ? 's' : ''}`);
      const bandwidths = [];
      const rates = [];
      for (let round = 0; round < (quick ? 2 : 3); round++) {
        // A process each: what one leaves behind does not slow the other.
        for (const [op, into] of [
          ['bandwidth', bandwidths],
          ['multiplyAdds', rates],
        ]) {
          const worker = startWorker({ node: node?.path, env: models.env });
          try {
            into.push((await worker.ask(op, { target, threads })) / 1e9);
          } finally {
            await worker.end();
          }
        }
      }
      limits.set(key, {
        target,
        threads,
        node: node?.version ?? process.versions.node,
        bandwidth: Math.max(...bandwidths),
        multiplyAdds: Math.max(...rates),
        bandwidths: bandwidths.map((v) => significant(v)),
        rates: rates.map((v) => significant(v)),
      });
    }
    return limits.get(key);
  }

  /**
   * Runs tasks in turns, forwards and backwards, so that noise hits all alike. Each gives one number a round.
   * @param {readonly (() => Promise<number>)[]} tasks
   */
  async function inTurns(tasks, rounds) {
    const values = tasks.map(() => []);
    const before = processorTime();
    for (let round = 0; round < rounds; round++) {
      const order = [...tasks.keys()];
      if (round % 2 === 1) order.reverse();
      for (const i of order) values[i].push(await tasks[i]());
    }
    const stolen = stolenShare(before, processorTime());
    return { values, stolen };
  }

  /** Opens a model in a process of its own; `request` as in child.mjs. */
  async function open(request, { node, op = 'open' } = {}) {
    const worker = startWorker({ node: node?.path, env: models.env });
    try {
      const facts = await worker.ask(op, request);
      if (facts.warnings.length > 0) throw new Error(`the model fell back: ${facts.warnings.join('; ')}`);
      return { ...worker, facts };
    } catch (error) {
      await worker.end();
      throw error;
    }
  }

  const plans = new Map();
  async function planOf(path) {
    if (!plans.has(path)) plans.set(path, (await openArtifact(path)).plan);
    return plans.get(path);
  }

  /** The kernel calls of `count` tokens at a position: one by one, or fed as a prompt. */
  async function callsOf(path, { position, count, prompt = false, sequences = 1 }) {
    const plan = await planOf(path);
    const calls = (tokens, at) =>
      stepTraffic(
        plan,
        Array.from({ length: sequences }, () => ({ tokens, position: at, logits: 'last' })),
      ).flat();
    if (!prompt) {
      // Bytes grow evenly with the position: the middle token stands for all.
      const one = calls(1, position + Math.floor(count / 2));
      return Array.from({ length: count }, () => one).flat();
    }
    const all = [];
    for (let at = 0; at < count; at += PREFILL_STEP) {
      all.push(...calls(Math.min(PREFILL_STEP, count - at), position + at));
    }
    return all;
  }

  /** A figure of tokens per second, against what the machine allows. */
  async function rateFigure({ id, title, values, stolen, calls, tokens, machine, ...facts }) {
    const summary = spread(values);
    const held = calls === undefined ? {} : compare({ rate: summary.median, tokens, calls, limits: machine });
    return figure({ id, title, unit: 'tokens/s', ...summary, stolen, ...facts, ...held });
  }

  function figure({ id, ...facts }) {
    const goal = goalOf(id);
    const rounded = Object.fromEntries(
      Object.entries(facts).map(([key, value]) => [
        key,
        typeof value === 'number' && !Number.isInteger(value) ? significant(value) : value,
      ]),
    );
    return { id, ...rounded, ...(goal === undefined ? {} : goal) };
  }

  return {
    quick,
    cores,

    nodes,
    models,
    log,
    limits,
    limitsOf,
    inTurns,
    open,
    callsOf,
    rateFigure,
    figure,
  };
}
