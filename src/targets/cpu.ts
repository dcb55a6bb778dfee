/** What the processor of this machine is: the choice of target and `lutra doctor` need to know. */
import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { promisify } from 'node:util';

export interface CpuInfo {
  /** As Node names it: `x64`, `arm64`, ... */
  readonly arch: string;
  readonly model: string;
  /** Cores without counting hyper-threads, of those this machine shows us. */
  readonly physicalCores: number;
  readonly logicalCores: number;
  /** Lower case, as /proc/cpuinfo spells them: `avx2`, `avx512_vnni`, `asimddp`, ... */
  readonly features: ReadonlySet<string>;
  /** Bytes of the first core's caches; 0 where unknown. */
  readonly caches: { readonly l1d: number; readonly l2: number; readonly l3: number };
}

const UNKNOWN_CACHES = { l1d: 0, l2: 0, l3: 0 };

/** The fields of /proc/cpuinfo that matter. Its `flags` are what the kernel lets programs use, not merely what the chip has. */
export function parseProcCpuinfo(text: string): {
  readonly model: string | undefined;
  readonly features: ReadonlySet<string>;
  readonly logicalCores: number;
} {
  const field = (name: string) => new RegExp(`^${name}\\s*:\\s*(.+)$`, 'm').exec(text)?.[1]?.trim();
  const features = field('flags') ?? field('Features') ?? '';
  return {
    model: field('model name') ?? field('Model') ?? field('Hardware'),
    features: new Set(features.toLowerCase().split(/\s+/).filter(Boolean)),
    logicalCores: text.match(/^processor\s*:/gm)?.length ?? 0,
  };
}

/** Sizes as sysfs writes them: `48K`, `2048K`, `32M`. */
export function parseCacheSize(text: string): number {
  const match = /^(\d+)([KMG]?)$/.exec(text.trim());
  if (match === null) return 0;
  const unit = { '': 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3 }[match[2] as '' | 'K' | 'M' | 'G'];
  return Number(match[1]) * unit;
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return (await readFile(path, 'utf8')).trim();
  } catch {
    return undefined;
  }
}

const SYSFS_CPU = '/sys/devices/system/cpu';

/** Cores of the same package and core id are hyper-threads of one core. */
async function linuxPhysicalCores(): Promise<number> {
  const cores = new Set<string>();
  const entries = await readdir(SYSFS_CPU).catch(() => []);
  for (const entry of entries.filter((name) => /^cpu\d+$/.test(name))) {
    const topology = `${SYSFS_CPU}/${entry}/topology`;
    const [socket, core] = await Promise.all([
      readText(`${topology}/physical_package_id`),
      readText(`${topology}/core_id`),
    ]);
    if (socket !== undefined && core !== undefined) cores.add(`${socket}:${core}`);
  }
  return cores.size;
}

async function linuxCaches(): Promise<CpuInfo['caches']> {
  const caches = { ...UNKNOWN_CACHES };
  const folder = `${SYSFS_CPU}/cpu0/cache`;
  for (const index of await readdir(folder).catch(() => [])) {
    const [level, type, size] = await Promise.all(
      ['level', 'type', 'size'].map((name) => readText(`${folder}/${index}/${name}`)),
    );
    if (size === undefined || type === 'Instruction') continue;
    if (level === '1') caches.l1d = parseCacheSize(size);
    if (level === '2') caches.l2 = parseCacheSize(size);
    if (level === '3') caches.l3 = parseCacheSize(size);
  }
  return caches;
}

async function sysctl(name: string): Promise<string | undefined> {
  try {
    return (await promisify(execFile)('sysctl', ['-n', name])).stdout.trim();
  } catch {
    return undefined;
  }
}

/** What macOS calls the features of ARM processors, and Linux' names for them. */
const MAC_ARM_FEATURES: readonly (readonly [sysctl: string, name: string])[] = [
  ['hw.optional.AdvSIMD', 'asimd'],
  ['hw.optional.arm.FEAT_DotProd', 'asimddp'],
  ['hw.optional.arm.FEAT_I8MM', 'i8mm'],
];

async function macArmFeatures(): Promise<readonly string[]> {
  if (process.arch !== 'arm64') return [];
  const values = await Promise.all(MAC_ARM_FEATURES.map(([key]) => sysctl(key)));
  return MAC_ARM_FEATURES.flatMap(([, name], i) => (values[i] === '1' ? [name] : []));
}

async function detectMac(): Promise<Partial<CpuInfo>> {
  const [model, physical, leaf1, leaf7, l1d, l2, l3] = await Promise.all(
    [
      'machdep.cpu.brand_string',
      'hw.physicalcpu',
      'machdep.cpu.features',
      'machdep.cpu.leaf7_features',
      'hw.l1dcachesize',
      'hw.l2cachesize',
      'hw.l3cachesize',
    ].map(sysctl),
  );
  // Its names differ in punctuation from Linux': AVX512VNNI there is avx512_vnni here.
  const features = `${leaf1 ?? ''} ${leaf7 ?? ''}`
    .toLowerCase()
    .split(/\s+/)
    .filter(Boolean)
    .map((name) => (name === 'avx512vnni' ? 'avx512_vnni' : name));
  return {
    ...(model === undefined ? {} : { model }),
    physicalCores: Number(physical ?? 0),
    features: new Set([...features, ...(await macArmFeatures())]),
    caches: { l1d: Number(l1d ?? 0), l2: Number(l2 ?? 0), l3: Number(l3 ?? 0) },
  };
}

async function detectLinux(): Promise<Partial<CpuInfo>> {
  const [text, physicalCores, caches] = await Promise.all([
    readText('/proc/cpuinfo'),
    linuxPhysicalCores(),
    linuxCaches(),
  ]);
  const parsed = parseProcCpuinfo(text ?? '');
  return {
    ...(parsed.model === undefined ? {} : { model: parsed.model }),
    features: parsed.features,
    physicalCores,
    caches,
  };
}

/** Never throws: what cannot be found out is empty or 0, and core counts fall back to what Node sees. */
export async function detectCpu(): Promise<CpuInfo> {
  const seen = cpus();
  const logicalCores = Math.max(1, seen.length);
  const found: Partial<CpuInfo> =
    process.platform === 'linux'
      ? await detectLinux()
      : process.platform === 'darwin'
        ? await detectMac()
        : {};
  const physicalCores = found.physicalCores ?? 0;
  return {
    arch: process.arch,
    model: found.model ?? seen[0]?.model ?? 'unknown',
    physicalCores: physicalCores > 0 ? Math.min(physicalCores, logicalCores) : logicalCores,
    logicalCores,
    features: found.features ?? new Set(),
    caches: found.caches ?? UNKNOWN_CACHES,
  };
}
