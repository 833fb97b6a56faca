// Debian's docker-registry on loopback, with the three ways to ask who is there; and images made by hand, so that they
// can be odd.
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash, createSign, randomUUID, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { freePort, listening, stop } from './nginx.ts';
import { tempdir } from './tempdir.ts';
import { type Authority, authority, type Pair } from './tls.ts';
import { tool } from './tools.ts';

export const LOGIN = { username: 'puller', password: 'a-secret-of-the-registry' };
const SERVICE = 'test registry';

export interface Layer {
  readonly content: Buffer;
  readonly mediaType: string;
  readonly annotations?: Readonly<Record<string, string>>;
}

export interface Registry extends AsyncDisposable {
  /** `127.0.0.1:port` of what asks for credentials and passes the rest on. */
  readonly host: string;
  readonly port: number;
  readonly authority: Authority;
  /** Requests for blobs that were answered with bytes: digest, bytes. */
  readonly fetched: { readonly digest: string; readonly bytes: number }[];
  /** No token that was issued until now counts any more. */
  revoke(): void;
  /** Answers the next so many requests with 429 and `Retry-After: 0`. */
  busy: number;
  push(repository: string, tag: string, layers: readonly Layer[], configuration?: object): Promise<string>;
  pushIndex(repository: string, tag: string, images: Readonly<Record<string, string>>): Promise<string>;
}

export interface RegistryOptions {
  readonly access: 'anyone' | 'token' | 'login';
  readonly tls?: boolean;
}

export async function startRegistry({ access, tls = false }: RegistryOptions): Promise<Registry> {
  const home = await tempdir();
  const at = (name: string): string => join(home.path, name);
  await mkdir(at('data'));
  const trusted = await authority(home.path);
  const signer = await trusted.issue('signer', ['tokens']);
  const inner = await freePort();
  const tokens = new Tokens(signer);
  await tokens.ready();
  const state = { revoked: 0, busy: 0 };
  const fetched: { digest: string; bytes: number }[] = [];
  const served = async (incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> => {
    if (incoming.url?.startsWith('/token')) return tokens.answer(incoming, outgoing);
    if (state.busy > 0) {
      state.busy -= 1;
      outgoing.writeHead(429, { 'retry-after': '0' }).end();
      return;
    }
    if (access === 'token' && tokens.isRevoked(incoming.headers.authorization, state.revoked)) {
      delete incoming.headers.authorization;
    }
    const { url: path, headers, method } = incoming;
    const onward = request({ port: inner, host: '127.0.0.1', path, headers, method }, (answer) => {
      const digest = /\/blobs\/(sha256:[0-9a-f]+)$/.exec(path ?? '')?.[1];
      if (digest && method === 'GET' && (answer.statusCode ?? 500) < 300) {
        answer.on('data', (chunk: Buffer) => fetched.push({ digest, bytes: chunk.length }));
      }
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(outgoing);
    });
    onward.on('error', () => outgoing.destroy());
    outgoing.on('close', () => onward.destroy());
    incoming.pipe(onward);
  };
  const front = await listen(tls ? await trusted.issue('front', ['127.0.0.1']) : undefined, served);
  const { port } = front.address() as AddressInfo;
  const url = `${tls ? 'https' : 'http'}://127.0.0.1:${port}`;
  const child = await startProgram(at, inner, access, `${url}/token`, signer);
  // Images are pushed past the front, which counts and fails what is pulled.
  const behind = `http://127.0.0.1:${inner}`;
  const send = async (path: string, init: RequestInit): Promise<Response> => {
    const authorization =
      access === 'token'
        ? `Bearer ${tokens.issue(/v2\/(.+?)\/(blobs|manifests)/.exec(path)?.[1] ?? '')}`
        : `Basic ${Buffer.from(`${LOGIN.username}:${LOGIN.password}`).toString('base64')}`;
    const headers = { ...(init.headers as Record<string, string>), ...(access === 'anyone' ? {} : { authorization }) };
    const answer = await fetch(behind + path, { ...init, headers });
    if (!answer.ok) throw new Error(`${init.method} ${path} answered ${answer.status}: ${await answer.text()}`);
    return answer;
  };
  const blob = async (repository: string, content: Buffer): Promise<{ digest: string; size: number }> => {
    const digest = `sha256:${createHash('sha256').update(content).digest('hex')}`;
    const begun = await send(`/v2/${repository}/blobs/uploads/`, { method: 'POST' });
    const to = new URL(begun.headers.get('location') ?? '', behind);
    to.searchParams.set('digest', digest);
    await send(to.pathname + to.search, { method: 'PUT', body: new Uint8Array(content) });
    return { digest, size: content.length };
  };
  const manifest = async (repository: string, tag: string, mediaType: string, rest: object): Promise<string> => {
    const body = JSON.stringify({ schemaVersion: 2, mediaType, ...rest });
    await send(`/v2/${repository}/manifests/${tag}`, { method: 'PUT', body, headers: { 'content-type': mediaType } });
    return `sha256:${createHash('sha256').update(body).digest('hex')}`;
  };
  return {
    host: `127.0.0.1:${port}`,
    port,
    authority: trusted,
    fetched,
    revoke: () => {
      state.revoked = tokens.issued;
    },
    get busy() {
      return state.busy;
    },
    set busy(count: number) {
      state.busy = count;
    },
    async push(repository, tag, layers, configuration = {}) {
      const config = {
        mediaType: 'application/vnd.oci.image.config.v1+json',
        ...(await blob(repository, Buffer.from(JSON.stringify(configuration)))),
      };
      const descriptors = [];
      for (const { content, ...layer } of layers) descriptors.push({ ...layer, ...(await blob(repository, content)) });
      return manifest(repository, tag, 'application/vnd.oci.image.manifest.v1+json', { config, layers: descriptors });
    },
    pushIndex: (repository, tag, images) =>
      manifest(repository, tag, 'application/vnd.oci.image.index.v1+json', {
        manifests: Object.entries(images).map(([platform, digest]) => {
          const [os, architecture] = platform.split('/');
          return {
            mediaType: 'application/vnd.oci.image.manifest.v1+json',
            digest,
            size: 500,
            platform: { os, architecture },
          };
        }),
      }),
    async [Symbol.asyncDispose]() {
      front.closeAllConnections();
      front.close();
      await stop(child);
      await home[Symbol.asyncDispose]();
    },
  };
}

async function listen(
  pair: Pair | undefined,
  served: (i: IncomingMessage, o: ServerResponse) => Promise<void>,
): Promise<Server> {
  const handler = (incoming: IncomingMessage, outgoing: ServerResponse): void => void served(incoming, outgoing);
  const { createServer: createTls } = await import('node:https');
  const server = pair
    ? createTls({ cert: await readFile(pair.certificate), key: await readFile(pair.key) }, handler)
    : createServer(handler);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server as Server;
}

async function startProgram(
  at: (name: string) => string,
  port: number,
  access: RegistryOptions['access'],
  realm: string,
  signer: Pair,
): Promise<ChildProcess> {
  // htpasswd -B of LOGIN, made once: the registry takes bcrypt only.
  await writeFile(at('htpasswd'), `${LOGIN.username}:${HTPASSWD}\n`);
  const ways = {
    anyone: '',
    login: `auth: { htpasswd: { realm: test, path: "${at('htpasswd')}" } }`,
    token: `auth: { token: { realm: "${realm}", service: "${SERVICE}", issuer: tester, rootcertbundle: "${signer.certificate}" } }`,
  };
  await writeFile(
    at('config.yml'),
    `version: 0.1
log: { level: error }
storage: { filesystem: { rootdirectory: "${at('data')}" } }
http: { addr: "127.0.0.1:${port}", relativeurls: true }
${ways[access]}
`,
  );
  const program = tool('docker-registry', 'docker-registry');
  const child = spawn(program, ['serve', at('config.yml')], { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      said = (said + chunk).slice(-4000);
    });
  }
  await listening(port, child, () => said);
  return child;
}

