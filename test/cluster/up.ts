// `npm run cluster:up`: a real Kubernetes on this machine, from its programs.
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { provide, SERVERS, serverPath } from '../../scripts/toolchain.mjs';
import { type Api, apiOf } from './api.ts';
import { command } from './command.ts';
import { alsoNamed, BOX_IMAGE, makeArchives, PROGRAM_IMAGE, readImages } from './images.ts';
import { type Layout, layoutFrom, layoutOf, type Node, partsOf, places } from './layout.ts';
import { clean, hierarchies } from './leftovers.ts';
import { makeNetwork } from './network.ts';
import { makeCertificates } from './pki.ts';
import { alive, inside, logOf, processOf, signalService, startNode, startService, until } from './processes.ts';
import { configurationOf, DRIVER, dnsObjects, servicesOf, siteObjects } from './services.ts';

const HELP = `Starts a real Kubernetes on this machine, or says that it is up. As root.

  npm run cluster:up [-- --nodes N]     1 node; its containers, volumes and network are in namespaces of their own
  npm run cluster:down [-- --wipe]      ends it; --wipe forgets its state, too

The state lies in $DISKFERRY_CLUSTER, else ~/.cache/diskferry/cluster/NAME ($DISKFERRY_CLUSTER_NAME, else diskferry).
A cluster that is up is given the image of this checkout anew.
`;
const root = fileURLToPath(new URL('../..', import.meta.url));
const SNAPSHOTS = 'github.com/kubernetes-csi/external-snapshotter/client/v8';
type Tell = (line: string) => void;

/** A program of the cluster: built, or Debian's. */
const pathOf = (program: string): string =>
  Object.values(SERVERS as Record<string, { names?: string[] }>).some(({ names }) => names?.includes(program)) ||
  program in SERVERS
    ? serverPath(program)
    : program;

/** The nodes that are up, undefined for none. */
export async function nodesUp(layout: Layout): Promise<number | undefined> {
  const text = await readFile(places(layout).up, 'utf8').catch(() => undefined);
  if (text === undefined) return undefined;
  const { nodes }: { nodes: number } = JSON.parse(text);
  for (const node of layoutOf(layout.name, layout.directory, nodes).nodes)
    if (!(await processOf(node, 'node').catch(() => undefined))) return undefined;
  return nodes;
}

/** Starts what is not up. Throws a sentence with the log to look at. */
export async function up(layout: Layout, tell: Tell): Promise<void> {
  if (process.getuid?.() !== 0)
    throw new Error('a cluster is started as root: it has namespaces, mounts and loop devices');
  const sentence = provide();
  if (sentence) throw new Error(sentence);
  const began = performance.now();
  const step = async <T>(what: string, work: () => Promise<T>): Promise<T> => {
    const from = performance.now();
    const result = await work();
    const seconds = (performance.now() - from) / 1000;
    if (seconds >= 0.05) tell(`  ${seconds.toFixed(1).padStart(5)} s  ${what}`);
    return result;
  };
  const running = await nodesUp(layout);
  if (running !== undefined && running !== layout.nodes.length)
    throw new Error(`it is up with ${running} node(s), not ${layout.nodes.length}: npm run cluster:down first`);
  const archives = await step('images', async () => {
    await command(process.execPath, [join(root, 'scripts/build.mjs'), 'ts'], { seconds: 120 });
    return makeArchives(layout, (what) => tell(`           ${what}`));
  });
  if (running === undefined) {
    await step('what an earlier one left', () => clean(layout));
    await step('certificates and configuration', () => prepare(layout));
    await step('network', () => makeNetwork(layout));
    await step('namespaces', () => each(layout, (node) => startNode(layout, node, serverPath('pause'))));
  }
  await using api = await apiOf(layout);
  const started = new Date();
  if (running === undefined) {
    await step('etcd, containerd and API server', () => startBase(layout, api));
    await step('controllers, kubelet and proxy', () => startRest(layout));
  }
  const fresh = await step('images into containerd', async () =>
    (await Promise.all(layout.nodes.map((node) => readImages(node, archives)))).flat(),
  );
  if (running === undefined) {
    await step('nodes ready', () => nodesReady(layout, api, started));
    await step('storage and names', () => startStorage(layout, api));
  }
  // Before what the checkout deploys, which may be what a person is working on.
  await writeFile(places(layout).up, JSON.stringify({ nodes: layout.nodes.length }));
  await step('deploy/', () => deploy(layout, fresh.includes(PROGRAM_IMAGE)));
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  tell(`${running === undefined ? 'up' : 'it was up already; looked after its images'} (${seconds} s)`);
}

const each = async (layout: Layout, work: (node: Node) => Promise<unknown>): Promise<void> => {
  await Promise.all(layout.nodes.map(work));
};

