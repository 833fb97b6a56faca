import { setTimeout as sleep } from 'node:timers/promises';
import type { Secret } from 'kubernetes-types/core/v1.js';
import { APP, LABEL } from '../api/label.ts';
import type { Stored } from '../api/meta.ts';
import { CONFIG_MAPS, type Resource, SECRETS } from '../api/resource.ts';
import { type Kube, KubeError, type Written } from '../kube/client.ts';
import type { Log } from '../kube/log.ts';
import type { Pair } from '../pki/authority.ts';
import { type Held, type Lives, next, type Subject } from './authority.ts';
import { SERVICE, WEBHOOKS, type Webhook } from './webhooks.ts';

/** Objects in the namespace of the installation; as CDI's operator names them. */
export const SIGNER = 'cdi-apiserver-signer';
export const BUNDLE = 'cdi-apiserver-signer-bundle';
export const SHOWN = 'cdi-apiserver-server-cert';
const BUNDLE_KEY = 'ca-bundle.crt';
const PEM = /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----\n?/g;
/** How often another replica may have been quicker in succession. */
const TRIES = 20;
/** Milliseconds, of a pause after it: half as much, or up to as much again. */
const PAUSE = 200;

export interface CertificatesOptions {
  readonly namespace: string;
  readonly lives: () => Lives;
  /** Milliseconds since 1970. */
  readonly now?: () => number;
  readonly log: Log;
}

/**
 * The certificate that API servers are shown, and whom they trust. The replicas share both by objects that each of them creates
 * or changes only as it has seen them: who is quicker wins, and the others take what is there then.
 */
export class Certificates {
  readonly #kube: Kube;
  readonly #options: CertificatesOptions;
  /** Configurations that were not there, which is told once. */
  readonly #absent = new Set<string>();

  constructor(kube: Kube, options: CertificatesOptions) {
    this.#kube = kube;
    this.#options = options;
  }

  /**
   * The pair to show now: the one that is there while it is good, else a new one. Makes the authority, tells API servers whom
   * they can trust, and replaces what is due. KubeError where the API server refuses or does not answer.
   */
  async renew(signal: AbortSignal): Promise<Pair> {
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.#renew(signal);
      } catch (thrown) {
        const isLate = thrown instanceof KubeError && thrown.status === 409;
        if (!isLate || tries === TRIES) throw thrown;
        await sleep(PAUSE * (0.5 + Math.random()), undefined, { signal });
      }
    }
  }

  async #renew(signal: AbortSignal): Promise<Pair> {
    const { namespace, lives, now = Date.now, log } = this.#options;
    const [signer, bundle, server] = await Promise.all([
      this.#kube.get(SECRETS, namespace, SIGNER, signal),
      this.#kube.get(CONFIG_MAPS, namespace, BUNDLE, signal),
      this.#kube.get(SECRETS, namespace, SHOWN, signal),
    ]);
    const text = bundle?.data?.[BUNDLE_KEY] ?? '';
    const held: Held = { signer: pairIn(signer), bundle: text.match(PEM) ?? [], server: pairIn(server) };
    const wanted = await next(held, lives(), subjectIn(namespace), now());
    if (wanted.signer !== held.signer) {
      await this.#put(SECRETS, SIGNER, signer, secretOf(wanted.signer), signal);
      log('info', 'made a new authority', { secret: SIGNER, trusted: wanted.bundle.length });
    }
    const trusted = wanted.bundle.map((one) => `${one.trim()}\n`).join('');
    // First whom API servers are to trust, and then what they are to trust.
    if (trusted !== text) await this.#put(CONFIG_MAPS, BUNDLE, bundle, { data: { [BUNDLE_KEY]: trusted } }, signal);
    for (const webhook of WEBHOOKS) await this.#tell(webhook, trusted, signal);
    if (wanted.server !== held.server) {
      await this.#put(SECRETS, SHOWN, server, secretOf(wanted.server), signal);
      log('info', 'made a new certificate', { secret: SHOWN });
    }
    return wanted.server;
  }

  /** Creates what is not there, or changes what is as it was seen. Conflict or AlreadyExists where another one was quicker. */
  async #put(
    resource: Resource<Written>,
    name: string,
    seen: Stored<Written> | undefined,
    content: object,
    signal: AbortSignal,
  ): Promise<void> {
    const { namespace } = this.#options;
    if (seen) {
      const { uid, resourceVersion } = seen.metadata;
      // The type of a Secret never changes.
      const { data } = content as { data: object };
      await this.#kube.patch(resource, { namespace, name, uid, resourceVersion }, { data }, { signal });
      return;
    }
    const labels = { [LABEL.app]: APP, [LABEL.component]: '' };
    const object: Written = { metadata: { namespace, name, labels }, ...content };
    await this.#kube.create<Written>(resource, object, signal);
  }

  /** Whom the API server can trust when it asks a webhook; nothing else of its configuration is ours to change. */
  async #tell(webhook: Webhook, trusted: string, signal: AbortSignal): Promise<void> {
    const { kind, configuration, name } = webhook;
    const found = await this.#kube.get(kind, undefined, configuration, signal);
    if (!found) {
      if (!this.#absent.has(configuration))
        this.#options.log('warn', `there is no ${kind.kind} ${configuration}: what it is about is not looked at`);
      this.#absent.add(configuration);
      return;
    }
    this.#absent.delete(configuration);
    const caBundle = Buffer.from(trusted).toString('base64');
    const patch = (found.webhooks ?? []).flatMap((one, n) =>
      one.name !== name || one.clientConfig.caBundle === caBundle
        ? []
        : [{ op: 'add', path: `/webhooks/${n}/clientConfig/caBundle`, value: caBundle }],
    );
    if (patch.length === 0) return;
    const { uid, resourceVersion } = found.metadata;
    await this.#kube.patch(kind, { name: configuration, uid, resourceVersion }, patch, { type: 'json', signal });
  }
}

/** What API servers look for in the certificate: the name of the Service, in all its lengths. */
export function subjectIn(namespace: string): Subject {
  const names = [SERVICE, `${SERVICE}.${namespace}`, `${SERVICE}.${namespace}.svc`];
  return { commonName: `${SERVICE}.${namespace}.svc`, names: [...names, `${SERVICE}.${namespace}.svc.cluster.local`] };
}

function pairIn(secret: Stored<Secret> | undefined): Pair | undefined {
  const { 'tls.crt': certificate, 'tls.key': key } = secret?.data ?? {};
  if (certificate === undefined || key === undefined) return undefined;
  return { certificate: decoded(certificate), key: decoded(key) };
}

function secretOf({ certificate, key }: Pair): object {
  const encoded = (text: string): string => Buffer.from(text).toString('base64');
  return { type: 'kubernetes.io/tls', data: { 'tls.crt': encoded(certificate), 'tls.key': encoded(key) } };
}

function decoded(text: string): string {
  return Buffer.from(text, 'base64').toString('utf8');
}
