// The commands of docs/install.md, on a real API server with Kubernetes' garbage collector: whatever is taken over or uninstalled,
// no DataVolume and no claim goes. One after another: the definitions, and the disk of the first test, stay.
import { execFile, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { serverPath } from '../../scripts/toolchain.mjs';
import { type ApiServer, startApiServer } from '../support/apiserver.ts';
import { found } from '../support/found.ts';
import { kubectlOf } from '../support/kubectl.ts';
import { stop } from '../support/nginx.ts';
import { tempdir } from '../support/tempdir.ts';

const NS = 'disks';
const DATA_VOLUMES = `/apis/cdi.kubevirt.io/v1beta1/namespaces/${NS}/datavolumes`;
const CLAIMS = `/api/v1/namespaces/${NS}/persistentvolumeclaims`;
const CDI = '/apis/cdi.kubevirt.io/v1beta1/cdis/cdi';
const DEFINITIONS = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';

interface Meta {
  readonly metadata: {
    readonly name: string;
    readonly uid: string;
    readonly deletionTimestamp?: string;
    readonly ownerReferences?: readonly object[];
  };
}

/** The commands under a heading. */
function commandsUnder(heading: string): string {
  const [, section = ''] = readFileSync('docs/install.md', 'utf8').split(`${heading}\n`);
  const [, commands] = /```sh\n([\s\S]*?)```/.exec(section) ?? [];
  if (commands === undefined) throw new Error(`docs/install.md has no commands under ${heading}`);
  return commands;
}

let home: Awaited<ReturnType<typeof tempdir>>;
let api: ApiServer;
let kubectl: Awaited<ReturnType<typeof kubectlOf>>;
let collector: ReturnType<typeof spawn>;
let log = '';

beforeAll(async () => {
  home = await tempdir();
  api = await startApiServer();
  kubectl = await kubectlOf(api, home.path);
  await mkdir(join(home.path, 'bin'));
  await symlink(serverPath('kubectl'), join(home.path, 'bin/kubectl'));
  const controllers = '--controllers=garbage-collector-controller,namespace-controller';
  const config = `--kubeconfig=${join(home.path, 'kubeconfig')}`;
  collector = spawn(
    serverPath('kube-controller-manager'),
    [config, controllers, '--leader-elect=false', '--secure-port=0', '--v=1'],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  collector.stderr?.on('data', (text: Buffer) => {
    log = (log + text.toString()).slice(-5000);
  });
  await api.ask('POST', '/api/v1/namespaces', { metadata: { name: NS } });
}, 120_000);

afterAll(async () => {
  await stop(collector);
  await api?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});

const typed = async (commands: string): Promise<void> => {
  const env = { ...process.env, PATH: `${join(home.path, 'bin')}:${process.env.PATH}` };
  const options = { env: { ...env, KUBECONFIG: join(home.path, 'kubeconfig'), HOME: home.path }, timeout: 120_000 };
  await promisify(execFile)('sh', ['-euc', commands], options).catch((error: { stderr: string }) => {
    throw new Error(error.stderr);
  });
};
const look = (path: string): Promise<Meta> => api.ask<Meta>('GET', path);
const isGone = (path: string): Promise<boolean> =>
  look(path).then(
    () => false,
    (error: Error) => error.message.includes(': 404 '),
  );
const until = (what: string, is: () => Promise<boolean>): Promise<true> =>
  found(
    what,
    120,
    async () => (await is()) || undefined,
    () => log,
  );

/** A DataVolume and the claim that it owns. */
async function makeDisk(): Promise<void> {
  const claim = { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Gi' } } };
  await kubectl('wait', '--for=condition=Established', '--timeout=50s', 'crd', '--all');
  const dv = await api.ask<Meta>('POST', DATA_VOLUMES, {
    apiVersion: 'cdi.kubevirt.io/v1beta1',
    kind: 'DataVolume',
    metadata: { name: 'disk' },
    spec: { source: { blank: {} }, pvc: claim },
  });
  const owner = { apiVersion: 'cdi.kubevirt.io/v1beta1', kind: 'DataVolume', name: 'disk', uid: dv.metadata.uid };
  await api.ask('POST', CLAIMS, {
    metadata: { name: 'disk', ownerReferences: [{ ...owner, controller: true }] },
    spec: claim,
  });
}

/** Something else that belongs to the CDI. */
async function makeDependent(): Promise<void> {
  const { metadata } = await look(CDI);
  const owner = { apiVersion: 'cdi.kubevirt.io/v1beta1', kind: 'CDI', name: 'cdi', uid: metadata.uid };
  const made = { metadata: { name: 'dependent', ownerReferences: [owner] } };
  await api.ask('POST', `/api/v1/namespaces/${NS}/configmaps`, made);
}

/** After the garbage collector was there: what else belonged to the CDI is gone. */
async function expectDisk(): Promise<void> {
  await until('the end of what belongs to the CDI', () => isGone(`/api/v1/namespaces/${NS}/configmaps/dependent`));
  await sleep(1000);
  for (const path of [`${DATA_VOLUMES}/disk`, `${CLAIMS}/disk`, `${DEFINITIONS}/datavolumes.cdi.kubevirt.io`])
    expect((await look(path)).metadata.deletionTimestamp, path).toBeUndefined();
}

test('what was installed is uninstalled, but for definitions and disks', async () => {
  const [install, again] = commandsUnder('# Installing in a cluster').split(/^kubectl wait.*\n/m);
  expect(again).toBe('');
  await typed(install as string);
  // Nobody runs here who would answer.
  await kubectl('delete', 'validatingwebhookconfigurations,mutatingwebhookconfigurations', '--all');
  await makeDisk();
  await makeDependent();
  await typed(commandsUnder('## Uninstalling'));
  await until('the end of the namespace', () => isGone('/api/v1/namespaces/cdi'));
  await until('the end of the installation', () => isGone(CDI));
  expect(await kubectl('get', 'clusterroles,clusterrolebindings', '-l', 'cdi.kubevirt.io=', '-o', 'name')).toBe('');
  await expectDisk();
}, 180_000);

test('what CDI’s operator made is taken over and uninstalled, and its definitions and disks stay', async () => {
  // As the operator leaves it: everything belongs to the CDI (controller-lifecycle-operator-sdk sets itself as the owner).
  const { metadata } = await api.ask<Meta>('POST', '/apis/cdi.kubevirt.io/v1beta1/cdis', {
    apiVersion: 'cdi.kubevirt.io/v1beta1',
    kind: 'CDI',
    metadata: { name: 'cdi', finalizers: ['operator.cdi.kubevirt.io'] },
    spec: {},
  });
  const owner = { apiVersion: 'cdi.kubevirt.io/v1beta1', kind: 'CDI', name: 'cdi', uid: metadata.uid };
  const ownerReferences = [{ ...owner, controller: true, blockOwnerDeletion: true }];
  const all = await api.ask<{ items: Meta[] }>('GET', DEFINITIONS);
  const owned = all.items.map((one) => one.metadata.name).filter((name) => name !== 'cdis.cdi.kubevirt.io');
  for (const name of owned) await api.ask('PATCH', `${DEFINITIONS}/${name}`, { metadata: { ownerReferences } });
  await api.ask('POST', '/api/v1/namespaces', { metadata: { name: 'cdi' } });
  for (const name of ['cdi-operator', 'cdi-deployment', 'cdi-apiserver']) {
    const labels = { name };
    const containers = [{ name, image: 'quay.io/kubevirt/any', args: ['-v=1'] }];
    const template = { metadata: { labels }, spec: { containers } };
    const made = { metadata: { name, ownerReferences }, spec: { selector: { matchLabels: labels }, template } };
    await api.ask('POST', '/apis/apps/v1/namespaces/cdi/deployments', made);
  }
  await makeDependent();
  await typed(commandsUnder("## Where KubeVirt's CDI runs already"));
  await kubectl('delete', 'validatingwebhookconfigurations,mutatingwebhookconfigurations', '--all');
  const containers = 'jsonpath={.spec.template.spec.containers[*].args}';
  expect(await kubectl('get', '-n', 'cdi', 'deployment/cdi-deployment', '-o', containers)).toBe('["cdi-controller"]');
  // Where somebody has left that out before: it is done once more.
  await api.ask('PATCH', `${DEFINITIONS}/datavolumes.cdi.kubevirt.io`, { metadata: { ownerReferences } });
  await typed(commandsUnder('## Uninstalling'));
  await until('the end of the installation', () => isGone(CDI));
  await expectDisk();
}, 180_000);

test('without that, the garbage collector takes the definition with the CDI', async () => {
  const cdi = { apiVersion: 'cdi.kubevirt.io/v1beta1', kind: 'CDI', metadata: { name: 'cdi' }, spec: {} };
  const { metadata } = await api.ask<Meta>('POST', '/apis/cdi.kubevirt.io/v1beta1/cdis', cdi);
  const owner = { apiVersion: 'cdi.kubevirt.io/v1beta1', kind: 'CDI', name: 'cdi', uid: metadata.uid };
  const ownerReferences = [{ ...owner, controller: true }];
  await api.ask('PATCH', `${DEFINITIONS}/datavolumes.cdi.kubevirt.io`, { metadata: { ownerReferences } });
  await kubectl('delete', 'cdi/cdi');
  await until(
    'the end of the claim',
    async () =>
      (await isGone(`${CLAIMS}/disk`)) || (await look(`${CLAIMS}/disk`)).metadata.deletionTimestamp !== undefined,
  );
}, 120_000);
