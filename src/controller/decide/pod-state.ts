import type { ContainerState, ContainerStatus, Event, Pod } from 'kubernetes-types/core/v1.js';
import { ANNOTATION } from '../../api/claim.ts';
import type { Stored } from '../../api/meta.ts';
import { withRemedy } from './remedy.ts';

/** What the importer leaves in its termination message (docs/importer.md). */
export interface Ending {
  readonly scratchSpaceRequired?: boolean;
  readonly preallocationApplied?: boolean;
  readonly message?: string;
  readonly labels?: Readonly<Record<string, string>>;
}

/** Reasons for which a container waits since its image cannot be had (kubelet, pkg/kubelet/images/types.go). */
const PULL = ['ImagePullBackOff', 'ErrImagePull', 'InvalidImageName', 'ErrImageNeverPull'];
/** Between two tries of a container that ended with an error (kubelet). */
const BACK_OFF = 'CrashLoopBackOff';
/** Texts for which clients know one sentence; ours follows it. */
const TOO_SMALL =
  /is larger than the reported available|no space left on device|file largest block is bigger than maxblock|disk quota exceeded/;

/** A mismatch is told with status 0, so that it is not tried again. */
export function isMismatch(ending: Ending | undefined): boolean {
  return /checksum (validation failed|mismatch)/.test(ending?.message ?? '');
}

/** Of labels, those that an image may ask for: KubeVirt's instance types and preferences, but none that controllers go by. */
export function labelsOfImage(labels: Readonly<Record<string, string>> | undefined): Record<string, string> {
  const may = (key: string): boolean => /^([\w.-]+\.)?kubevirt\.io\//.test(key) && !key.startsWith('cdi.');
  return Object.fromEntries(Object.entries(labels ?? {}).filter(([key]) => may(key)));
}

/** The JSON of a termination message; undefined for plain text. */
export function endingOf(message: string | undefined): Ending | undefined {
  if (!message?.startsWith('{')) return undefined;
  try {
    const parsed: unknown = JSON.parse(message);
    return typeof parsed === 'object' && parsed !== null ? (parsed as Ending) : undefined;
  } catch {
    return undefined;
  }
}

const IMPORTER = 'importer';
/** What a container that failed is to people. */
const CALLED: Readonly<Record<string, string>> = {
  [IMPORTER]: 'the importer',
  server: "the server of the image's disk",
};
/** While it waits in one of these, nothing is wrong yet; told as the second. */
const STARTING = ['', 'ContainerCreating', 'PodInitializing'];

/** Of the container that imports. */
export function containerOf(pod: Stored<Pod>): ContainerStatus | undefined {
  return pod.status?.containerStatuses?.find(({ name }) => name === IMPORTER);
}

/**
 * Of the container whose state tells how the pod is: the importer, or the first of those that it needs (of a pod whose node
 * pulls the image) that does not do its part.
 */
function tellingOf(pod: Stored<Pod>): ContainerStatus | undefined {
  const importer = containerOf(pod);
  if (importer?.state?.terminated?.exitCode === 0) return importer;
  const fails = ({ state }: ContainerStatus): boolean =>
    (state?.terminated?.exitCode ?? 0) !== 0 || !STARTING.includes(state?.waiting?.reason ?? '');
  return pod.status?.initContainerStatuses?.find(fails) ?? importer;
}

/** How often its containers were started again. */
export function restartsOf(pod: Stored<Pod>): number {
  const { containerStatuses = [], initContainerStatuses = [] } = pod.status ?? {};
  return [...containerStatuses, ...initContainerStatuses].reduce((sum, { restartCount }) => sum + restartCount, 0);
}

type End = NonNullable<ContainerState['terminated']>;

/** The last end of a container: of now, or of the try before. */
const lastEnd = (status: ContainerStatus | undefined): End | undefined =>
  status?.state?.terminated ?? status?.lastState?.terminated;

/** The last end of the importer. */
export function endOf(pod: Stored<Pod>): End | undefined {
  return lastEnd(containerOf(pod));
}

/** Why the pod's last try ended; undefined where it has not, or not with an error. */
export function failureIn(pod: Stored<Pod>): string | undefined {
  const status = tellingOf(pod);
  const end = lastEnd(status);
  return end && end.exitCode !== 0 ? failureOf(end, status?.name) : undefined;
}

/** The sentence for people: what clients match on comes first, the numbers after it. */
export function inWords(message: string): string {
  return TOO_SMALL.test(message) ? `DataVolume too small to contain image: ${message}` : message;
}

