import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export interface WebServer {
  /** Without a slash at its end. */
  readonly url: string;
  stop(): Promise<void>;
}

/**
 * Serves a directory by nginx with sendfile, below a prefix of its own. `inside` is put before the command, to run it in
 * a network namespace. Throws when nginx is missing or the port is taken.
 */
export async function serve(
  directory: string,
  host: string,
  port: number,
  inside: readonly string[] = [],
): Promise<WebServer> {
  const prefix = mkdtempSync(join(tmpdir(), 'diskferry-bench-nginx-'));
  mkdirSync(join(prefix, 'temp'));
  writeFileSync(join(prefix, 'nginx.conf'), configuration(directory, host, port, process.getuid?.() === 0));
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
    if (await answers(url)) return { url, stop };
    if (tries === 50 || complaint.includes('emerg') || server.exitCode !== null || server.pid === undefined) {
      await stop();
      throw new Error(`nginx does not serve ${url}: ${complaint.trim() || 'no answer in 5 s'}`);
    }
    await sleep(100);
  }
}

function configuration(directory: string, host: string, port: number, root: boolean): string {
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
  server { listen ${host}:${port}; root ${directory}; }
}
`;
}

/** A request for a directory that nginx refuses to list is answered too. */
async function answers(url: string): Promise<boolean> {
  try {
    const { body } = await fetch(`${url}/`, { signal: AbortSignal.timeout(1000) });
    await body?.cancel();
    return true;
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