/** An image for examples: a disk of 64 MiB, of which 8 are not zeros and the same everywhere. */
async function makeExample(layout: Layout): Promise<void> {
  const { site } = places(layout);
  await mkdir(site, { recursive: true });
  const disk = Buffer.alloc(64 * 2 ** 20);
  for (let at = 0; at < disk.length / 8; at += 32) createHash('sha256').update(`${at}`).digest().copy(disk, at);
  const [raw, image] = [join(site, 'example.raw'), join(site, 'example.qcow2')];
  await writeFile(raw, disk);
  await command('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, image]);
  await writeFile(`${raw}.sha256`, `${createHash('sha256').update(disk).digest('hex')}  example.raw\n`);
}

async function prepare(layout: Layout): Promise<void> {
  const { volumes, kubectl, kubeconfig, up: record } = places(layout);
  await rm(record, { force: true });
  await mkdir(volumes, { recursive: true });
  await makeExample(layout);
  await makeCertificates(layout);
  const script = `#!/bin/sh\nexec ${serverPath('kubectl')} --kubeconfig=${kubeconfig} "$@"\n`;
  await writeFile(kubectl, script, { mode: 0o755 });
  for (const node of layout.nodes) {
    const { lib, log, configuration, services } = partsOf(node);
    await rm(services, { recursive: true, force: true });
    for (const directory of [lib, log, configuration, services]) await mkdir(directory, { recursive: true });
    for (const [name, text] of Object.entries(configurationOf(layout, node))) {
      await mkdir(dirname(join(configuration, name)), { recursive: true });
      await writeFile(join(configuration, name), text);
    }
    for (const hierarchy of await hierarchies()) await makeGroup(hierarchy, node.namespace);
  }
}

/** The kubelet wants its root to be there. A cpuset of version 1 takes no process before both of its files are filled. */
async function makeGroup(hierarchy: string, name: string): Promise<void> {
  await mkdir(join(hierarchy, name), { recursive: true });
  for (const file of ['cpuset.cpus', 'cpuset.mems']) {
    const from = join(hierarchy, file);
    if (existsSync(from) && existsSync(join(hierarchy, 'tasks')))
      await writeFile(join(hierarchy, name, file), await readFile(from));
  }
}

function starter(layout: Layout): (node: Node, ...names: string[]) => Promise<void> {
  return async (node, ...names) => {
    const services = servicesOf(layout, node, pathOf);
    for (const name of names) {
      const service = services[name];
      if (service === undefined) throw new Error(`there is no service ${name}`);
      await startService(node, service);
    }
  };
}

/** Ends a service where it runs, and starts it. */
export async function restartService(layout: Layout, node: Node, name: string): Promise<void> {
  const pid = await processOf(node, name).catch(() => undefined);
  if (pid !== undefined) await signalService(node, name, 'SIGKILL');
  await until(`the end of ${name}`, 10, logOf(node, name), async () => pid === undefined || !alive(pid));
  await starter(layout)(node, name);
}

const firstOf = ({ nodes: [first] }: Layout): Node => {
  if (first === undefined) throw new Error('a cluster without nodes');
  return first;
};

/** Waits for something that a service does; throws at once when the service has ended. */
async function awaits(
  what: string,
  seconds: number,
  node: Node,
  service: string,
  probe: () => Promise<unknown>,
): Promise<void> {
  await until(what, seconds, logOf(node, service), async () => {
    await processOf(node, service);
    return probe().then(Boolean, () => false);
  });
}

async function startBase(layout: Layout, api: Api): Promise<void> {
  const start = starter(layout);
  const first = firstOf(layout);
  await each(layout, (node) => start(node, 'containerd'));
  await start(first, 'etcd', 'kube-apiserver');
  await awaits('the API server', 90, first, 'kube-apiserver', () => api.ask('GET', '/readyz'));
}

async function startRest(layout: Layout): Promise<void> {
  const start = starter(layout);
  await start(firstOf(layout), 'kube-controller-manager', 'kube-scheduler', 'coredns', 'site');
  await each(layout, async (node) => {
    await start(node, 'kubelet', 'kube-proxy', 'csi-driver');
    const enter = await inside(node);
    await awaits('containerd', 60, node, 'containerd', () =>
      command('nsenter', [...enter, 'ctr', 'version']).then(() => true),
    );
  });
}

interface Conditions {
  readonly status: { readonly conditions?: { type: string; status: string; lastHeartbeatTime: string }[] };
}

/** Ready, and said since the start: the state that was kept says Ready as well. */
async function nodesReady(layout: Layout, api: Api, started: Date): Promise<void> {
  const since = new Date(Math.floor(started.getTime() / 1000) * 1000);
  await each(layout, async (node) => {
    await awaits(`${node.name} is ready`, 60, node, 'kubelet', async () => {
      const found = await api.ask<Conditions>('GET', `/api/v1/nodes/${node.name}`);
      const ready = found.status.conditions?.find(({ type }) => type === 'Ready');
      return ready?.status === 'True' && new Date(ready.lastHeartbeatTime) >= since;
    });
    await awaits(`the CSI driver of ${node.name}`, 60, node, 'csi-driver', async () => {
      const path = `/apis/storage.k8s.io/v1/csinodes/${node.name}`;
      const found = await api.ask<{ spec: { drivers?: { name: string }[] } }>('GET', path);
      return found.spec.drivers?.some(({ name }) => name === DRIVER);
    });
  });
  const mine = new Set(layout.nodes.map(({ name }) => name));
  const all = await api.ask<{ items: { metadata: { name: string } }[] }>('GET', '/api/v1/nodes');
  for (const { metadata } of all.items)
    if (!mine.has(metadata.name)) await api.ask('DELETE', `/api/v1/nodes/${metadata.name}`);
  // Pods are refused before it is there.
  const account = '/api/v1/namespaces/default/serviceaccounts/default';
  await awaits('service accounts', 60, firstOf(layout), 'kube-controller-manager', () => api.find(account));
}

export const kubectlOf =
  (layout: Layout) =>
  (args: readonly string[], stdin?: string, seconds = 60): Promise<string> =>
    command(places(layout).kubectl, args, { seconds, ...(stdin === undefined ? {} : { stdin }) });

const APPLY = ['apply', '--server-side', '--force-conflicts'];

async function startStorage(layout: Layout, api: Api): Promise<void> {
  const kubectl = kubectlOf(layout);
  const described = await command('go', [
    '-C',
    join(root, 'test/cluster/kubernetes'),
    'mod',
    'download',
    '-json',
    SNAPSHOTS,
  ]);
  const definitions = join((JSON.parse(described) as { Dir: string }).Dir, 'config/crd');
  const files = (await readdir(definitions)).filter((name) => /^snapshot\.storage\.k8s\.io_.*\.yaml$/.test(name));
  const from = files.flatMap((name) => ['-f', join(definitions, name)]);
  await kubectl([...APPLY, ...from]);
  await kubectl(['wait', '--for=condition=Established', '--timeout=50s', ...from]);
  await kubectl([...APPLY, '-f', join(root, 'test/cluster/manifests')]);
  await kubectl(
    [...APPLY, '-f', '-'],
    JSON.stringify({ apiVersion: 'v1', kind: 'List', items: [...dnsObjects(layout), ...siteObjects(layout)] }),
  );
  const first = firstOf(layout);
  await starter(layout)(first, 'snapshot-controller', 'csi-provisioner', 'csi-snapshotter', 'csi-resizer');
  await awaits('DNS', 60, first, 'coredns', async () => {
    const enter = await inside(first);
    return command('nsenter', [...enter, 'curl', '-sf', '-m', '2', 'http://127.0.0.1:8181/ready']);
  });
  await api.ask('GET', `/apis/storage.k8s.io/v1/csidrivers/${DRIVER}`);
}

interface Applied {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
}

/** Applies what the checkout deploys, where it has that, and waits for its Deployments. */
async function deploy(layout: Layout, fresh: boolean): Promise<void> {
  const kubectl = kubectlOf(layout);
  const directory = join(root, 'deploy');
  if (existsSync(join(directory, 'crds/kustomization.yaml'))) {
    const names = await kubectl([...APPLY, '-o', 'name', '-k', join(directory, 'crds')]);
    const definitions = names.split('\n').filter((name) => name.startsWith('customresourcedefinition'));
    await kubectl(['wait', '--for=condition=Established', '--timeout=50s', ...definitions]);
  }
  if (!existsSync(join(directory, 'kustomization.yaml'))) return;
  const text = await kubectl(['kustomize', directory]);
  const named = [...text.matchAll(/^\s*(?:- )?image:\s*["']?([^\s"']+)/gm)].map(([, image = '']) => image);
  const ours = [...new Set(named)].filter((image) => /(^|\/)diskferry(:|@|$)/.test(image) && image !== PROGRAM_IMAGE);
  await each(layout, (node) => alsoNamed(node, ours));
  const answer = await kubectl([...APPLY, '-o', 'json', '-k', directory]);
  const { items = [] }: { items?: Applied[] } = JSON.parse(answer);
  for (const { kind, metadata } of items) {
    if (kind !== 'Deployment') continue;
    const place = ['-n', metadata.namespace ?? 'default', `deployment/${metadata.name}`];
    // The same name for another image: pods that run do not notice.
    if (fresh) await kubectl(['rollout', 'restart', ...place]);
    await kubectl(['rollout', 'status', '--timeout=120s', ...place], undefined, 130);
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { nodes: { type: 'string', default: '1' }, help: { type: 'boolean', short: 'h' } },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return;
  }
  const layout = layoutFrom(process.env, Number(values.nodes));
  await up(layout, (line) => process.stdout.write(`${line}\n`));
  const { kubectl, kubeconfig } = places(layout);
  process.stdout.write(`
  ${kubectl} get pods -A
  export KUBECONFIG=${kubeconfig}
  images: ${PROGRAM_IMAGE} (this checkout), ${BOX_IMAGE} (busybox); pods reach this machine at ${layout.host}
`);
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  await main().catch((error: Error) => {
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  });
