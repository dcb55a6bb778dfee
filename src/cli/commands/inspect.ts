import { type Command, Option } from 'commander';
import { generateC, planCheckpoint } from '../../artifact/build.ts';
import { type Artifact, isArtifact, openArtifact } from '../../artifact/open.ts';
import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { openCheckpoint } from '../../checkpoint/open.ts';
import { modelSource, openUnfetched, resolveModel } from '../../checkpoint/resolve.ts';
import { LutraError } from '../../common/errors.ts';
import { drawDot } from '../../graph/draw/dot.ts';
import { drawSvg } from '../../graph/draw/svg.ts';
import type { Graph } from '../../graph/ir.ts';
import { printGraph } from '../../graph/print.ts';
import { printProgram } from '../../loops/print.ts';
import type { ModelInfo } from '../../models/info.ts';
import { lowerProgram } from '../../plan/lower.ts';
import type { Plan } from '../../plan/types.ts';
import { detectHost } from '../../runtime/load.ts';
import { checkTarget, defaultThreads } from '../../runtime/targets.ts';
import { C_MACHINES, type CMachine, findMachine, runnableMachines } from '../../targets/c/machines.ts';
import { emitWat } from '../../targets/wasm/emit.ts';
import { WASM_MACHINES, type WasmMachine } from '../../targets/wasm/machines.ts';
import { type Costs, estimateCosts } from '../costs.ts';
import type { Deps } from '../deps.ts';
import { planText, summaryText } from '../inspect-text.ts';
import { interruptible } from '../io.ts';
import { addContextOption, addTargetOption, MODEL_HELP } from '../model-options.ts';
import { createProgressBar } from '../progress.ts';
import { byteSize } from '../render.ts';

const STAGES = ['summary', 'graph', 'plan', 'loops', 'code'] as const;
const FORMATS = ['text', 'dot', 'svg'] as const;

interface InspectFlags {
  readonly stage: (typeof STAGES)[number];
  readonly format: (typeof FORMATS)[number];
  readonly imported?: true;
  readonly target?: string;
  readonly context?: number;
  readonly json?: true;
}

/** What can be looked at: a checkpoint taken through the planner, or an artifact, which has no graph. */
interface Subject {
  readonly info: ModelInfo;
  readonly plan: Plan;
  readonly graphs?: { readonly imported: Graph; readonly fused: Graph };
  readonly artifact?: Artifact;
  /** Bytes of the checkpoint's weights, and how many of them are still on the hub. */
  readonly checkpoint?: { readonly bytes: number; readonly remote: number };
}

/** `lutra inspect MODEL --stage STAGE`: a model at any stage of its way. */
export function addInspectCommand(program: Command, deps: Deps): void {
  const command = program
    .command('inspect')
    .description('show a model at one stage of its way to code')
    .argument('[model]', MODEL_HELP, 'embedded')
    .addOption(new Option('--stage <stage>', 'what to show').choices(STAGES).default('summary'))
    .addOption(new Option('--format <format>', 'how to show a graph').choices(FORMATS).default('text'))
    .option('--imported', 'the graph before the passes');
  addContextOption(addTargetOption(command))
    .option('--json', 'print one JSON object')
    .action((model: string, flags: InspectFlags) => inspect(deps, model, flags));
}

async function inspect(deps: Deps, model: string, flags: InspectFlags): Promise<void> {
  if (flags.target !== undefined) checkTarget(flags.target);
  if (flags.stage !== 'graph' && (flags.format !== 'text' || flags.imported)) {
    throw new LutraError('usage', '--format and --imported are for --stage graph');
  }
  if (flags.target !== undefined && (flags.stage === 'graph' || flags.stage === 'plan')) {
    throw new LutraError('usage', `--target means nothing for --stage ${flags.stage}`, {
      hint: 'Graph and plan are the same for every target; --stage loops and code differ.',
    });
  }
  const subject = await openSubject(deps, modelSource(model), flags);
  const { info, plan } = subject;
  if (flags.stage === 'summary') {
    const costs = await costsOf(deps, subject, flags.target);
    deps.io.out(
      flags.json
        ? `${JSON.stringify({ ...info, costs })}\n`
        : summaryText(
            info,
            plan,
            costs,
            subject.artifact === undefined ? [] : artifactFacts(subject.artifact),
          ),
    );
  } else if (flags.json && flags.stage === 'plan') deps.io.out(`${JSON.stringify(plan)}\n`);
  else {
    const text = await stageText(subject, flags.stage, flags);
    deps.io.out(flags.json ? `${JSON.stringify({ stage: flags.stage, text })}\n` : text);
  }
}

