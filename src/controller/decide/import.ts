import type { ConfigMap, Event, PersistentVolumeClaim, Pod } from 'kubernetes-types/core/v1.js';
import { ANNOTATION, STREAM_FINALIZER } from '../../api/claim.ts';
import { APP, LABEL } from '../../api/label.ts';
import type { Stored } from '../../api/meta.ts';
import { CLAIMS, CONFIG_MAPS, PODS } from '../../api/resource.ts';
import { annotate, type Decision, label, type Refusal } from '../decision.ts';
import { type ImportPod, importOf, importPod, importPodName } from '../import-pod.ts';
import { isImageStream } from '../node-pull.ts';
import { type ScratchSettings, scratchClaim, scratchName } from '../scratch-claim.ts';
import type { Settings, WorkerSettings } from '../settings.ts';
import { annotationsOfPod, endingOf, endOf, failureIn, isMismatch, labelsOfImage, restartsOf } from './pod-state.ts';
import { isCarried, markAfter } from './stages.ts';
import { type Turn, waitsFor } from './turn.ts';

/** What is seen of a claim that is to be filled by an import, whoever asked for it. */
export interface ImportSeen {
  readonly claim: Stored<PersistentVolumeClaim>;
  /** For which it is: itself, or the one in whose place it is filled. */
  readonly target: Stored<PersistentVolumeClaim>;
  /** Of the name that its import pod has. */
  readonly pod?: Stored<Pod>;
  /** Pods that run and have the claim, besides that one. */
  readonly users: readonly Stored<Pod>[];
  /** The last warning about the pod. */
  readonly event?: Stored<Event>;
  /** Whether a pod of ours may be the first consumer of the claim's volume. */
  readonly mayConsumeFirst: boolean;
  /** What it waits for, while others have their turn. */
  readonly turn?: Turn;
  readonly scratch?: Stored<PersistentVolumeClaim>;
  readonly scratchSettings: ScratchSettings;
  /** Certificates of the proxy, which the pod waits for: they lie in another namespace, and are copied beside it. */
  readonly proxyCertificates?: Readonly<Record<string, string>>;
  /** What was refused of the last decision about it. */
  readonly refused?: Refusal;
  readonly pods: Omit<ImportPod, 'claim' | 'target' | 'scratch'>;
  readonly settings: Settings;
  readonly workers: WorkerSettings;
  /** RFC 3339. */
  readonly now: string;
}

/** Whether a claim says what it is to be filled with. */
export function isImport(claim: Stored<PersistentVolumeClaim>): boolean {
  const annotations = claim.metadata.annotations ?? {};
  if (ANNOTATION.externalPopulation in annotations) return false;
  return ANNOTATION.endpoint in annotations || ANNOTATION.source in annotations;
}

export function isBound(claim: Stored<PersistentVolumeClaim>): boolean {
  return claim.status?.phase === 'Bound';
}

/** Whether nothing is to be done any more, by a pod: filled, failed for good, or as far as it is to be for now. */
export function isOver(claim: Stored<PersistentVolumeClaim>): boolean {
  const annotations = claim.metadata.annotations ?? {};
  if (annotations[ANNOTATION.podPhase] === 'Succeeded' || annotations[ANNOTATION.fatalError] === 'true') return true;
  return isCarried(claim);
}

/** Whether its pod is wanted and not there: it waits for its turn. */
export function wantsPod(claim: Stored<PersistentVolumeClaim>, mayConsumeFirst: boolean): boolean {
  return !claim.metadata.deletionTimestamp && !isOver(claim) && (isBound(claim) || mayConsumeFirst);
}

/** Seconds after which is tried again what was refused, or what waits for other pods. */
const AGAIN = 15;

/** What is to be done for a claim that is filled by an import: its pod, and what the pod's state says on the claim. */
export function decideImport(seen: ImportSeen): Decision[] {
  const { claim, pod } = seen;
  if (pod && importOf(pod)?.uid !== claim.metadata.uid) return foreign(seen, pod);
  // The pod keeps a claim from going that is being deleted (finalizer kubernetes.io/pvc-protection).
  if (claim.metadata.deletionTimestamp) return pod ? remove(pod) : released(claim);
  if (isOver(claim)) {
    if (!pod) return released(claim);
    return retained(claim) || isFatal(claim) ? [] : remove(pod);
  }
  return pod ? withPod(seen, pod) : withoutPod(seen);
}

const subject = (claim: Stored<PersistentVolumeClaim>) => ({ resource: CLAIMS, object: claim });
const isFatal = (claim: Stored<PersistentVolumeClaim>): boolean =>
  claim.metadata.annotations?.[ANNOTATION.fatalError] === 'true';
const retained = (claim: Stored<PersistentVolumeClaim>): boolean =>
  claim.metadata.annotations?.[ANNOTATION.retain] === 'true';

const isHeld = (claim: Stored<PersistentVolumeClaim>): boolean =>
  claim.metadata.finalizers?.includes(STREAM_FINALIZER) ?? false;

