import type { Container, EnvVar, PersistentVolumeClaim, Pod, Volume, VolumeMount } from 'kubernetes-types/core/v1.js';
import { ANNOTATION } from '../api/claim.ts';
import { APP, LABEL } from '../api/label.ts';
import { controllerOf, type Stored } from '../api/meta.ts';
import { resourceName } from '../api/names.ts';
import { tlsEnvironment } from '../pki/tls.ts';
import { correlationOf } from './correlation.ts';
import { asServed, isImageStream, isPulledByNode, nodePull, RESOLVES_STREAMS } from './node-pull.ts';
import { recommendedLabels, type Settings, type WorkerSettings } from './settings.ts';

/** virt-launcher's user: disks belong to it (CDI's and KubeVirt's). */
const USER = 107;

/** Annotations of a claim that its pods are to have too: networks, meshes. */
const PASSED_ON = [
  'k8s.v1.cni.cncf.io/networks',
  'v1.multus-cni.io/default-network',
  'sidecar.istio.io/inject',
  'linkerd.io/inject',
  ANNOTATION.priorityClass,
  ANNOTATION.serviceAccount,
] as const;
/** A sidecar that does not end would keep the pod from ending: meshes stay out unless they are asked in. */
const WITHOUT_MESHES = { 'sidecar.istio.io/inject': 'false', 'linkerd.io/inject': 'disabled' };

export interface ImportPod {
  /** The claim that is written, with the annotations that say what it is to be filled with. */
  readonly claim: Stored<PersistentVolumeClaim>;
  /** The claim that it is for: itself, or the one in whose place it is filled. */
  readonly target: Stored<PersistentVolumeClaim>;
  /** UID of the DataVolume, else of the target: the label of the progress metric. */
  readonly owner: string;
  /** Part of the volume that its file system needs: `0.06`; `0` for devices. */
  readonly overhead: string;
  /** Of the registry of the image: http, as the configuration allows it. */
  readonly insecure: boolean;
  /** Name of a claim for scratch space, where the pod before said that it needs it. */
  readonly scratch?: string;
  /** A ConfigMap beside the claim with the certificates of the proxy. */
  readonly proxyCertificates?: string;
}

/** By the claim, and by the stage of an import that has several: each has a pod of its own (CDI). */
export function importPodName({ metadata }: Pick<PersistentVolumeClaim, 'metadata'>): string {
  const { name = '', annotations } = metadata ?? {};
  const stage = annotations?.[ANNOTATION.currentCheckpoint];
  return resourceName('importer', stage ? `${name}-checkpoint-${stage}` : name);
}

/** The claim that a pod was made to fill: it owns the pod, or else the pod says so. */
export function importOf(pod: Stored<Pod>): { readonly name: string; readonly uid: string } | undefined {
  const owner = controllerOf(pod);
  if (owner) return owner.kind === 'PersistentVolumeClaim' ? owner : undefined;
  const uid = pod.metadata.annotations?.[ANNOTATION.importOf];
  const name = pod.spec.volumes?.find((one) => one.name === DATA)?.persistentVolumeClaim?.claimName;
  return uid && name ? { name, uid } : undefined;
}

/** The annotations that a pod of a claim has of it. */
export function passedOn(annotations: Readonly<Record<string, string>> | undefined): Record<string, string> {
  const given = PASSED_ON.filter((key) => annotations?.[key] !== undefined);
  return Object.fromEntries(given.map((key) => [key, annotations?.[key] as string]));
}

/** Sources as annotations name them; what is another or none is a web server (CDI). */
const SOURCES: readonly string[] = ['http', 's3', 'gcs', 'registry', 'imageio', 'vddk', 'none'];

