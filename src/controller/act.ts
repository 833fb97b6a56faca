import { keyOf, type Stored } from '../api/meta.ts';
import { apiVersionOf, PODS, type Resource } from '../api/resource.ts';
import { type Kube, KubeError, type Written } from '../kube/client.ts';
import type { Recorder } from '../kube/recorder.ts';
import type { Decision, Refusal, Subject } from './decision.ts';

/** How it went. What failed otherwise is thrown, and decided anew. */
export interface Carried {
  /** Seconds after which it is looked at again. */
  readonly again?: number;
  /** Where the API server does not want what was to be made: more has to change than time. */
  readonly refused?: Refusal;
}

/** Carries decisions out, in order. `learn` is told what the API server answered to each write. */
export class Actor {
  readonly #kube: Kube;
  readonly #recorder: Recorder;
  readonly #learn: (resource: Resource<Written>, object: Stored<Written>) => void;

  constructor(kube: Kube, recorder: Recorder, learn: (resource: Resource<Written>, object: Stored<Written>) => void) {
    this.#kube = kube;
    this.#recorder = recorder;
    this.#learn = learn;
  }

  /**
   * `say` is told what was made and deleted. Throws KubeError where something has changed meanwhile, or the API server does
   * not answer.
   */
  async carryOut(decisions: readonly Decision[], say: (message: string) => void = () => {}): Promise<Carried> {
    /** UID → the version that our own writes have made. */
    const versions = new Map<string, string>();
    let again: number | undefined;
    for (const decision of decisions) {
      switch (decision.act) {
        case 'again':
          again = Math.min(again ?? Infinity, decision.seconds);
          break;
        case 'tell': {
          const { resource, object } = decision.about;
          const subject = { apiVersion: apiVersionOf(resource), kind: resource.kind, metadata: object.metadata };
          this.#recorder.event(subject, decision.type, decision.reason, decision.message);
          break;
        }
        case 'delete': {
          const { resource, object } = decision.subject;
          const going = await this.#kube.delete(resource, targetOf(object));
          if (going) this.#learn(resource, going);
          say(`deleted ${resource.kind} ${keyOf(object)}`);
          break;
        }
        case 'patch': {
          const { subject, patch, part, exact } = decision;
          const version = versions.get(subject.object.metadata.uid) ?? subject.object.metadata.resourceVersion;
          const target = { ...targetOf(subject.object), ...(exact ? { resourceVersion: version } : { seen: version }) };
          const object = await this.#kube.patch(subject.resource, target, patch, part ? { part } : {});
          versions.set(object.metadata.uid, object.metadata.resourceVersion);
          this.#learn(subject.resource, object);
          break;
        }
        case 'create': {
          const { resource, object, owner } = decision;
          if (owner) await this.#stillThere(owner, versions);
          try {
            const made = await this.#kube.create(resource, object);
            this.#learn(resource, made);
            say(`made ${resource.kind} ${keyOf(made)}`);
          } catch (error) {
            const refused = refusalOf(error);
            if (!refused) throw error;
            return { refused, ...(again === undefined ? {} : { again }) };
          }
          break;
        }
      }
    }
    return again === undefined ? {} : { again };
  }

  /**
   * Nothing is made for an owner that is going, or for a state of it that has passed: what is remembered may be older than
   * the decision of somebody else.
   */
  async #stillThere({ resource, object }: Subject, versions: ReadonlyMap<string, string>): Promise<void> {
    const { namespace, name, uid } = object.metadata;
    const now = await this.#kube.get(resource, namespace, name);
    const seen = versions.get(uid) ?? object.metadata.resourceVersion;
    // A pod's status moves all the time, and says nothing about what is made for it.
    const same = now?.metadata.uid === uid && (resource === PODS || now.metadata.resourceVersion === seen);
    if (same && !now.metadata.deletionTimestamp) return;
    const what = now ? 'has changed' : 'is gone';
    throw new KubeError(`${resource.kind} ${keyOf(object)} ${what} meanwhile`, { status: 409, reason: 'Conflict' });
  }
}

function targetOf(object: Stored<Written>): { namespace?: string; name: string; uid: string } {
  const { namespace, name, uid } = object.metadata;
  return { ...(namespace ? { namespace } : {}), name, uid };
}

/** Quota, limits, policies and webhooks answer with 403, what is not valid with 422. */
function refusalOf(error: unknown): Refusal | undefined {
  if (!(error instanceof KubeError) || (error.status !== 403 && error.status !== 422)) return undefined;
  return { status: error.status, message: error.message };
}
