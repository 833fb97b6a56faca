// The programs that tests drive and use as oracles: which Debian package has each, which are missing, how to get them.
import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Program → Debian 12 package. */
export const TOOLS = {
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
  'qemu-nbd': 'qemu-utils',
  nginx: 'nginx',
  nbdkit: 'nbdkit',
  losetup: 'mount',
  mount: 'mount',
  umount: 'mount',
  addpart: 'util-linux',
  blkid: 'util-linux',
  blockdev: 'util-linux',
  fallocate: 'util-linux',
  fincore: 'util-linux',
  flock: 'util-linux',
  unshare: 'util-linux',
  mkswap: 'util-linux',
  partx: 'util-linux',
  wipefs: 'util-linux',
  sfdisk: 'fdisk',
  sgdisk: 'gdisk',
  'mkfs.btrfs': 'btrfs-progs',
  'mkfs.ext4': 'e2fsprogs',
  pigz: 'pigz',
  prometheus: 'prometheus',
  promtool: 'prometheus',
  zip: 'zip',
  zstd: 'zstd',
  xz: 'xz-utils',
  lz4: 'lz4',
  bzip2: 'bzip2',
  lbzip2: 'lbzip2',
  pbzip2: 'pbzip2',
  bgzip: 'tabix',
  cmp: 'diffutils',
  diff: 'diffutils',
  gzip: 'gzip',
  tar: 'tar',
  chmod: 'coreutils',
  dd: 'coreutils',
  du: 'coreutils',
  ln: 'coreutils',
  rm: 'coreutils',
  stat: 'coreutils',
  md5sum: 'coreutils',
  chromium: 'chromium',
  curl: 'curl',
  squid: 'squid-openssl',
  openssl: 'openssl',
  'docker-registry': 'docker-registry',
  skopeo: 'skopeo',
  strace: 'strace',
  buildah: 'buildah',
  debootstrap: 'debootstrap',
  etcd: 'etcd-server',
  runc: 'runc',
  cc: 'build-essential',
  python3: 'python3-venv',
  // The headers of Python, of which ovirt-imageio builds a part.
  'python3-config': 'python3-dev',
};

/**
 * Servers that tests talk to, and programs, that Debian does not have: a Go module, an npm package or a Python package,
 * pinned, built into the cache; or a package of a Go module of ours, which pins what it is built of.
 */
export const SERVERS = {
  versitygw: { go: 'github.com/versity/versitygw/cmd/versitygw@v1.8.0' },
  'fake-gcs-server': { go: 'github.com/fsouza/fake-gcs-server@v1.56.1' },
  'azurite-blob': { npm: 'azurite@3.37.0' },
  'ovirt-imageio': { python: 'ovirt-imageio==2.5.1' },
  // A program: Debian's python3-snappy cannot write the framing format with the Python beside it.
  s2c: { go: 'github.com/klauspost/compress/s2/cmd/s2c@v1.20.4' },
  'kube-apiserver': {
    module: 'test/cluster/kubernetes',
    package: 'k8s.io/kubernetes/cmd/kube-apiserver',
    version: '1.36.3',
  },
  // A library: its Python is what is run.
  tuspy: { python: 'tuspy==1.1.0', library: true },
};

/** What is built, with its version. */
const titleOf = ({ go, npm, python, package: built, version }) => go ?? npm ?? python ?? `${built}@${version}`;

/** Where a server's program is, once it was provided; a directory for each version. */
export function serverPath(name) {
  const kind = SERVERS[name];
  const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'diskferry', 'tools');
  const place = join(cache, titleOf(kind).split('/').at(-1));
  const inside = kind.npm ? 'node_modules/.bin' : kind.python ? 'bin' : '';
  return join(place, inside, kind.library ? 'python3' : name);
}