/** The pod that imports: CDI's contract (docs/importer.md), Pod Security `restricted`, nothing written but the claim. */
export function importPod(wanted: ImportPod, settings: Settings, workers: WorkerSettings): Pod {
  const { claim, target } = wanted;
  const said = claim.metadata.annotations ?? {};
  const every: Partial<Container> = {
    imagePullPolicy: settings.pullPolicy,
    resources: workers.resources,
    terminationMessagePolicy: 'FallbackToLogsOnError',
    securityContext: {
      allowPrivilegeEscalation: false,
      capabilities: { drop: ['ALL'] },
      readOnlyRootFilesystem: true,
      runAsNonRoot: true,
      runAsUser: USER,
      seccompProfile: { type: 'RuntimeDefault' },
    },
  };
  const pulled = isPulledByNode(said) ? nodePull(said, settings.importerImage, every) : undefined;
  const annotations = pulled ? asServed(said) : said;
  const block = claim.spec.volumeMode === 'Block';
  const files = filesOf(annotations, wanted);
  if (pulled) files.push({ volume: pulled.volume, mount: pulled.mount });
  const mounts = files.flatMap(({ mount }) => (mount ? [mount] : []));
  const container: Container = {
    ...every,
    name: 'importer',
    image: settings.importerImage,
    args: [`-v=${workers.verbosity}`],
    ports: [{ name: 'metrics', containerPort: 8443, protocol: 'TCP' }],
    env: environmentOf(annotations, wanted, workers, pulled?.environment),
    ...(mounts.length === 0 && block
      ? {}
      : { volumeMounts: [...(block ? [] : [{ name: DATA, mountPath: '/data' }]), ...mounts] }),
    ...(block ? { volumeDevices: [{ name: DATA, devicePath: '/dev/cdi-block-volume' }] } : {}),
  };
  const node = annotations[ANNOTATION.selectedNode];
  const { priorityClass, serviceAccount } = ANNOTATION;
  const { affinity, tolerations } = workers.placement;
  const nodeSelector = { ...workers.placement.nodeSelector, ...pulled?.nodeSelector };
  const stream = isImageStream(said);
  return {
    metadata: {
      name: importPodName(claim),
      namespace: claim.metadata.namespace as string,
      labels: {
        [LABEL.app]: APP,
        [LABEL.component]: 'importer',
        [LABEL.prometheus]: 'true',
        ...recommendedLabels(settings),
        ...target.metadata.labels,
      },
      annotations: {
        ...WITHOUT_MESHES,
        ...passedOn(annotations),
        [ANNOTATION.createdByController]: 'yes',
        ...(stream ? { ...RESOLVES_STREAMS, [ANNOTATION.importOf]: claim.metadata.uid } : {}),
      },
      ...(stream ? {} : { ownerReferences: [ownerOf(claim)] }),
    },
    spec: {
      restartPolicy: 'OnFailure',
      enableServiceLinks: false,
      automountServiceAccountToken: false,
      // A process that is told to stop leaves its checkpoint at once.
      terminationGracePeriodSeconds: 10,
      securityContext: {
        runAsNonRoot: true,
        runAsUser: USER,
        seccompProfile: { type: 'RuntimeDefault' },
        ...(container.volumeMounts ? { fsGroup: USER } : {}),
      },
      ...(pulled ? { initContainers: pulled.initContainers } : {}),
      containers: [container],
      volumes: [
        { name: DATA, persistentVolumeClaim: { claimName: claim.metadata.name } },
        ...files.map(({ volume }) => volume),
      ],
      ...(annotations[priorityClass] ? { priorityClassName: annotations[priorityClass] } : {}),
      ...(annotations[serviceAccount] ? { serviceAccountName: annotations[serviceAccount] } : {}),
      // The scheduler has chosen for the consumer of the target already; a second choice could be another.
      ...(node && annotations[ANNOTATION.populatorKind] ? { nodeName: node } : {}),
      ...(workers.pullSecrets.length > 0 ? { imagePullSecrets: [...workers.pullSecrets] } : {}),
      ...(Object.keys(nodeSelector).length > 0 ? { nodeSelector } : {}),
      ...(affinity ? { affinity } : {}),
      ...(tolerations ? { tolerations: [...tolerations] } : {}),
    },
  };
}

const DATA = 'cdi-data-vol';

function ownerOf(
  claim: Stored<PersistentVolumeClaim>,
): NonNullable<NonNullable<Pod['metadata']>['ownerReferences']>[0] {
  const { name, uid } = claim.metadata;
  return { apiVersion: 'v1', kind: 'PersistentVolumeClaim', name, uid, controller: true, blockOwnerDeletion: true };
}

/** Volumes besides the data, and where they are mounted. */
function filesOf(
  annotations: Readonly<Record<string, string>>,
  { scratch, proxyCertificates }: ImportPod,
): { volume: Volume; mount: VolumeMount }[] {
  const found: { volume: Volume; mount: VolumeMount }[] = [];
  const add = (volume: Volume, mountPath: string, readOnly = true): void => {
    found.push({ volume, mount: { name: volume.name, mountPath, ...(readOnly ? { readOnly } : {}) } });
  };
  const secret = annotations[ANNOTATION.secret];
  const certificates = annotations[ANNOTATION.certConfigMap];
  if (scratch) add({ name: 'cdi-scratch-vol', persistentVolumeClaim: { claimName: scratch } }, '/scratch', false);
  if (certificates) add({ name: 'cdi-cert-vol', configMap: { name: certificates } }, '/certs');
  if (proxyCertificates) add({ name: 'cdi-proxy-cert-vol', configMap: { name: proxyCertificates } }, '/proxycerts/');
  if (secret && annotations[ANNOTATION.source] === 'gcs')
    add({ name: 'cdi-secret-vol', secret: { secretName: secret } }, '/google');
  for (const [n, name] of numbered(annotations, ANNOTATION.secretExtraHeaders).entries())
    add({ name: `cdi-secret-extra-headers-vol-${n}`, secret: { secretName: name } }, `/extraheaders/${n}`);
  return found;
}

