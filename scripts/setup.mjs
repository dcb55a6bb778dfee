// Makes a fresh clone ready: npm packages by the lock file, system packages that only some features need,
// and dist/ when sources changed. Plain JavaScript on Node's own modules, since it runs before anything is
// installed. `node scripts/setup.mjs` does what `npm start` does before it starts.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
const NODE_FLOOR = [20, 19];
const APT_TIMEOUT_MS = 300_000;

/** What some features or suites need of the system, and how to find out whether it is there. */
const SYSTEM = {
  compiler: {
    packages: ['clang'],
    present: () => [process.env.CC, 'clang', 'gcc', 'cc'].some((name) => name && answers(name, '--version')),
    without: 'no C compiler: lutra uses WebAssembly instead of native code',
  },
  simde: {
    packages: ['libsimde-dev'],
    present: () => ['/usr/include', '/usr/local/include'].some((dir) => existsSync(join(dir, 'simde'))),
    without: "no SIMDe headers: code for other instruction sets than this processor's is not run",
  },
  arm: {
    packages: ['gcc-aarch64-linux-gnu', 'libc6-dev-arm64-cross', 'qemu-user'],
    present: () => answers('aarch64-linux-gnu-gcc', '--version') && answers('qemu-aarch64', '--version'),
    without: 'no compiler and emulator for 64-bit ARM: its code is not run',
  },
  standalone: {
    packages: ['cmake', 'make', 'valgrind'],
    present: () => answers('cmake', '--version') && answers('valgrind', '--version'),
    without: 'no CMake or no Valgrind: projects of compile --standalone are not built, or not checked',
  },
  browser: {
    packages: ['chromium-headless-shell'],
    present: () =>
      ['chromium-headless-shell', 'chromium', 'chromium-browser', 'google-chrome'].some((name) =>
        answers(name, '--version'),
      ),
    without: 'no Chromium: nothing is run in a browser',
  },
};

/** Ends the process when this Node is older than the floor in package.json. */
export function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major > NODE_FLOOR[0] || (major === NODE_FLOOR[0] && minor >= NODE_FLOOR[1])) return;
  console.error(`lutra needs Node ${NODE_FLOOR.join('.')} or newer; this is ${process.versions.node}.`);
  process.exit(6);
}

/** True when the command could be started and ended well. */
function answers(command, ...args) {
  return spawnSync(command, args, { stdio: 'ignore', timeout: 10_000 }).status === 0;
}

/** Runs a command in the repository; its output is shown only when it fails. */
function runQuietly(command, args, options = {}) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 26,
    ...options,
  });
  if (status === 0) return true;
  console.error(`${command} ${args.join(' ')} failed${error ? `: ${error.message}` : ''}`);
  console.error(`${stdout ?? ''}${stderr ?? ''}`.trimEnd());
  return false;
}

/** True when what npm installed is what the lock file says; packages for other platforms may be absent. */
function packagesMatchLock() {
  const installed = join(root, 'node_modules', '.package-lock.json');
  if (!existsSync(installed)) return false;
  const packages = (file) => JSON.parse(readFileSync(file, 'utf8')).packages;
  const have = packages(installed);
  return Object.entries(packages(join(root, 'package-lock.json'))).every(([path, wanted]) => {
    if (path === '') return true;
    const found = have[path];
    if (found === undefined) return wanted.optional === true;
    return found.version === wanted.version && found.integrity === wanted.integrity;
  });
}

function installPackages() {
  if (packagesMatchLock()) return;
  console.error('Installing npm packages ...');
  // What the lock file says, and without changing it. Not `npm ci`: that refuses a lock file which was
  // written where the registry lacks the optional packages of other platforms.
  const install = ['install', '--no-save', '--no-audit', '--no-fund'];
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm';
  const shell = process.platform === 'win32';
  if (!runQuietly(npm, install, { shell })) process.exit(6);
}

/**
 * Installs what is missing where that needs no question: as root, through apt-get. Returns the lines that
 * say what is still missing and what follows from it; nothing here is fatal.
 */
function installSystemPackages(names) {
  const missing = names.filter((name) => !SYSTEM[name].present());
  const canInstall =
    process.platform === 'linux' && process.getuid?.() === 0 && answers('apt-get', '--version');
  if (missing.length > 0 && canInstall && !process.env.LUTRA_NO_SYSTEM_PACKAGES) {
    const packages = missing.flatMap((name) => SYSTEM[name].packages);
    console.error(`Installing ${packages.join(', ')} ...`);
    const options = {
      stdio: 'ignore',
      timeout: APT_TIMEOUT_MS,
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
    };
    const install = ['install', '-y', '--no-install-recommends', ...packages];
    if (spawnSync('apt-get', install, options).status !== 0) {
      spawnSync('apt-get', ['update'], options);
      spawnSync('apt-get', install, options);
    }
  }
  return missing.filter((name) => !SYSTEM[name].present()).map((name) => SYSTEM[name].without);
}

/** Changes whenever dist/ would. */
function sourceHash() {
  const files = ['package-lock.json', 'tsconfig.json', 'tsconfig.build.json'].map((name) => join(root, name));
  for (const entry of readdirSync(join(root, 'src'), { withFileTypes: true, recursive: true })) {
    if (!entry.isFile() || !entry.name.endsWith('.ts') || entry.name.endsWith('.test.ts')) continue;
    files.push(join(entry.parentPath, entry.name));
  }
  const hash = createHash('sha256');
  for (const file of files.sort()) hash.update(`${relative(root, file)}\0`).update(readFileSync(file));
  return hash.digest('hex');
}

/** Builds dist/ unless it was built from these very sources. It is replaced only by a whole build. */
function build() {
  const dist = join(root, 'dist');
  const stamp = join(dist, '.sources');
  const hash = sourceHash();
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) return;
  console.error('Building ...');
  const fresh = join(root, `dist.${process.pid}`);
  const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  const built = runQuietly(process.execPath, [tsc, '-p', 'tsconfig.build.json', '--outDir', fresh]);
  if (!built) {
    rmSync(fresh, { recursive: true, force: true });
    process.exit(1);
  }
  writeFileSync(join(fresh, '.sources'), hash);
  rmSync(dist, { recursive: true, force: true });
  renameSync(fresh, dist);
}

/**
 * Makes everything ready; `system` names entries of SYSTEM. Returns one line for each that is missing.
 * Without npm packages or with sources that do not compile nothing can run: then the process ends.
 */
export function setup(system) {
  checkNode();
  installPackages();
  const notes = installSystemPackages(system);
  build();
  return notes;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const note of setup(['compiler'])) console.error(note);
}
