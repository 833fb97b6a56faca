import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export interface WebServer {
  /** Without a slash at its end. */
  readonly url: string;
  readonly port: number;
  stop(): Promise<void>;
}

/** Somebody else was quicker to listen on the port. */
class PortTaken extends Error {}

/** A port that was free a moment ago may be taken now; so many times in a row it is something else. */
const TRIES = 5;

/**
 * Serves a directory by nginx with sendfile, below a prefix and on a port of its own. `inside` is put before the command,
 * to run it in a network namespace. Throws when nginx is missing or does not answer.
 */
export async function serve(directory: string, host: string, inside: readonly string[] = []): Promise<WebServer> {
  for (let tries = 1; ; tries++) {
    try {
      return await serveAt(directory, host, await freePort(), inside);
    } catch (error) {
      if (!(error instanceof PortTaken) || tries === TRIES) throw error;
    }
  }
}

/** nginx cannot be told to take any port and say which. A namespace that is new has all of them free. */
async function freePort(): Promise<number> {
  const listener = createServer().listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const address = listener.address();
  listener.close();
  await once(listener, 'close');
  if (address === null || typeof address === 'string') throw new Error('the system gave no port');
  return address.port;
}

async function serveAt(directory: string, host: string, port: number, inside: readonly string[]): Promise<WebServer> {
  const prefix = mkdtempSync(join(tmpdir(), 'diskferry-bench-nginx-'));
  mkdirSync(join(prefix, 'temp'));
  // Asked for by its name, so that another server on the same port is not taken for this one.
  const ready = `ready-${randomUUID()}`;
  writeFileSync(
    join(prefix, 'nginx.conf'),
    configuration({ directory, host, port, ready, root: process.getuid?.() === 0 }),
  );
  const [command = 'nginx', ...rest] = [...inside, 'nginx', '-p', prefix, '-c', 'nginx.conf', '-e', 'error.log'];
  const server = spawn(command, rest, { stdio: ['ignore', 'ignore', 'pipe'] });
  let complaint = '';
  server.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaint += text;
  });
  server.once('error', (error) => {
    complaint += error.message;
  });
  const url = `http://${host}:${port}`;
  const stop = async () => {
    await stopChild(server);
    rmSync(prefix, { recursive: true, force: true });
  };
  for (let tries = 0; ; tries++) {
    if (await answers(`${url}/${ready}`)) return { url, port, stop };
    if (tries === 50 || complaint.includes('emerg') || server.exitCode !== null || server.pid === undefined) {
      await stop();
      // EADDRINUSE, in nginx's words.
      if (/bind\(\).*Address already in use/.test(complaint)) throw new PortTaken(`port ${port} is taken`);
      throw new Error(`nginx does not serve ${url}: ${complaint.trim() || 'no answer in 5 s'}`);
    }
    await sleep(100);
  }
}

interface Served {
  readonly directory: string;
  readonly host: string;
  readonly port: number;
  /** Name of a path that answers 204. */
  readonly ready: string;
  /** The workers stay root, to read what root's cache holds. */
  readonly root: boolean;
}

function configuration({ directory, host, port, ready, root }: Served): string {
  const places = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((kind) => `${kind}_temp_path temp/${kind};`);
  return `${root ? 'user root;' : ''}
daemon off;
worker_processes 2;
pid nginx.pid;
events { worker_connections 512; }
http {
  access_log off;
  default_type application/octet-stream;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 60s;
  ${places.join('\n  ')}
  server { listen ${host}:${port}; root ${directory}; location = /${ready} { return 204; } }
}
`;
}

async function answers(url: string): Promise<boolean> {
  try {
    const { body, status } = await fetch(url, { signal: AbortSignal.timeout(1000) });
    await body?.cancel();
    return status === 204;
  } catch {
    return false;
  }
}

/** Ends a process that was started here and waits for it. */
export async function stopChild(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  await gone;
}
