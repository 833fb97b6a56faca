import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './images.ts';
import { tool } from './tools.ts';

/** A container of an image: what the kubelet would give it. */
export interface ContainerOptions {
  /** The root file system, which is read-only inside. */
  readonly rootfs: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Bytes, page cache counted. */
  readonly memory: number;
  /** Path inside → path outside. */
  readonly mounts: Readonly<Record<string, string>>;
  /** Path inside → block device outside. */
  readonly devices?: Readonly<Record<string, string>>;
  /** Its first process is sent SIGTERM. */
  readonly stop?: AbortSignal;
}

export interface Finished {
  readonly exit: number | null;
  readonly log: string;
  /** Bytes at the worst moment, page cache counted. */
  readonly peak: number;
}

/** KubeVirt's user of disks. */
export const USER = 107;
let count = 0;

/** Runs a container to its end under runc: as user 107, without capabilities, in the network of the test. */
export async function runContainer(directory: string, options: ContainerOptions): Promise<Finished> {
  const name = `diskferry-test-${process.pid}-${count++}`;
  const bundle = join(directory, name);
  await mkdir(bundle, { recursive: true });
  await writeFile(join(bundle, 'config.json'), JSON.stringify(await configOf(options, name)));
  const child = spawn(tool('runc', 'runc'), ['--root', join(directory, 'runc'), 'run', '--keep', '-b', bundle, name], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let log = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (log += chunk));
  const kill = () => void run('runc', 'runc', ['--root', join(directory, 'runc'), 'kill', name, 'TERM']);
  options.stop?.addEventListener('abort', kill, { once: true });
  const exit = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  options.stop?.removeEventListener('abort', kill);
  const peak = await peakOf(name);
  await run('runc', 'runc', ['--root', join(directory, 'runc'), 'delete', '--force', name]);
  return { exit, log, peak };
}

/** Of a control group of version 1 or 2, which lives until the container is deleted. */
async function peakOf(name: string): Promise<number> {
  const files = [
    `/sys/fs/cgroup/memory/${name}/memory.max_usage_in_bytes`,
    `/sys/fs/cgroup/${name}/memory.peak`,
  ].filter((path) => existsSync(path));
  return files[0] === undefined ? Number.NaN : Number(await readFile(files[0], 'utf8'));
}

/** OCI runtime-spec 1.0, config.md and config-linux.md. */
async function configOf(options: ContainerOptions, name: string): Promise<object> {
  const devices = await Promise.all(
    Object.entries(options.devices ?? {}).map(async ([path, outside]) => {
      const numbers = await run('stat', 'coreutils', ['-L', '-c', '%Hr %Lr', outside]);
      const [major = 0, minor = 0] = numbers.trim().split(' ').map(Number);
      return { path, type: 'b', major, minor, fileMode: 0o660, uid: USER, gid: USER };
    }),
  );
  const none: string[] = [];
  return {
    ociVersion: '1.0.2',
    process: {
      terminal: false,
      user: { uid: USER, gid: USER },
      args: options.args,
      env: Object.entries({ PATH: '/usr/sbin:/usr/bin:/sbin:/bin', ...options.env }).map((pair) => pair.join('=')),
      cwd: '/',
      noNewPrivileges: true,
      capabilities: { bounding: none, effective: none, inheritable: none, permitted: none, ambient: none },
    },
    root: { path: options.rootfs, readonly: true },
    hostname: 'importer',
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      {
        destination: '/dev',
        type: 'tmpfs',
        source: 'tmpfs',
        options: ['nosuid', 'strictatime', 'mode=755', 'size=64k'],
      },
      ...Object.entries(options.mounts).map(([destination, source]) => ({
        destination,
        source,
        type: 'bind',
        options: ['rbind', 'rw', 'nosuid', 'nodev'],
      })),
    ],
    linux: {
      // No network namespace: the server that the test has started is on the host's loopback.
      namespaces: ['pid', 'ipc', 'uts', 'mount'].map((type) => ({ type })),
      cgroupsPath: `/${name}`,
      devices,
      resources: {
        memory: { limit: options.memory },
        devices: [
          { allow: false, access: 'rwm' },
          ...devices.map(({ type, major, minor }) => ({ allow: true, type, major, minor, access: 'rwm' })),
        ],
      },
      maskedPaths: ['/proc/kcore', '/proc/keys', '/proc/timer_list'],
      readonlyPaths: ['/proc/sys', '/proc/sysrq-trigger', '/proc/irq', '/proc/bus'],
    },
  };
}
