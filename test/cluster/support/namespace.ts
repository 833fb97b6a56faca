import { randomBytes } from 'node:crypto';
import { BOX_IMAGE } from '../images.ts';
import type { Cluster } from './cluster.ts';
import { until } from './until.ts';

/** KubeVirt's user of disks. */
export const USER = 107;

export interface Namespace extends AsyncDisposable {
  readonly name: string;
  /** `/api/v1/namespaces/NAME/pods`; with a group, `/apis/GROUP/VERSION/namespaces/NAME/…`. */
  path(resource: string, group?: string): string;
  /** A claim; 1 access mode, ReadWriteOnce. */
  claim(name: string, options?: ClaimOptions): Promise<void>;
  /** Starts a pod. */
  start(name: string, options: PodOptions): Promise<void>;
  /** Waits until a pod has ended, and gives how, and its log. */
  ended(name: string, seconds?: number): Promise<Ended>;
  /** Waits until a pod is ready. */
  ready(name: string, seconds?: number): Promise<void>;
  /** A pod to its end. Throws its log where that is not 0; gives it else. The pod is gone afterwards. */
  run(name: string, options: PodOptions, seconds?: number): Promise<string>;
  /** `{phase}`, `{volumeName}` of a claim. */
  found<T>(resource: string, name: string, group?: string): Promise<T | undefined>;
}

export interface ClaimOptions {
  /** The default class unless said otherwise. */
  readonly class?: string;
  readonly mode?: 'Filesystem' | 'Block';
  /** As Kubernetes writes it: `64Mi`. */
  readonly size?: string;
  /** Snapshot, claim or something else that it is filled from. */
  readonly from?: { readonly apiGroup?: string; readonly kind: string; readonly name: string };
}

export interface PodOptions {
  /** busybox unless said otherwise. */
  readonly image?: string;
  /** Of the image unless it is given. */
  readonly command?: readonly string[];
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Claim → directory. */
  readonly mounts?: Readonly<Record<string, string>>;
  /** Claim → device. */
  readonly devices?: Readonly<Record<string, string>>;
  readonly user?: number;
  readonly node?: string;
  readonly labels?: Readonly<Record<string, string>>;
  /** More of the container: probes, ports, resources. */
  readonly container?: object;
}

export interface Ended {
  readonly code: number;
  readonly log: string;
  readonly message: string;
}

interface PodStatus {
  readonly status: {
    readonly phase: string;
    readonly conditions?: readonly { type: string; status: string }[];
    readonly containerStatuses?: readonly {
      state: { terminated?: { exitCode: number; message?: string }; waiting?: { reason: string; message?: string } };
    }[];
  };
}

const LABELS = { 'pod-security.kubernetes.io/enforce': 'restricted', 'diskferry.test/namespace': 'true' };

/** What a pod of tests is, under `restricted`: https://kubernetes.io/docs/concepts/security/pod-security-standards/ */
export function podOf(name: string, options: PodOptions): object {
  const { image = BOX_IMAGE, command, args, env = {}, mounts = {}, devices = {}, user = USER, node, labels } = options;
  const claims = [...Object.keys(mounts), ...Object.keys(devices)];
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, ...(labels ? { labels } : {}) },
    spec: {
      restartPolicy: 'Never',
      terminationGracePeriodSeconds: 0,
      ...(node === undefined ? {} : { nodeSelector: { 'kubernetes.io/hostname': node } }),
      securityContext: {
        runAsNonRoot: true,
        ...{ runAsUser: user, runAsGroup: user, fsGroup: user },
        seccompProfile: { type: 'RuntimeDefault' },
      },
      containers: [
        {
          name: 'main',
          image,
          ...(command ? { command } : {}),
          ...(args ? { args } : {}),
          env: Object.entries(env).map(([key, value]) => ({ name: key, value })),
          volumeMounts: Object.entries(mounts).map(([claim, mountPath]) => ({ name: claim, mountPath })),
          volumeDevices: Object.entries(devices).map(([claim, devicePath]) => ({ name: claim, devicePath })),
          securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } },
          ...options.container,
        },
      ],
      volumes: claims.map((claim) => ({ name: claim, persistentVolumeClaim: { claimName: claim } })),
    },
  };
}

/** A shell script for busybox, which stops at the first error. */
export const script = (text: string): readonly string[] => ['sh', '-euc', text];

