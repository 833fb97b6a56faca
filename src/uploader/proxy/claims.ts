import { setTimeout as sleep } from 'node:timers/promises';
import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import { ANNOTATION } from '../../api/claim.ts';
import type { Stored } from '../../api/meta.ts';
import { serviceName, uploadPodName } from '../../api/names.ts';
import { CLAIMS } from '../../api/resource.ts';
import { FerryError } from '../../dataplane/errors.ts';
import { type Kube, KubeError } from '../../kube/client.ts';

/** Milliseconds that a pod is waited for, and between two looks (CDI: 10 s and 1 s). */
const PATIENCE = 10_000;
const LOOK = 1000;

/** An upload pod that waits for an upload. */
export interface Place {
  /** DNS name of its service. */
  readonly host: string;
  /** The claim is a directory of files: an archive is what it takes. */
  readonly archive: boolean;
}

/** What is to be done for an upload into a claim. */
export type Step =
  | { readonly to: 'send'; readonly place: Place }
  | { readonly to: 'follow'; readonly claim: string }
  | { readonly to: 'wait'; readonly why: string }
  | { readonly to: 'refuse'; readonly why: string };

/** What the claim, or what fills it in its place, says of an upload. `claim` undefined where there is none. */
export function stepOf(claim: Stored<PersistentVolumeClaim> | undefined, name: string): Step {
  if (!claim) return { to: 'refuse', why: `there is no claim ${name}: make it, or a DataVolume of that name, first` };
  const { metadata, spec } = claim;
  const { namespace, annotations = {} } = metadata;
  if (spec.dataSourceRef?.kind === 'VolumeUploadSource') {
    const prime = annotations[ANNOTATION.prime];
    if (prime) return { to: 'follow', claim: prime };
    return { to: 'wait', why: `the claim that fills ${name} is not made yet: is its first consumer awaited?` };
  }
  const podPhase = annotations[ANNOTATION.podPhase];
  const contentType = annotations[ANNOTATION.contentType] || 'kubevirt';
  if (annotations[ANNOTATION.uploadTarget] === undefined) {
    return { to: 'refuse', why: `${name} takes no upload: its claim has no annotation ${ANNOTATION.uploadTarget}` };
  }
  // In CDI's words, which clients look for.
  if (podPhase === 'Succeeded') {
    return { to: 'refuse', why: `rejecting Upload Request for PVC ${metadata.name} that already finished uploading` };
  }
  if (contentType !== 'kubevirt' && contentType !== 'archive') {
    return { to: 'refuse', why: `the content type of ${name} is '${contentType}', which is none of kubevirt, archive` };
  }
  const pod = annotations[ANNOTATION.uploadPod] || uploadPodName(metadata.name);
  // Whoever may write the claim's annotations may not choose a host by them.
  if (!isName(pod)) return { to: 'refuse', why: `${ANNOTATION.uploadPod} of ${name} is no name of a pod` };
  if (annotations[ANNOTATION.podReady] !== 'true') {
    const phase = podPhase ? `its phase is ${podPhase}` : 'it has no phase yet';
    const remedy = `\`kubectl -n ${namespace} describe pod ${pod}\` tells why`;
    return { to: 'wait', why: `the upload pod of ${name} is not ready, ${phase}: ${remedy}` };
  }
  return {
    to: 'send',
    place: { host: `${serviceName(pod)}.${namespace}.svc`, archive: contentType === 'archive' },
  };
}

/**
 * The pod that takes an upload into a claim, as soon as it is ready. `uid`: of this claim, and not of another of its name.
 * DENIED where it is another; BUSY, to be tried again, with why there is no such pod.
 */
export async function placeOf(
  kube: Kube,
  { namespace, name, uid }: { readonly namespace: string; readonly name: string; readonly uid?: string },
  signal: AbortSignal,
): Promise<Place> {
  const until = performance.now() + PATIENCE;
  for (;;) {
    const step = await next(kube, namespace, name, uid, signal);
    if (step.to === 'send') return step.place;
    // The look that comes next would be the one after the end.
    const late = performance.now() + LOOK / 2 > until;
    if (step.to === 'refuse' || late) {
      const waited = step.to === 'refuse' ? '' : ` (waited for ${PATIENCE / 1000} s)`;
      throw new FerryError(step.why + waited, { code: 'BUSY', stage: 'target', retryable: true });
    }
    await sleep(LOOK, undefined, { signal });
  }
}

async function next(
  kube: Kube,
  namespace: string,
  name: string,
  uid: string | undefined,
  signal: AbortSignal,
): Promise<Exclude<Step, { to: 'follow' }>> {
  const shown = `${namespace}/${name}`;
  try {
    const claim = await read(kube, namespace, name, signal);
    if (claim && uid !== undefined && claim.metadata.uid !== uid) {
      const message = `the token is for an earlier claim ${shown}, which was deleted: ask for a new token`;
      throw new FerryError(message, { code: 'DENIED', stage: 'plan' });
    }
    const step = stepOf(claim, shown);
    if (step.to !== 'follow') return step;
    const prime = await read(kube, namespace, step.claim, signal);
    const second = stepOf(prime, `${namespace}/${step.claim}`);
    // A claim that fills another is filled by nobody else.
    return second.to === 'follow'
      ? { to: 'refuse', why: `${shown} is filled by a claim that is filled itself` }
      : second;
  } catch (thrown) {
    if (!(thrown instanceof KubeError)) throw thrown;
    return { to: 'wait', why: `the claim ${shown} cannot be read: ${thrown.message}` };
  }
}

/** RFC 1123, as Kubernetes has it for names of objects: nothing that means something in a path or an URL. */
export function isName(text: string): boolean {
  return text.length <= 253 && /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(text) && !text.includes('..');
}

function read(
  kube: Kube,
  namespace: string,
  name: string,
  signal: AbortSignal,
): Promise<Stored<PersistentVolumeClaim> | undefined> {
  if (!isName(namespace) || !isName(name)) {
    throw new FerryError('the token names no claim', { code: 'BAD_SPEC', stage: 'plan' });
  }
  return kube.get(CLAIMS, namespace, name, signal);
}
