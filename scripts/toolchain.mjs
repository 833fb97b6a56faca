// The programs that tests drive and use as oracles: which Debian package has each, which are missing, how to get them.
import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';

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
  fincore: 'util-linux',
  mkswap: 'util-linux',
  partx: 'util-linux',
  wipefs: 'util-linux',
  sfdisk: 'fdisk',
  sgdisk: 'gdisk',
  'mkfs.btrfs': 'btrfs-progs',
  'mkfs.ext4': 'e2fsprogs',
  pigz: 'pigz',
  zstd: 'zstd',
  xz: 'xz-utils',
  lz4: 'lz4',
  bzip2: 'bzip2',
  lbzip2: 'lbzip2',
  pbzip2: 'pbzip2',
  bgzip: 'tabix',
  cmp: 'diffutils',
  curl: 'curl',
  squid: 'squid-openssl',
  openssl: 'openssl',
  strace: 'strace',
  cc: 'build-essential',
};

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