/** bcrypt of LOGIN.password. */
const HTPASSWD = '$2y$05$8sQVkqA/IZxCyo9GYKz5W.KuMKLv4NvX1RpIxCU9dpgzmL2tlSXbW';

/** Issues tokens as the distribution's specification has them ("Token Authentication Implementation"). */
class Tokens {
  readonly #signer: Pair;
  readonly #numbers = new Map<string, number>();
  #key = '';
  #certificate = '';
  issued = 0;

  constructor(signer: Pair) {
    this.#signer = signer;
  }

  async answer(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const query = new URL(incoming.url ?? '', 'http://x').searchParams;
    const wanted = /^repository:([^:]+):pull$/.exec(query.get('scope') ?? '')?.[1];
    const login = Buffer.from(`${LOGIN.username}:${LOGIN.password}`).toString('base64');
    if (query.get('service') !== SERVICE || !wanted || incoming.headers.authorization !== `Basic ${login}`) {
      outgoing.writeHead(401, { 'content-type': 'application/json' });
      outgoing.end(JSON.stringify({ errors: [{ code: 'UNAUTHORIZED', message: 'authentication required' }] }));
      return;
    }
    outgoing.writeHead(200, { 'content-type': 'application/json' });
    outgoing.end(JSON.stringify({ token: this.issue(wanted), expires_in: 300 }));
  }

  issue(repository: string): string {
    const seconds = Math.floor(Date.now() / 1000);
    const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
    const head = part({ typ: 'JWT', alg: 'ES256', x5c: [this.#certificate] });
    const body = part({
      iss: 'tester',
      sub: 'x',
      aud: SERVICE,
      exp: seconds + 300,
      nbf: seconds - 10,
      iat: seconds,
      jti: randomUUID(),
      access: [{ type: 'repository', name: repository, actions: ['pull', 'push'] }],
    });
    const signature = createSign('sha256')
      .update(`${head}.${body}`)
      .sign({ key: this.#key, dsaEncoding: 'ieee-p1363' });
    const token = `${head}.${body}.${signature.toString('base64url')}`;
    this.issued += 1;
    this.#numbers.set(token, this.issued);
    return token;
  }

  isRevoked(authorization: string | undefined, revoked: number): boolean {
    const number = this.#numbers.get(authorization?.replace(/^Bearer /, '') ?? '');
    return number !== undefined && number <= revoked;
  }

  async ready(): Promise<void> {
    this.#key = await readFile(this.#signer.key, 'utf8');
    const certificate = new X509Certificate(await readFile(this.#signer.certificate));
    this.#certificate = certificate.raw.toString('base64');
  }
}