/** A pod that its claim does not own, since OpenShift fills in no image of one that is owned, is not left behind by it. */
function held(claim: Stored<PersistentVolumeClaim>): Decision[] {
  if (!isImageStream(claim.metadata.annotations) || isHeld(claim)) return [];
  return finalizers(claim, [...(claim.metadata.finalizers ?? []), STREAM_FINALIZER]);
}

function released(claim: Stored<PersistentVolumeClaim>): Decision[] {
  if (!isHeld(claim)) return [];
  return finalizers(claim, claim.metadata.finalizers?.filter((one) => one !== STREAM_FINALIZER) ?? []);
}

/** A merge patch replaces the whole list: only of what was seen. */
function finalizers(claim: Stored<PersistentVolumeClaim>, list: readonly string[]): Decision[] {
  return [{ act: 'patch', subject: subject(claim), patch: { metadata: { finalizers: list } }, exact: true }];
}

/** Unless it is going already. */
function remove(pod: Stored<Pod>): Decision[] {
  return pod.metadata.deletionTimestamp ? [] : [{ act: 'delete', subject: { resource: PODS, object: pod } }];
}

/** Never used, whatever it is: it has the name only. */
function foreign({ claim }: ImportSeen, pod: Stored<Pod>): Decision[] {
  const message = `the pod ${pod.metadata.name} was not made for this claim and keeps its import from having one: delete it`;
  return [...annotate(subject(claim), notRunning('PodNameTaken', message)), { act: 'again', seconds: AGAIN }];
}

function notRunning(reason: string, message: string): Record<string, string> {
  return {
    [ANNOTATION.running]: 'false',
    [ANNOTATION.runningReason]: reason,
    [ANNOTATION.runningMessage]: message,
  };
}

function withPod(seen: ImportSeen, pod: Stored<Pod>): Decision[] {
  const { claim } = seen;
  const before = claim.metadata.annotations;
  const told = annotationsOfPod(pod, before, seen.event ? { event: seen.event } : {});
  const phase = pod.status?.phase;
  // Before it is looked whether it is going: one that ended with 0 may have asked for scratch space, or found another checksum.
  if (phase === 'Succeeded') return ended(seen, pod, told);
  if (pod.metadata.deletionTimestamp) return annotate(subject(claim), told);
  // Evicted, its node lost, or not let in there: a successor of the same name when it is gone.
  if (phase === 'Failed') return [...annotate(subject(claim), told), ...replace(seen, pod)];
  // The scheduler changes the claim now; to change it too would send it back to the beginning.
  const state = isBeingScheduled(pod) ? [] : [...annotate(subject(claim), told), ...failures(seen, pod)];
  // Last: what is there already under the name, of a pod before, keeps nothing else from being told.
  return [...state, ...scratchOf(seen, pod), ...certificatesOf(seen, pod)];
}

function ended(seen: ImportSeen, pod: Stored<Pod>, told: Record<string, string | null>): Decision[] {
  const { claim } = seen;
  const ending = endingOf(endOf(pod)?.message);
  // Only one that says that all is there has filled the volume.
  if (!ending) {
    const message = 'the importer ended without saying how: it is tried again';
    const lost = { ...told, ...notRunning('Error', message), [ANNOTATION.podPhase]: 'Failed' };
    return [...annotate(subject(claim), lost), ...replace(seen, pod)];
  }
  if (isMismatch(ending)) {
    return [
      ...annotate(subject(claim), { ...told, [ANNOTATION.podPhase]: 'Failed', [ANNOTATION.fatalError]: 'true' }),
      tell(claim, 'Warning', 'ErrImportFailed', ending.message ?? ''),
    ];
  }
  if (ending.scratchSpaceRequired) {
    const again = { ...told, [ANNOTATION.podPhase]: 'Pending', [ANNOTATION.requiresScratch]: 'true' };
    return [...annotate(subject(claim), again), ...remove(pod)];
  }
  const mark = markAfter(claim, pod.metadata.uid);
  if (mark) return [...annotate(subject(claim), { ...told, ...mark }), ...(retained(claim) ? [] : remove(pod))];
  return [
    // Before it is said that all is there.
    ...label(subject(claim), labelsOfImage(ending.labels)),
    ...annotate(subject(claim), told),
    tell(claim, 'Normal', 'ImportSucceeded', 'Import Successful'),
    ...(retained(claim) ? [] : remove(pod)),
  ];
}

/** Whether the scheduler has not looked at it yet. */
export function isBeingScheduled(pod: Stored<Pod>): boolean {
  const { phase, conditions = [], containerStatuses = [] } = pod.status ?? {};
  const tried = conditions.some(({ type }) => type === 'PodScheduled') || containerStatuses.length > 0;
  return phase === 'Pending' && !pod.spec.nodeName && !tried;
}

