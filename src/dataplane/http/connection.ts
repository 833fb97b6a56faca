import {
  checkServerIdentity,
  createSecureContext,
  getCACertificates,
  type PeerCertificate,
  type SecureContext,
} from 'node:tls';
import { Agent, type Dispatcher, ProxyAgent } from 'undici';
import { FerryError } from '../errors.ts';
import type { Guard } from '../guard.ts';

/** Milliseconds for TCP and TLS together; a host that is there answers in far less. */
const CONNECT_TIMEOUT = 15_000;

export interface Certificate {
  readonly subject: string;
  readonly issuer: string;
  readonly validTo: string;
}

/** Which proxy an URL goes through, by HTTP(S)_PROXY and NO_PROXY in either case, as curl reads them. */
export function proxyFor(url: URL, environment: NodeJS.ProcessEnv): URL | undefined {
  const read = (name: string): string | undefined => environment[name.toLowerCase()] || environment[name];
  const text = url.protocol === 'https:' ? read('HTTPS_PROXY') : read('HTTP_PROXY');
  if (!text || bypassed(url, read('NO_PROXY') ?? '')) return undefined;
  const proxy = URL.parse(text.includes('://') ? text : `http://${text}`);
  if (!proxy || !['http:', 'https:'].includes(proxy.protocol) || proxy.hostname === '') {
    const name = url.protocol === 'https:' ? 'HTTPS_PROXY' : 'HTTP_PROXY';
    throw new FerryError(`${name} in the environment is not an http:// or https:// URL`, {
      code: 'BAD_SPEC',
      stage: 'source',
    });
  }
  return proxy;
}

function bypassed(url: URL, list: string): boolean {
  const host = bare(url.hostname);
  const port = url.port || (url.protocol === 'https:' ? '443' : '80');
  return list.split(/[,\s]+/).some((entry) => {
    if (entry === '') return false;
    const match = /^(\[[^\]]+\]|[^:]+)(?::(\d+))?$/.exec(entry);
    // An IPv6 address without brackets has colons and no port.
    const name = bare(match?.[1] ?? entry).replace(/^\*?\./, '');
    if (match?.[2] !== undefined && match[2] !== port) return false;
    return name === '*' || host === name || host.endsWith(`.${name}`);
  });
}

function bare(host: string): string {
  return host
    .replace(/^\[|\]$/g, '')
    .replace(/\.$/, '')
    .toLowerCase();
}

/** The connections of one source: opened as they are needed, all closed together. */
export class Connections {
  readonly #ca: string | undefined;
  readonly #environment: NodeJS.ProcessEnv;
  readonly #guard: Guard | undefined;
  readonly #isInsecure: boolean;
  readonly #dispatchers = new Map<string, Dispatcher>();
  readonly #certificates = new Map<string, Certificate>();
  #context: SecureContext | undefined;

  /**
   * `guard`: where direct connections may lead; a proxy was given by whoever runs this, and sees to its own. `isInsecure`: any
   * certificate of a server will do; a proxy's is looked at all the same.
   */
  constructor(ca: string | undefined, environment: NodeJS.ProcessEnv, guard?: Guard, isInsecure = false) {
    this.#ca = ca;
    this.#environment = environment;
    this.#guard = guard;
    this.#isInsecure = isInsecure;
  }

  /** Throws BAD_SPEC when a proxy or the bundle of authorities cannot be understood, UNSAFE when the guard says so. */
  dispatcher(url: URL): Dispatcher {
    this.#guard?.admitHost(url.hostname);
    const proxy = proxyFor(url, this.#environment);
    const key = `${url.protocol} ${proxy?.href ?? ''}`;
    let dispatcher = this.#dispatchers.get(key);
    if (!dispatcher) {
      dispatcher = this.#create(url, proxy);
      this.#dispatchers.set(key, dispatcher);
    }
    return dispatcher;
  }

  /** `host:port` of the proxy that an URL goes through. */
  proxy(url: URL): string | undefined {
    return proxyFor(url, this.#environment)?.host;
  }

  /** What the server showed, once it was trusted. */
  certificate(url: URL): Certificate | undefined {
    return this.#certificates.get(url.hostname);
  }

  /** The authorities trusted: Node's own, the system's and the ones given. */
  secureContext(): SecureContext {
    if (this.#context) return this.#context;
    const trusted = new Set([...getCACertificates('default'), ...getCACertificates('system')]);
    const given = this.#ca?.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
    if (this.#ca !== undefined && given.length === 0) {
      throw new FerryError('the bundle given with --ca holds no PEM certificate (-----BEGIN CERTIFICATE-----)', {
        code: 'BAD_SPEC',
        stage: 'source',
      });
    }
    try {
      this.#context = createSecureContext({ ca: [...trusted, ...given] });
    } catch (error) {
      throw new FerryError(`the bundle given with --ca cannot be read: ${(error as Error).message}`, {
        code: 'BAD_SPEC',
        stage: 'source',
        cause: error,
      });
    }
    return this.#context;
  }

  /** Ends every connection, also in the middle of an answer. */
  async destroy(): Promise<void> {
    const all = [...this.#dispatchers.values()];
    this.#dispatchers.clear();
    await Promise.all(all.map((dispatcher) => dispatcher.destroy()));
  }

  #create(url: URL, proxy: URL | undefined): Dispatcher {
    // HTTP/2 stays off: undici's 64 KiB window makes it many times slower (nodejs/undici#4705).
    const options = { allowH2: false, pipelining: 1, connectTimeout: CONNECT_TIMEOUT };
    const secure = url.protocol === 'https:' || proxy?.protocol === 'https:';
    const trust = secure ? { secureContext: this.secureContext() } : {};
    const requestTls = {
      timeout: CONNECT_TIMEOUT,
      ...trust,
      rejectUnauthorized: !this.#isInsecure,
      checkServerIdentity: (host: string, certificate: PeerCertificate): Error | undefined => {
        this.#certificates.set(host, describe(certificate));
        return checkServerIdentity(host, certificate);
      },
    };
    const lookup = this.#guard === undefined ? {} : { lookup: this.#guard.lookup };
    if (!proxy) return new Agent({ ...options, connect: { ...requestTls, ...lookup, allowH2: false } });
    return new ProxyAgent({
      ...options,
      uri: proxy.href,
      requestTls: { ...requestTls, allowH2: false },
      proxyTls: { timeout: CONNECT_TIMEOUT, ...trust, allowH2: false },
    });
  }
}

export function describe(certificate: PeerCertificate): Certificate {
  const name = (of: PeerCertificate['subject'] | undefined): string =>
    String(of?.CN ?? of?.O ?? 'without a name').slice(0, 200);
  return {
    subject: name(certificate.subject),
    issuer: name(certificate.issuer),
    validTo: certificate.valid_to ?? 'unknown',
  };
}