interface Told {
  readonly status: 'true' | 'false';
  readonly reason: string;
  readonly message: string;
}

/** What keeps a pod from running that its own status does not tell: a volume that cannot be mounted. */
export interface PodTrouble {
  readonly event?: Stored<Event>;
}

/** Whether the pod runs, else why not (cdi.md §2.3). */
export function runningOf(pod: Stored<Pod>, { event }: PodTrouble = {}): Told {
  const status = tellingOf(pod);
  const state = status?.state;
  if (state?.running) return { status: 'true', reason: 'Pod is running', message: '' };
  const not = (reason: string, message: string): Told => ({
    status: 'false',
    reason,
    message: withRemedy(inWords(message), pod.metadata.namespace),
  });
  // Evicted, or refused by the kubelet: its containers know nothing of it.
  if (pod.status?.phase === 'Failed' && pod.status.reason) return not(pod.status.reason, pod.status.message ?? '');
  const unscheduled = pod.status?.conditions?.find(({ type, status: is }) => type === 'PodScheduled' && is === 'False');
  if (unscheduled) return not('Unschedulable', `Importer pod cannot be scheduled: ${unscheduled.message ?? ''}`);
  if (state?.terminated) return ended(state.terminated, status?.name);
  const { reason = '', message = '' } = state?.waiting ?? {};
  if (PULL.includes(reason)) {
    const containers = [...pod.spec.containers, ...(pod.spec.initContainers ?? [])];
    const image = containers.find(({ name }) => name === status?.name)?.image;
    return not('ImagePullFailed', `failed to pull image: ${image}: ${message}`);
  }
  // The try before says more than that there will be another.
  if (reason === BACK_OFF && status?.lastState?.terminated) return ended(status.lastState.terminated, status.name);
  if (STARTING.includes(reason)) {
    return not('ContainerCreating', event?.message ?? (message || 'the pod is being started'));
  }
  return not(reason, message);
}

function ended({ message = '', reason = 'Error', exitCode }: End, container?: string): Told {
  const said = endingOf(message);
  if (exitCode === 0 && said?.scratchSpaceRequired)
    return { status: 'false', reason: 'Scratch space required', message: 'scratch space required and none found' };
  if (exitCode === 0 && isMismatch(said))
    return { status: 'false', reason: 'ChecksumError', message: said?.message ?? '' };
  if (exitCode === 0) return { status: 'false', reason: 'Completed', message: said?.message ?? message };
  const failedToPull = message.includes('failed to pull image');
  const text = failureOf({ message, reason, exitCode }, container);
  return { status: 'false', reason: failedToPull ? 'ImagePullFailed' : reason, message: text };
}

/** Of shells, and of the kubelet: a process that a signal ended. */
const SIGNALLED = 128;

/** Why a container ended, in a sentence. One that was killed left none: what the kubelet has then is the end of its log. */
function failureOf(
  { exitCode, reason, message }: Pick<End, 'exitCode' | 'reason' | 'message'>,
  container = '',
): string {
  const who = CALLED[container] ?? `the container ${container}`;
  if (reason === 'OOMKilled')
    return `${who} needed more memory than its limit: raise limits.memory in podResourceRequirements of the CDI; it goes on where it was`;
  if (exitCode > SIGNALLED) return `${who} was ended by signal ${exitCode - SIGNALLED}; it goes on where it was`;
  return inWords(message?.trim() || `${who} ended with status ${exitCode}`);
}

/** The annotations that tell of a pod; null removes. Restarts only grow: the pod of before may have had more. */
export function annotationsOfPod(
  pod: Stored<Pod>,
  before: Readonly<Record<string, string>> | undefined,
  trouble: PodTrouble,
): Record<string, string | null> {
  const running = runningOf(pod, trouble);
  const restarts = Math.max(Number(before?.[ANNOTATION.podRestarts] ?? 0), restartsOf(pod));
  const end = endOf(pod);
  const said = end?.exitCode === 0 ? endingOf(end.message) : undefined;
  return {
    [ANNOTATION.podPhase]: pod.status?.phase ?? 'Pending',
    [ANNOTATION.podReady]: String(running.status === 'true'),
    [ANNOTATION.podRestarts]: String(restarts),
    [ANNOTATION.podSchedulable]: String(running.reason !== 'Unschedulable'),
    [ANNOTATION.running]: running.status,
    [ANNOTATION.runningReason]: running.reason,
    [ANNOTATION.runningMessage]: running.message,
    ...(said?.preallocationApplied ? { [ANNOTATION.preallocation]: 'true' } : {}),
  };
}
