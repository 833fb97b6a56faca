// The programs that tests drive and use as oracles: which Debian package has each, which are missing, how to get them.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
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
  find: 'findutils',
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
  sha256sum: 'coreutils',
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
  // What a real cluster is made of (test/cluster); the kubelet calls some of them itself.
  busybox: 'busybox-static',
  conntrack: 'conntrack',
  containerd: 'containerd',
  ctr: 'containerd',
  e2fsck: 'e2fsprogs',
  ethtool: 'ethtool',
  ip: 'iproute2',
  ss: 'iproute2',
  iptables: 'iptables',
  'mkfs.xfs': 'xfsprogs',
  nft: 'nftables',
  nsenter: 'util-linux',
  resize2fs: 'e2fsprogs',
  socat: 'socat',
  xfs_growfs: 'xfsprogs',
  cc: 'build-essential',
  python3: 'python3-venv',
  // The headers of Python, of which ovirt-imageio builds a part.
  'python3-config': 'python3-dev',
};

/** The Go module of which a cluster is made: its `go.mod` pins Kubernetes, CoreDNS and what goes with a CSI driver. */
const KUBERNETES = 'test/cluster/kubernetes';
const CSI = 'github.com/kubernetes-csi';

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
  // Nodes and pods that nothing runs of, for tests of many.
  kwok: { go: 'sigs.k8s.io/kwok/cmd/kwok@v0.8.0' },
  // One program for every part of Kubernetes: the name that it is called by says which.
  kubeall: {
    module: KUBERNETES,
    package: './kubeall',
    names: ['kube-apiserver', 'kube-controller-manager', 'kube-proxy', 'kube-scheduler', 'kubectl', 'kubelet'],
  },
  coredns: { module: KUBERNETES, package: './coredns' },
  csihostpath: { module: KUBERNETES, package: './csihostpath' },
  pause: { module: KUBERNETES, package: './pause' },
  'csi-provisioner': { module: KUBERNETES, package: `${CSI}/external-provisioner/v6/cmd/csi-provisioner` },
  'csi-resizer': { module: KUBERNETES, package: `${CSI}/external-resizer/v2/cmd/csi-resizer` },
  'csi-snapshotter': { module: KUBERNETES, package: `${CSI}/external-snapshotter/v8/cmd/csi-snapshotter` },
  'snapshot-controller': { module: KUBERNETES, package: `${CSI}/external-snapshotter/v8/cmd/snapshot-controller` },
  // Elects a leader as the Go library of controllers does.
  elector: { module: KUBERNETES, package: './elector' },
  // A library: its Python is what is run.
  tuspy: { python: 'tuspy==1.1.0', library: true },
};

/** A digest of the files that a package of ours is built of: its module's pins and, where it lies in it, its sources. */
function digestOf({ module, package: built }) {
  const sources = built.startsWith('./') ? readdirSync(join(root, module, built)).map((name) => join(built, name)) : [];
  const hash = createHash('sha256');
  for (const name of ['go.mod', 'go.sum', ...sources.sort()])
    hash.update(name).update(readFileSync(join(root, module, name)));
  return hash.digest('hex').slice(0, 12);
}

/** What is built, with its version. */
function titleOf(kind) {
  const { go, npm, python, package: built } = kind;
  return go ?? npm ?? python ?? `${built.split('/').at(-1)}@${digestOf(kind)}`;
}

/** Where a server's program is, once it was provided; a directory for each version. */
export function serverPath(name) {
  const [program, kind] =
    Object.entries(SERVERS).find(([key, { names }]) => key === name || names?.includes(name)) ?? [];
  if (kind === undefined) throw new Error(`${name} is not in SERVERS`);
  const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'diskferry', 'tools');
  const place = join(cache, titleOf(kind).split('/').at(-1));
  const inside = kind.npm ? 'node_modules/.bin' : kind.python ? 'bin' : '';
  return join(place, inside, kind.library ? 'python3' : name === program ? program : name);
}

/** What is run to make each kind, one after another, and where each comes from. */
function recipe({ go, npm, python, module, package: built }, place) {
  const from = 'install Go from https://go.dev/dl';
  if (go) return { steps: [['go', 'install', go]], from };
  if (module) {
    // Else it calls itself v0.0.0 and turns clients away that compare versions.
    const [, version] = /k8s\.io\/kubernetes (v\S+)/.exec(readFileSync(join(root, module, 'go.mod'), 'utf8')) ?? [];
    const [major, minor] = version.slice(1).split('.');
    const stamps = {
      'k8s.io/component-base/version': { gitVersion: version, gitMajor: major, gitMinor: minor, gitTreeState: 'clean' },
      'k8s.io/client-go/pkg/version': { gitVersion: version },
    };
    const flags = Object.entries(stamps).flatMap(([name, values]) =>
      Object.entries(values).map(([key, value]) => `-X ${name}.${key}=${value}`),
    );
    const out = join(place, built.split('/').at(-1));
    const build = ['go', '-C', module, 'build', '-mod=readonly', '-buildvcs=false'];
    return { steps: [[...build, '-ldflags', `-s -w ${flags.join(' ')}`, '-o', out, built]], from };
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
    for (const other of kind.names ?? []) {
      rmSync(join(place, other), { force: true });
      symlinkSync(name, join(place, other));
    }
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
