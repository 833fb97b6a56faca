// DataVolumes as their users see them: made with kubectl's API, watched by kubectl.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import type { DataVolume } from '../../../src/api/datavolume.ts';
import { places } from '../layout.ts';
import type { Cluster } from './cluster.ts';
import type { Namespace } from './namespace.ts';
import { until } from './until.ts';

const GROUP = 'cdi.kubevirt.io/v1beta1';
export const IMMEDIATE = { 'cdi.kubevirt.io/storage.bind.immediate.requested': 'true' };

export interface DataVolumeOptions {
  readonly annotations?: Readonly<Record<string, string>>;
  readonly spec: NonNullable<DataVolume['spec']>;
}

export interface DiskOptions {
  /** `immediate` unless said otherwise. */
  readonly class?: string;
  readonly mode?: 'Filesystem' | 'Block';
  /** As Kubernetes writes it: `64Mi`. */
  readonly size?: string;
}

/** A disk from an http server, on a claim of its own. */
export const diskFrom = (
  url: string,
  { class: storageClassName = 'immediate', mode: volumeMode = 'Filesystem', size: storage = '64Mi' }: DiskOptions = {},
): DataVolumeOptions['spec'] => ({
  source: { http: { url } },
  pvc: { storageClassName, volumeMode, accessModes: ['ReadWriteOnce'], resources: { requests: { storage } } },
});

/** A DataVolume that was made. */
export interface Made {
  readonly name: string;
  now(): Promise<DataVolume & { readonly metadata: { readonly uid: string } }>;
  /** Phases in the order in which they came, each once. */
  phases(): readonly string[];
  /** Waits until it has a phase, and gives it then. The error says what it is instead. */
  reaches(phase: string, seconds?: number): Promise<DataVolume>;
  /** The condition of a type, as soon as it says what is expected. */
  says(type: string, expected: RegExp, seconds?: number): Promise<string>;
  /** `Warning ErrImportFailed …` of each event about it. */
  events(): Promise<string[]>;
}

export async function dataVolume(
  cluster: Cluster,
  namespace: Namespace,
  name: string,
  { annotations = IMMEDIATE, spec }: DataVolumeOptions,
): Promise<Made> {
  const path = namespace.path(`datavolumes/${name}`, GROUP);
  const seen: string[] = [];
  const args = ['get', 'datavolume', name, '-n', namespace.name, '--watch', '-o', 'jsonpath={.status.phase}{"\\n"}'];
  await cluster.ask('POST', namespace.path('datavolumes', GROUP), {
    apiVersion: GROUP,
    kind: 'DataVolume',
    metadata: { name, annotations },
    spec,
  });
  const watch = spawn(places(cluster.layout).kubectl, args, { stdio: ['ignore', 'pipe', 'ignore'] });
  watch.unref();
  createInterface(watch.stdout).on('line', (phase) => {
    if (phase !== '' && seen.at(-1) !== phase) seen.push(phase);
  });
  const now = (): ReturnType<Made['now']> => cluster.ask('GET', path);
  const ended = (): void => void watch.kill('SIGKILL');
  const conditions = async (): Promise<NonNullable<NonNullable<DataVolume['status']>['conditions']>> =>
    (await now()).status?.conditions ?? [];
  return {
    name,
    now,
    phases: () => seen,
    async reaches(phase, seconds = 60) {
      const found = await until(`DataVolume ${name} is ${phase}`, seconds, async () => {
        const dv = await now();
        return dv.status?.phase === phase && dv;
      }).catch(async (error: Error) => {
        throw new Error(`${error.message}\n${await told(cluster, namespace, name)}`);
      });
      await until('the watch sees it, too', 5, async () => seen.at(-1) === phase).catch(() => undefined);
      ended();
      return found;
    },
    async says(type, expected, seconds = 15) {
      let last = '';
      return until(`condition ${type} of DataVolume ${name} says ${expected}`, seconds, async () => {
        const found = (await conditions()).find((one) => one.type === type);
        last = `${found?.status} ${found?.reason} ${found?.message}`;
        return expected.test(last) && last;
      }).catch((error: Error) => {
        throw new Error(`${error.message}; it says ${last}`);
      });
    },
    async events() {
      return eventsOf(cluster, namespace, 'DataVolume', name);
    },
  };
}

interface Events {
  readonly items: readonly {
    readonly type: string;
    readonly reason: string;
    readonly message: string;
    readonly involvedObject: { readonly kind: string; readonly name: string };
  }[];
}

export async function eventsOf(cluster: Cluster, namespace: Namespace, kind: string, name: string): Promise<string[]> {
  const { items } = await cluster.ask<Events>('GET', namespace.path('events'));
  return items
    .filter(({ involvedObject }) => involvedObject.kind === kind && involvedObject.name === name)
    .map(({ type, reason, message }) => `${type} ${reason} ${message}`);
}

/** All claims of a namespace that ever were, as far as they are seen in time: names, in the order in which they came. */
export function claimsSeen(cluster: Cluster, namespace: Namespace): { names(): readonly string[] } & Disposable {
  const args = ['get', 'pvc', '-n', namespace.name, '--watch', '-o', 'jsonpath={.metadata.name}{"\\n"}'];
  const watch = spawn(places(cluster.layout).kubectl, args, { stdio: ['ignore', 'pipe', 'ignore'] });
  const seen = new Set<string>();
  createInterface(watch.stdout).on('line', (name) => seen.add(name));
  return { names: () => [...seen], [Symbol.dispose]: () => void watch.kill('SIGKILL') };
}

export const claimOf = async (namespace: Namespace, name: string): Promise<PersistentVolumeClaim> =>
  (await namespace.found<PersistentVolumeClaim>('persistentvolumeclaims', name)) ?? {};

/** What a person would look at. */
async function told(cluster: Cluster, { name: namespace }: Namespace, name: string): Promise<string> {
  const parts = [
    ['describe', 'datavolume', name, '-n', namespace],
    ['get', 'pvc,pods', '-n', namespace],
    ['events', '-n', namespace],
    ['logs', '-n', 'cdi', 'deployment/cdi-deployment', '--tail=20'],
  ];
  return (await Promise.all(parts.map((args) => cluster.kubectl(args).catch((error: Error) => error.message)))).join(
    '\n',
  );
}
