// Object stores on loopback: real servers, each in a directory of its own.
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { serverPath } from '../../scripts/toolchain.mjs';
import { encodeStrictly } from '../../src/dataplane/sources/object.ts';
import { run } from './images.ts';
import { freePort, listening, stop } from './nginx.ts';
import { tempdir } from './tempdir.ts';

export interface Store extends AsyncDisposable {
  readonly port: number;
  /** Makes or replaces an object of the bucket or container `images`. */
  put(name: string, content: Buffer): Promise<void>;
}

export const KEY = { username: 'AKIDEXAMPLE', password: 'an-example-of-a-secret-access-key' };

/** curl's own signature of a request. */
const SIGNED = [
  ...['--aws-sigv4', 'aws:amz:us-east-1:s3', '--user', `${KEY.username}:${KEY.password}`],
  ...['-H', 'x-amz-content-sha256: UNSIGNED-PAYLOAD'],
];

/** versitygw on a directory; `users` are let in beside the owner of everything, who is `KEY`. */
export async function s3Store(): Promise<
  Store & { user(access: string, secret: string): Promise<void>; forget(access: string): Promise<void> }
> {
  const home = await tempdir();
  const [data, users] = [join(home.path, 'data'), join(home.path, 'users')];
  await mkdir(data);
  await mkdir(users);
  const port = await freePort();
  const owner = ['--access', KEY.username, '--secret', KEY.password];
  const gateway: string = serverPath('versitygw');
  const options = ['--port', `127.0.0.1:${port}`, '--iam-dir', users, '--quiet', '--keep-alive', ...owner];
  const server = await started(gateway, [...options, 'posix', data], port);
  const endpoint = `http://127.0.0.1:${port}`;
  const admin = (...args: string[]): Promise<unknown> =>
    promisify(execFile)(gateway, ['admin', ...owner, '--endpoint-url', endpoint, ...args]);
  // curl signs by itself, so what our signatures are compared with is another program.
  const curl = (...args: string[]): Promise<string> => run('curl', 'curl', ['-sSf', ...SIGNED, ...args]);
  await curl('-X', 'PUT', `${endpoint}/images`);
  return {
    port,
    async put(name, content) {
      const file = join(home.path, 'upload');
      await writeFile(file, content);
      await curl('-T', file, `${endpoint}/images/${encodeStrictly(name)}`);
    },
    async user(access, secret) {
      await admin('create-user', '--access', access, '--secret', secret, '--role', 'admin');
    },
    async forget(access) {
      await admin('delete-user', '--access', access);
    },
    async [Symbol.asyncDispose]() {
      await stop(server);
      await home[Symbol.asyncDispose]();
    },
  };
}

/** fake-gcs-server, which asks for no credentials. */
export async function gcsStore(): Promise<Store> {
  const home = await tempdir();
  const port = await freePort();
  const options = ['-scheme', 'http', '-host', '127.0.0.1', '-port', `${port}`, '-backend', 'memory'];
  const server = await started(serverPath('fake-gcs-server'), [...options, '-public-host', `127.0.0.1:${port}`], port);
  const base = `http://127.0.0.1:${port}`;
  await demand(fetch(`${base}/storage/v1/b`, { method: 'POST', body: JSON.stringify({ name: 'images' }) }));
  return {
    port,
    async put(name, content) {
      const query = new URLSearchParams({ uploadType: 'media', name });
      await demand(fetch(`${base}/upload/storage/v1/b/images/o?${query}`, { method: 'POST', body: content }));
    },
    async [Symbol.asyncDispose]() {
      await stop(server);
      await home[Symbol.asyncDispose]();
    },
  };
}

/** Azurite; the account and its key are those that every emulator of Azure has. */
export async function azureStore(): Promise<Store & { readonly account: string; readonly key: string }> {
  const account = 'devstoreaccount1';
  const key = 'Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==';
  const home = await tempdir();
  const port = await freePort();
  const options = ['--blobHost', '127.0.0.1', '--blobPort', `${port}`, '--location', home.path, '--silent'];
  const server = await started(
    process.execPath,
    [serverPath('azurite-blob'), ...options, '--skipApiVersionCheck'],
    port,
  );
  const send = async (path: string, body: Buffer, added: Record<string, string>): Promise<void> => {
    const headers: Record<string, string> = {
      'x-ms-date': new Date().toUTCString(),
      'x-ms-version': '2021-12-02',
      ...added,
    };
    const names = Object.keys(headers).sort();
    const [resource, query] = path.split('?');
    const parameters = query === undefined ? '' : `\n${query.replace('=', ':')}`;
    const length = body.length === 0 ? '' : `${body.length}`;
    const text = `PUT\n\n\n${length}\n\n\n\n\n\n\n\n\n${names.map((name) => `${name}:${headers[name]}\n`).join('')}/${account}/${account}${resource}${parameters}`;
    const signature = createHmac('sha256', Buffer.from(key, 'base64')).update(text).digest('base64');
    const authorization = `SharedKey ${account}:${signature}`;
    await demand(
      fetch(`http://127.0.0.1:${port}/${account}${path}`, {
        method: 'PUT',
        body,
        headers: { ...headers, authorization },
      }),
    );
  };
  await send('/images?restype=container', Buffer.alloc(0), {});
  return {
    port,
    account,
    key,
    put: (name, content) => send(`/images/${name}`, content, { 'x-ms-blob-type': 'BlockBlob' }),
    async [Symbol.asyncDispose]() {
      await stop(server);
      await home[Symbol.asyncDispose]();
    },
  };
}

async function started(program: string, args: readonly string[], port: number): Promise<ChildProcess> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      said = (said + chunk).slice(-4000);
    });
  }
  await listening(port, child, () => said);
  return child;
}

async function demand(asked: Promise<Response>): Promise<void> {
  const answer = await asked;
  if (!answer.ok) throw new Error(`${answer.url} answered ${answer.status}: ${await answer.text()}`);
  await answer.arrayBuffer();
}
