// Processes of a node: its first one, services in its namespaces, and who is found there.
import { type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { open, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { tool } from '../support/tools.ts';
import { type Layout, type Node, partsOf, places } from './layout.ts';
import type { Service } from './services.ts';

const NODE_SCRIPT = fileURLToPath(new URL('node.sh', import.meta.url));
/** The kernel's namespaces of a node; user namespaces are the machine's. */
const NAMESPACES = ['--mount', '--uts', '--ipc', '--net', '--pid'];
const ENVIRONMENT = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/root', LANG: 'C.UTF-8' };

export const logOf = (node: Node, service: string): string => join(partsOf(node).services, `${service}.log`);
const recordOf = (node: Node, service: string): string => join(partsOf(node).services, `${service}.pid`);

/** Starts a program that outlives this one; the process id of what was spawned. */
async function launch(program: string, args: readonly string[], log: string): Promise<number> {
  const file = await open(log, 'a');
  try {
    const options: SpawnOptions = { cwd: '/', env: ENVIRONMENT, detached: true, stdio: ['ignore', file.fd, file.fd] };
    const child = spawn(program, args, options);
    await once(child, 'spawn');
    child.unref();
    return child.pid ?? 0;
  } finally {
    await file.close();
  }
}

/** Makes a node's namespaces, with its first process in them. */
export async function startNode(layout: Layout, node: Node, pause: string): Promise<void> {
  const { directory, namespace } = node;
  const { ready } = partsOf(node);
  await rm(ready, { force: true });
  const own = [
    '--mount',
    '--pid',
    '--uts',
    '--ipc',
    '--fork',
    '--kill-child',
    '--mount-proc',
    '--propagation',
    'private',
  ];
  const first = ['sh', NODE_SCRIPT, node.name, directory, places(layout).volumes, pause];
  const args = [`--net=/run/netns/${namespace}`, tool('unshare', 'util-linux'), ...own, ...first];
  const log = logOf(node, 'node');
  const outer = await launch(tool('nsenter', 'util-linux'), args, log);
  await until(`the namespaces of ${node.name}`, 20, log, async () => {
    if (!alive(outer)) throw new Error(`the first process of ${node.name} has ended: ${await tail(log)}`);
    return readFile(ready).then(
      () => true,
      () => false,
    );
  });
  await writeFile(recordOf(node, 'node'), String(outer));
}

/** Starts a service of a node. */
export async function startService(node: Node, { name, program, args }: Service): Promise<void> {
  const target = String(await processOf(node, 'node'));
  const entered = ['--target', target, ...NAMESPACES, '--', program, ...args];
  const pid = await launch(tool('nsenter', 'util-linux'), entered, logOf(node, name));
  await writeFile(recordOf(node, name), String(pid));
  // nsenter(1) forks once it is inside.
  await until(
    `${name} of ${node.name}`,
    10,
    logOf(node, name),
    async () => !alive(pid) || (await childOf(pid)) !== undefined,
  );
}

/** The only child of a process. */
async function childOf(pid: number): Promise<number | undefined> {
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '');
  return children.trim().split(' ').filter(Boolean).map(Number)[0];
}

/** The process of a service, as the machine numbers it. Throws when it is not there. */
export async function processOf(node: Node, service: string): Promise<number> {
  const outer = Number(await readFile(recordOf(node, service), 'utf8'));
  const child = await childOf(outer);
  // Numbers are given again: it is that process only if it is in the node.
  const network = await stat(join('/run/netns', node.namespace)).catch(() => undefined);
  const within = await readlink(`/proc/${child}/ns/net`).catch(() => '');
  if (child === undefined || within !== `net:[${network?.ino}]`)
    throw new Error(`${service} of ${node.name} does not run: ${await tail(logOf(node, service))}`);
  return child;
}

/** Signals a service. nsenter(1) stops with what it started (util-linux, fork_into_new_pidns), and has to go on with it, too. */
export async function signalService(node: Node, service: string, signal: NodeJS.Signals): Promise<void> {
  const outer = Number(await readFile(recordOf(node, service), 'utf8'));
  process.kill(await processOf(node, service), signal);
  // It may have ended with what it started.
  if (signal !== 'SIGSTOP' && alive(outer)) process.kill(outer, 'SIGCONT');
}

/** How to run a command in the namespaces of a node: what to put before it. */
export async function inside(node: Node): Promise<string[]> {
  return ['--target', String(await processOf(node, 'node')), ...NAMESPACES, '--'];
}

export function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** The last lines of a log. */
export async function tail(path: string, lines = 8): Promise<string> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return text.trimEnd().split('\n').slice(-lines).join('\n') || '(its log is empty)';
}

/** Asks until it is so. Throws after `seconds`, with the log to look at. */
export async function until(what: string, seconds: number, log: string, probe: () => Promise<boolean>): Promise<void> {
  const latest = performance.now() + seconds * 1000;
  while (!(await probe())) {
    if (performance.now() > latest)
      throw new Error(`${what}: not after ${seconds} s. ${log} ends with:\n${await tail(log)}`);
    await sleep(100);
  }
}

/** Processes of the machine that are in one of these network namespaces (inodes) or control groups (directories). */
export async function processesIn(namespaces: ReadonlySet<string>, groups: readonly string[]): Promise<number[]> {
  const found: number[] = [];
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const network = await readlink(`/proc/${entry}/ns/net`).catch(() => '');
    const group = await readFile(`/proc/${entry}/cgroup`, 'utf8').catch(() => '');
    const within = groups.some((name) => group.split('\n').some((line) => `${line}/`.includes(`:/${name}/`)));
    if (namespaces.has(network) || within) found.push(Number(entry));
  }
  return found;
}