/** What is run to make each kind, one after another, and where each comes from. */
function recipe({ go, npm, python, module, package: built, version }, place) {
  const from = 'install Go from https://go.dev/dl';
  if (go) return { steps: [['go', 'install', go]], from };
  if (module) {
    // Else it calls itself v0.0.0 and turns clients away that compare versions.
    const [, minor] = version.split('.');
    const stamps = { gitVersion: `v${version}`, gitMajor: '1', gitMinor: minor, gitTreeState: 'clean' };
    const flags = Object.entries(stamps).map(([key, value]) => `-X k8s.io/component-base/version.${key}=${value}`);
    const out = join(place, built.split('/').at(-1));
    return {
      steps: [['go', '-C', module, 'build', '-mod=readonly', '-ldflags', `-s -w ${flags.join(' ')}`, '-o', out, built]],
      from,
    };
  }
  if (npm) {
    const quiet = ['--no-audit', '--no-fund', '--loglevel=error'];
    return { steps: [['npm', 'install', '--prefix', place, ...quiet, npm]], from: 'install npm' };
  }
  return {
    steps: [
      ['python3', '-m', 'venv', place],
      [join(place, 'bin', 'pip'), 'install', '--quiet', '--disable-pip-version-check', python],
    ],
    from: 'apt-get install python3-venv',
  };
}

function provideServers() {
  for (const [name, kind] of Object.entries(SERVERS)) {
    const path = serverPath(name);
    const place = join(path, kind.npm ? '../../..' : kind.python ? '../..' : '..');
    // A Python is there before the library.
    const whole = kind.library ? join(place, 'whole') : path;
    if (existsSync(whole)) continue;
    const what = titleOf(kind);
    process.stderr.write(`building ${what}, which takes some minutes the first time\n`);
    mkdirSync(place, { recursive: true });
    // The binary only: Go's own caches stay where they are.
    const env = { ...process.env, GOBIN: place, GOFLAGS: '-trimpath', ...(kind.module ? { CGO_ENABLED: '0' } : {}) };
    const { steps, from } = recipe(kind, place);
    for (const [program, ...args] of steps) {
      const { status, error } = spawnSync(program, args, { stdio: ['ignore', 2, 2], env, cwd: root });
      if (error?.code === 'ENOENT') return `${program} is missing: ${from}`;
      if (status !== 0) return `${what} could not be installed: the messages above say why`;
    }
    if (kind.library) writeFileSync(whole, '');
  }
  return undefined;
}

/** Where Debian keeps programs for administrators, which users do not have in PATH. */
const SBIN = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

/** The environment that tests run in: PATH with sbin and rustup's directory in it. */
export function environment(env = process.env) {
  const cargo = join(env.CARGO_HOME ?? join(homedir(), '.cargo'), 'bin');
  return { ...env, PATH: [...new Set([...(env.PATH ?? '').split(delimiter), ...SBIN, cargo])].join(delimiter) };
}

/** Whether a program can be run. */
export function has(program, env = environment()) {
  return env.PATH.split(delimiter).some((directory) => {
    try {
      accessSync(join(directory, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Debian packages of the tools that are missing, each once. */
export function missingPackages(env = environment()) {
  const missing = Object.entries(TOOLS).filter(([program]) => !has(program, env));
  return [...new Set(missing.map(([, name]) => name))];
}

/**
 * Installs what is missing where that is possible. Returns a sentence that says what is left for a person to do, or
 * undefined when all is there.
 */
export function provide() {
  if (!has('cargo')) return 'Rust is missing: install it from https://rustup.rs';
  return provideServers() ?? providePackages();
}

function providePackages() {
  const packages = missingPackages();
  if (packages.length === 0) return undefined;
  const byHand = `apt-get install ${packages.join(' ')}`;
  if (process.getuid?.() !== 0 || !existsSync('/usr/bin/apt-get'))
    return `tools of the tests are missing: run \`${byHand}\` as root`;
  process.stderr.write(`installing what the tests need: ${packages.join(' ')}\n`);
  // A server that a package starts by itself would take port 80: this is how Debian is told not to.
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' };
  const apt = (...args) => spawnSync('apt-get', args, { stdio: ['ignore', 2, 2], env }).status === 0;
  const install = () => apt('install', '-y', '-q', '--no-install-recommends', ...packages);
  if (!install() && !(apt('update', '-q') && install())) return `\`${byHand}\` failed: its messages above say why`;
  const still = missingPackages();
  return still.length === 0 ? undefined : `these packages did not bring what the tests need: ${still.join(' ')}`;
}

if (process.argv[1]?.endsWith('toolchain.mjs')) {
  const sentence = provide();
  if (sentence) {
    process.stderr.write(`${sentence}\n`);
    process.exitCode = 1;
  }
}