/** What a model costs here: see `estimateCosts`. */
async function costsOf(deps: Deps, { plan, checkpoint }: Subject, target = 'auto'): Promise<Costs> {
  const machines = await chooseMachines(target);
  const { cpu } = await detectHost();
  const threads = defaultThreads(cpu);
  const bar = createProgressBar(deps.io);
  return interruptible(deps.io, (signal) =>
    estimateCosts(plan, machines.best.name, threads, checkpoint, (name, count) =>
      deps.bench.bandwidth(name, count, { signal, onProgress: bar.update, onWarning: bar.warn }),
    ),
  ).finally(() => bar.clear());
}

async function openSubject(deps: Deps, source: string, flags: InspectFlags): Promise<Subject> {
  const { warn: onWarning } = createProgressBar(deps.io);
  const remote = await interruptible(deps.io, (signal) => openUnfetched(source, { signal, onWarning }));
  if (remote !== undefined) return planned(remote.checkpoint, flags, remote.downloadBytes);
  const folder = await resolveModel(source);
  if (await isArtifact(folder)) {
    if (flags.context !== undefined) {
      throw new LutraError('usage', `${folder} is compiled: its context is fixed`, {
        hint: 'Inspect the checkpoint it was made from.',
      });
    }
    const artifact = await openArtifact(folder);
    return { info: artifact.manifest.model as unknown as ModelInfo, plan: artifact.plan, artifact };
  }
  return planned(await openCheckpoint(folder), flags, 0);
}

/** Takes a checkpoint through the planner, and closes it. */
async function planned(checkpoint: Checkpoint, flags: InspectFlags, remote: number): Promise<Subject> {
  try {
    const { info, plan, imported, graph } = planCheckpoint(checkpoint, {
      cacheElem: 'f32',
      head: 'stored',
      ...(flags.context === undefined ? {} : { context: flags.context }),
    });
    const bytes = [...checkpoint.tensors.values()].reduce((sum, tensor) => sum + tensor.bytes, 0);
    return { info, plan, graphs: { imported, fused: graph }, checkpoint: { bytes, remote } };
  } finally {
    await checkpoint.close();
  }
}

async function stageText(
  { plan, graphs }: Subject,
  stage: Exclude<InspectFlags['stage'], 'summary'>,
  flags: InspectFlags,
): Promise<string> {
  switch (stage) {
    case 'plan':
      return planText(plan);
    case 'graph': {
      if (graphs === undefined) {
        throw new LutraError('unsupported', 'a compiled model has no graph any more', {
          hint: 'Inspect the checkpoint it was made from.',
        });
      }
      const graph = flags.imported ? graphs.imported : graphs.fused;
      return { text: printGraph, dot: drawDot, svg: drawSvg }[flags.format](graph);
    }
    case 'loops':
      return printProgram(lowerProgram(plan, (await chooseMachines(flags.target)).best));
    case 'code': {
      const machines = await chooseMachines(flags.target);
      if (machines.kind === 'wasm') {
        return emitWat(lowerProgram(plan, machines.best), machines.best, { shared: true });
      }
      return generateC(
        plan,
        machines.all.map(({ name }) => name),
      );
    }
  }
}

function artifactFacts({ manifest }: Artifact): readonly (readonly [string, string])[] {
  const bytes = Object.values(manifest.files).reduce((sum, file) => sum + file.bytes, 0);
  return [
    ['compiled', `by lutra ${manifest.compiler} for ${manifest.target}; ${byteSize(bytes)} on disk`],
    ['runs on', manifest.code.flatMap(({ machines }) => machines).join(', ')],
  ];
}

type Machines =
  | { readonly kind: 'c'; readonly best: CMachine; readonly all: readonly CMachine[] }
  | { readonly kind: 'wasm'; readonly best: WasmMachine };

/**
 * The machines a target means: any by name, whatever this computer is, else the best of this computer. `all`
 * are those of one C file, which always has a scalar variant.
 */
async function chooseMachines(target = 'auto'): Promise<Machines> {
  const host = await detectHost();
  if (target === 'wasm' || target.startsWith('wasm:')) {
    const named = WASM_MACHINES.find(({ name }) => name === target);
    return { kind: 'wasm', best: named ?? host.wasm[0] ?? WASM_MACHINES.at(-1)! };
  }
  const runnable = runnableMachines(host.cpu);
  const named = findMachine(target);
  if (named === undefined) return { kind: 'c', best: runnable[0]!, all: runnable };
  const all = C_MACHINES.filter((machine) => machine === named || machine.isa === 'scalar');
  return { kind: 'c', best: named, all };
}