/** What a node does not let in it will not let in a moment later either: so that no pod follows the other in a rush. */
function replace({ now }: ImportSeen, pod: Stored<Pod>): Decision[] {
  const age = (Date.parse(now) - Date.parse(pod.metadata.creationTimestamp ?? '')) / 1000;
  return age < AGAIN ? [{ act: 'again', seconds: Math.max(1, AGAIN - age) }] : remove(pod);
}

function tell(
  claim: Stored<PersistentVolumeClaim>,
  type: 'Normal' | 'Warning',
  reason: string,
  message: string,
): Decision {
  return { act: 'tell', about: subject(claim), type, reason, message };
}

/** An event for each try that ended with an error: known by the count of restarts, which only grows. */
function failures({ claim }: ImportSeen, pod: Stored<Pod>): Decision[] {
  const failure = failureIn(pod);
  if (failure === undefined) return [];
  const before = Number(claim.metadata.annotations?.[ANNOTATION.podRestarts] ?? 0);
  const restarts = restartsOf(pod);
  const first = restarts === 0 && claim.metadata.annotations?.[ANNOTATION.runningReason] !== 'Error';
  if (restarts <= before && !first) return [];
  return [tell(claim, 'Warning', 'ErrImportFailed', failure)];
}

function withoutPod(seen: ImportSeen): Decision[] {
  const { claim, target, users, turn, refused } = seen;
  if (!wantsPod(claim, seen.mayConsumeFirst)) return [];
  const [user] = users;
  if (user) {
    const { namespace, name } = user.metadata;
    const message = `pod ${namespace}/${name} using PersistentVolumeClaim ${claim.metadata.name}`;
    const state = annotate(
      subject(claim),
      notRunning('ImportTargetInUse', `${message}: stop it, and the import begins`),
    );
    return [...state, ...(state.length > 0 ? [tell(claim, 'Warning', 'ImportTargetInUse', message)] : [])];
  }
  if (turn) return annotate(subject(claim), notRunning('Queued', waitsFor(turn)));
  // Of a pod before, with which it goes, or somebody else's: a pod would write over it.
  if (needsScratch(claim) && seen.scratch) {
    const message = `the claim ${scratchName(claim)} is there already: it goes with the pod that had it, or else delete it`;
    return [...annotate(subject(claim), notRunning('ScratchNameTaken', message)), { act: 'again', seconds: 2 }];
  }
  const wanted: ImportPod = {
    claim,
    target,
    ...seen.pods,
    ...(needsScratch(claim) ? { scratch: scratchName(claim) } : {}),
  };
  const pod = importPod(wanted, seen.settings, seen.workers);
  const create: Decision = { act: 'create', resource: PODS, object: pod, owner: subject(claim) };
  const named = { [ANNOTATION.importPod]: importPodName(claim) };
  if (refused) return [...tellRefused(seen, refused), create, { act: 'again', seconds: AGAIN }];
  return [
    ...annotate(subject(claim), {
      ...named,
      [ANNOTATION.podRestarts]: claim.metadata.annotations?.[ANNOTATION.podRestarts] ?? '0',
    }),
    ...held(claim),
    create,
  ];
}

function needsScratch(claim: Stored<PersistentVolumeClaim>): boolean {
  return claim.metadata.annotations?.[ANNOTATION.requiresScratch] === 'true';
}

/** The claim that the pod waits for, which goes with the pod. */
function scratchOf(seen: ImportSeen, pod: Stored<Pod>): Decision[] {
  if (!needsScratch(seen.claim) || seen.scratch) return [];
  const object = scratchClaim(seen.claim, pod, Number(seen.pods.overhead), seen.scratchSettings);
  return [{ act: 'create', resource: CLAIMS, object: object, owner: { resource: PODS, object: pod } }];
}

function certificatesOf({ proxyCertificates: data, pods }: ImportSeen, pod: Stored<Pod>): Decision[] {
  if (!data || !pods.proxyCertificates) return [];
  const { name, namespace, uid } = pod.metadata;
  const metadata = {
    name: pods.proxyCertificates,
    namespace: namespace as string,
    labels: { [LABEL.app]: APP },
    ownerReferences: [{ apiVersion: 'v1', kind: 'Pod', name, uid, controller: true }],
  };
  const object: ConfigMap = { metadata, data: { ...data } };
  return [{ act: 'create', resource: CONFIG_MAPS, object, owner: { resource: PODS, object: pod } }];
}

function tellRefused({ claim }: ImportSeen, { message }: Refusal): Decision[] {
  const quota = message.includes('exceeded quota');
  const reason = quota ? 'ErrExceededQuota' : 'ErrStartingPod';
  const remedy = quota ? 'it begins when quota is free' : 'it is tried again';
  const text = `Error starting pod '${importPodName(claim)}': ${message} (${remedy})`;
  const state = annotate(subject(claim), notRunning(reason, text));
  return state.length === 0 ? [] : [...state, tell(claim, 'Warning', reason, text)];
}
