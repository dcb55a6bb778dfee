/** What all suites work with: processes, limits of the machine, and how a figure is written down. */
import { openArtifact } from '../../dist/artifact/open.js';
import { stepTraffic } from '../../dist/plan/traffic.js';
import { goalOf } from './goals.mjs';
import { processorTime, stolenShare } from './machine.mjs';
import { compareRounds } from './predict.mjs';
import { startWorker } from './process.mjs';
import { significant, spread } from './statistics.mjs';

/** Tokens that sessions feed in one step of a long prompt. */
const PREFILL_STEP = 256;

export function createContext({ quick, machine, nodes, models, log }) {
  const cores = machine.physicalCores;
  const meters = new Map();

  /**
   * A meter of what this machine allows a target, in a process of its own. It is read right before everything that is
   * held against it, since the speed of a machine that others share is another from one minute to the next.
   */
  async function limitsOf(target, threads, node) {
    const version = node?.version ?? process.versions.node;
    const key = JSON.stringify([version, target, threads]);
    if (!meters.has(key)) {
      const worker = startWorker({ node: node?.path, env: models.env });
      const readings = [];
      const read = async () => {
        const reading = await worker.ask('limits', { target, threads });
        readings.push(reading);
        return reading;
      };
      meters.set(key, { target, threads, node: version, read, readings, worker });
      // The first reading compiles and starts the probes.
      await worker.ask('limits', { target, threads });
    }
    return meters.get(key);
  }

  /** Ends the meters, and gives all that they read, by target. */
  async function endMeters() {
    const ended = [...meters.values()].filter(({ readings }) => readings.length > 0);
    for (const { worker } of meters.values()) {
      // Of one that died there is nothing to be had, but what the others read is to be kept.
      await worker.ask('endLimits').catch(() => undefined);
      await worker.end();
    }
    meters.clear();
    return ended.map(({ target, threads, node, readings }) => ({
      target,
      threads,
      node,
      bandwidths: readings.map(({ bandwidth }) => significant(bandwidth)),
      rates: readings.map(({ multiplyAdds }) => significant(multiplyAdds)),
    }));
  }

  /**
   * Runs tasks in turns, forwards and backwards, so that noise hits all alike. Each gives what it measured in a round,
   * mostly a number; where it has a meter, that is read before it.
   * @param {readonly { run: () => Promise<unknown>, machine?: { read: () => Promise<object> } }[]} tasks
   */
  async function inTurns(tasks, rounds) {
    const values = tasks.map(() => []);
    const limits = tasks.map(() => []);
    const before = processorTime();
    for (let round = 0; round < rounds; round++) {
      const order = [...tasks.keys()];
      if (round % 2 === 1) order.reverse();
      for (const i of order) {
        const { run, machine } = tasks[i];
        if (machine !== undefined) limits[i].push(await machine.read());
        values[i].push(await run());
      }
    }
    const stolen = stolenShare(before, processorTime());
    return { values, limits, stolen };
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
        // Greedy tokens of one sequence: what an exact head computes after its scan is little, and not known before.
        plan.scans && !prompt && sequences === 1,
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

  /** A figure of tokens per second; `limits`: what the machine allowed in each of its rounds. */
  async function rateFigure({ id, title, values, limits, stolen, calls, tokens, machine, ...facts }) {
    const held = calls === undefined ? {} : compareRounds({ rates: values, tokens, calls, limits });
    return figure({ id, title, unit: 'tokens/s', ...spread(values), stolen, ...facts, ...held });
  }

  /**
   * Rates of models in turns, as figures; `more`: facts of all of them.
   * @param {readonly { worker: object, run: () => Promise<number>, machine: object, id: string, title: string }[]} runs
   */
  async function ratesInTurns(runs, rounds, more) {
    const { values, limits, stolen } = await inTurns(runs, rounds);
    const figures = runs.map(({ worker, run, ...facts }, i) =>
      rateFigure({
        ...facts,
        ...more,
        target: worker.facts.target,
        values: values[i],
        limits: limits[i],
        stolen,
      }),
    );
    return Promise.all(figures);
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
    limitsOf,
    endMeters,
    inTurns,
    ratesInTurns,
    open,
    callsOf,
    rateFigure,
    figure,
  };
}