/** Values of the annotations `prefix0`, `prefix1`, …, in the order of their numbers. */
function numbered(annotations: Readonly<Record<string, string>>, prefix: string): string[] {
  const keys = Object.keys(annotations).filter((key) => key.startsWith(prefix));
  keys.sort((a, b) => Number(a.slice(prefix.length)) - Number(b.slice(prefix.length)) || (a < b ? -1 : 1));
  return keys.map((key) => annotations[key] as string);
}

function environmentOf(
  annotations: Readonly<Record<string, string>>,
  { claim, target, owner, overhead, insecure, proxyCertificates }: ImportPod,
  { proxy, tls }: WorkerSettings,
  more: Readonly<Record<string, string>> = {},
): EnvVar[] {
  const said = (key: string): string => annotations[key] ?? '';
  const source = SOURCES.includes(said(ANNOTATION.source)) ? said(ANNOTATION.source) : 'http';
  const secret = annotations[ANNOTATION.secret];
  const values: Record<string, string> = {
    IMPORTER_SOURCE: source,
    IMPORTER_ENDPOINT: said(ANNOTATION.endpoint),
    IMPORTER_CONTENTTYPE: said(ANNOTATION.contentType) || 'kubevirt',
    IMPORTER_IMAGE_SIZE: String(claim.spec.resources?.requests?.storage ?? ''),
    OWNER_UID: owner,
    // The journal's key: of the target, since the claim in its place may be made again.
    DISKFERRY_CLAIM_UID: target.metadata.uid,
    DISKFERRY_CORRELATION_ID: correlationOf(target),
    FILESYSTEM_OVERHEAD: overhead,
    INSECURE_TLS: String(insecureOf(source, said(ANNOTATION.insecureSkipVerify), insecure)),
    IMPORTER_DISK_ID: said(ANNOTATION.diskId),
    IMPORTER_UUID: said(ANNOTATION.uuid),
    IMPORTER_BACKING_FILE: said(ANNOTATION.backingFile),
    IMPORTER_THUMBPRINT: said(ANNOTATION.thumbprint),
    http_proxy: proxy.http,
    https_proxy: proxy.https,
    no_proxy: proxy.none,
    IMPORTER_CURRENT_CHECKPOINT: said(ANNOTATION.currentCheckpoint),
    IMPORTER_PREVIOUS_CHECKPOINT: said(ANNOTATION.previousCheckpoint),
    IMPORTER_FINAL_CHECKPOINT: said(ANNOTATION.finalCheckpoint),
    PREALLOCATION: said(ANNOTATION.preallocationRequested) || 'false',
    IMPORTER_REGISTRY_IMAGE_ARCHITECTURE: said(ANNOTATION.registryArchitecture),
    IMPORTER_CHECKSUM: said(ANNOTATION.checksum),
    ...tlsEnvironment(tls),
    ...(secret && source === 'gcs' ? { GOOGLE_APPLICATION_CREDENTIALS: '/google/credentials.json' } : {}),
    ...(annotations[ANNOTATION.certConfigMap] ? { IMPORTER_CERT_DIR: '/certs' } : {}),
    ...(proxyCertificates ? { IMPORTER_PROXY_CERT_DIR: '/proxycerts/' } : {}),
    ...more,
  };
  const headers = numbered(annotations, ANNOTATION.extraHeaders).map((value, n) => [
    `IMPORTER_EXTRA_HEADER_${n}`,
    value,
  ]);
  const plain = [...Object.entries(values), ...headers] as [string, string][];
  return [
    // `$(NAME)` in a value would be another variable's (Kubernetes, "Define Dependent Environment Variables").
    ...plain.map(([name, value]) => ({ name, value: value.replaceAll('$(', () => '$$(') })),
    ...(secret && source !== 'gcs' ? credentials(secret) : []),
    { name: 'NODE_NAME', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } },
  ];
}

/** Of a registry the configuration says it, of a web server and an engine their user (CDI). */
function insecureOf(source: string, said: string, configured: boolean): boolean {
  if (source === 'registry') return configured;
  return (source === 'http' || source === 'imageio') && said === 'true';
}

function credentials(secret: string): EnvVar[] {
  const of = (name: string, key: string): EnvVar => ({ name, valueFrom: { secretKeyRef: { name: secret, key } } });
  return [of('IMPORTER_ACCESS_KEY_ID', 'accessKeyId'), of('IMPORTER_SECRET_KEY', 'secretKey')];
}
