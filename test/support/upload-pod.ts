// The upload pod: its program as it was built, with the environment of CDI's upload server.
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { freePort } from './nginx.ts';
import { curl } from './served.ts';
import type { Pair } from './tls.ts';

const PROGRAM = fileURLToPath(new URL('../../dist/uploader/pod/main.js', import.meta.url));

export interface Pod extends AsyncDisposable {
  readonly url: string;
  readonly ended: Promise<{ exit: number | null; message: string | undefined; log: string }>;
}

export interface PodOptions {
  /** Directory that is the pod's root, with `data` and `dev` in it. */
  readonly root: string;
  readonly server: Pair;
  /** Paths of the authorities' certificates: of clients, and of the server. */
  readonly clients: string;
  readonly ca: string;
  /** Common name of the client. */
  readonly client: string;
  /** Bytes of the claim. */
  readonly claim: number;
}

/** Started, and answering. `more` of its environment. */
export async function uploadPod(options: PodOptions, more: Readonly<Record<string, string>> = {}): Promise<Pod> {
  const { root, server, clients, ca, client, claim } = options;
  const port = await freePort();
  const env = {
    PATH: process.env.PATH ?? '',
    DISKFERRY_ROOT: root,
    TLS_KEY_FILE: server.key,
    TLS_CERT_FILE: server.certificate,
    CLIENT_CERT_FILE: clients,
    CLIENT_NAME: client,
    FILESYSTEM_OVERHEAD: '0.06',
    UPLOAD_IMAGE_SIZE: String(claim),
    PREALLOCATION: 'false',
    TLS_MIN_VERSION: 'VersionTLS12',
    LISTEN_ADDRESS: '127.0.0.1',
    LISTEN_PORT: String(port),
    ...more,
  };
  const child = spawn(process.execPath, [PROGRAM, '-v=3'], { env, stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  child.stderr.on('data', (text: Buffer) => (log += text.toString()));
  const ended = new Promise<Awaited<Pod['ended']>>((resolve) => {
    child.once('close', async (exit) => {
      const message = await readFile(join(root, 'dev/termination-log'), 'utf8').catch(() => undefined);
      resolve({ exit, message, log });
    });
  });
  const url = `${env.TLS_KEY_FILE === '' ? 'http' : 'https'}://127.0.0.1:${port}`;
  for (let tries = 0; tries < 200 && child.exitCode === null; tries += 1) {
    const { status } = await curl(['--cacert', ca, `${url}/healthz`]);
    if (status === 200) break;
    await sleep(50);
  }
  return {
    url,
    ended,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await ended;
    },
  };
}