export async function namespace(cluster: Cluster, labels: Readonly<Record<string, string>>): Promise<Namespace> {
  const name = `test-${randomBytes(4).toString('hex')}`;
  const metadata = { name, labels: { ...LABELS, ...labels } };
  await cluster.ask('POST', '/api/v1/namespaces', { apiVersion: 'v1', kind: 'Namespace', metadata });
  const path = (resource: string, group?: string): string =>
    `${group === undefined ? '/api/v1' : `/apis/${group}`}/namespaces/${name}/${resource}`;
  // Pods are refused before it is there.
  await until(`the service account of ${name}`, 30, () => cluster.find(path('serviceaccounts/default')));
  const handle: Namespace = {
    name,
    path,
    async claim(claim, { class: storageClassName, mode = 'Filesystem', size = '64Mi', from } = {}) {
      await cluster.ask('POST', path('persistentvolumeclaims'), {
        apiVersion: 'v1',
        kind: 'PersistentVolumeClaim',
        metadata: { name: claim },
        spec: {
          ...(storageClassName === undefined ? {} : { storageClassName }),
          ...(from === undefined ? {} : { dataSourceRef: from }),
          volumeMode: mode,
          accessModes: ['ReadWriteOnce'],
          resources: { requests: { storage: size } },
        },
      });
    },
    async start(pod, options) {
      await cluster.ask('POST', path('pods'), podOf(pod, options));
    },
    async ended(pod, seconds = 90) {
      const { status } = await reached(cluster, handle, pod, seconds, 'has ended', ({ phase }) => OVER.includes(phase));
      const ended = status.containerStatuses?.[0]?.state.terminated;
      const log = await cluster.ask<string>('GET', path(`pods/${pod}/log`)).catch((error: Error) => error.message);
      return { code: ended?.exitCode ?? -1, log, message: ended?.message ?? '' };
    },
    async ready(pod, seconds = 90) {
      const ready = ({ conditions }: PodStatus['status']): boolean =>
        conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') ?? false;
      const { status } = await reached(
        cluster,
        handle,
        pod,
        seconds,
        'is ready',
        (now) => ready(now) || OVER.includes(now.phase),
      );
      if (!ready(status)) throw new Error(`pod ${pod} has ended: ${await told(cluster, handle, pod)}`);
    },
    async run(pod, options, seconds) {
      await handle.start(pod, options);
      try {
        const { code, log } = await handle.ended(pod, seconds);
        if (code !== 0) throw new Error(`pod ${pod} ended with ${code}: ${log}`);
        return log;
      } finally {
        await cluster.ask('DELETE', path(`pods/${pod}?gracePeriodSeconds=0`));
        await until(`pod ${pod} is gone`, 30, async () => (await cluster.find(path(`pods/${pod}`))) === undefined);
      }
    },
    found: <T>(resource: string, object: string, group?: string) =>
      cluster.find<T>(path(`${resource}/${object}`, group)),
    async [Symbol.asyncDispose]() {
      // Nobody puts anything into it from now on. What it holds is deleted after 5 s (namespaceDeletionGracePeriod of
      // kube-controller-manager), so what others wait for is deleted here, and the rest not waited for.
      await cluster.ask('DELETE', `/api/v1/namespaces/${name}`);
      await cluster.ask('DELETE', `${path('pods')}?gracePeriodSeconds=0`);
      await until(`pods of namespace ${name} are gone`, 60, () => empty(cluster, path('pods')));
      await cluster.ask('DELETE', path('volumesnapshots', 'snapshot.storage.k8s.io/v1'));
      await cluster.ask('DELETE', path('persistentvolumeclaims'));
      await until(`volumes of namespace ${name} are gone`, 60, async () => {
        if (!(await empty(cluster, path('persistentvolumeclaims')))) return false;
        const { items } = await cluster.ask<Volumes>('GET', '/api/v1/persistentvolumes');
        return !items.some(
          ({ spec }) => spec.claimRef?.namespace === name && spec.persistentVolumeReclaimPolicy === 'Delete',
        );
      });
    },
  };
  return handle;
}

const OVER = ['Succeeded', 'Failed'];
/** What no waiting helps against: https://pkg.go.dev/k8s.io/kubernetes/pkg/kubelet/images */
const HOPELESS = [
  'ErrImagePull',
  'ImagePullBackOff',
  'ErrImageNeverPull',
  'InvalidImageName',
  'CreateContainerConfigError',
];

/** Waits for a pod. Throws what Kubernetes says of it when it is not, or cannot become, what is waited for. */
async function reached(
  cluster: Cluster,
  namespace: Namespace,
  pod: string,
  seconds: number,
  what: string,
  is: (status: PodStatus['status']) => boolean,
): Promise<PodStatus> {
  const found = await until(`pod ${pod} ${what}`, seconds, async () => {
    const now = await cluster.ask<PodStatus>('GET', namespace.path(`pods/${pod}`));
    const waits = now.status.containerStatuses?.map(({ state }) => state.waiting?.reason ?? '') ?? [];
    return (is(now.status) || waits.some((reason) => HOPELESS.includes(reason))) && now;
  }).catch(async (error: Error) => {
    throw new Error(`${error.message}\n${await told(cluster, namespace, pod)}`, { cause: error.cause });
  });
  if (is(found.status)) return found;
  throw new Error(`pod ${pod} cannot start: ${await told(cluster, namespace, pod)}`);
}

async function empty(cluster: Cluster, path: string): Promise<boolean> {
  return (await cluster.ask<{ items: unknown[] }>('GET', path)).items.length === 0;
}

interface Volumes {
  readonly items: readonly {
    readonly spec: {
      readonly claimRef?: { readonly namespace: string };
      readonly persistentVolumeReclaimPolicy: string;
    };
  }[];
}

/** What Kubernetes says of a pod. */
async function told(cluster: Cluster, { name, path }: Namespace, pod: string): Promise<string> {
  const found = await cluster.find<PodStatus>(path(`pods/${pod}`));
  const log = await cluster.ask<string>('GET', path(`pods/${pod}/log?tailLines=20`)).catch(() => '');
  const events = await cluster
    .kubectl(['-n', name, 'events', '--for', `pod/${pod}`])
    .catch((error: Error) => error.message);
  return `${JSON.stringify(found?.status.containerStatuses ?? found?.status)}\n${events}${log}`;
}
