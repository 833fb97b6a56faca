import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { tempdir } from './tempdir.ts';
import { tool } from './tools.ts';

export interface NginxOptions {
  /** Directory that is served. */
  readonly root: string;
  /** Lines inside `server { }`: locations, ssl, limits. `$port` of other servers is not known here. */
  readonly server?: string;
  /** Lines inside `http { }`. */
  readonly http?: string;
  readonly tls?: { readonly certificate: string; readonly key: string };
  /** Of this machine: listens there as well as on loopback, at the same port. */
  readonly address?: string;
}

export interface Nginx extends AsyncDisposable {
  readonly port: number;
  /** `http://127.0.0.1:port` or with https. */
  readonly url: string;
  readonly pid: number;
  /** One line a request: status, range, bytes sent of the body, address. */
  requests(): Promise<string[]>;
  /** What it warned of, such as bodies that it put into files. */
  warnings(): Promise<string>;
}

/** A TCP port that is free now on loopback. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

/** Starts a real nginx as the current user, in a directory of its own. */
export async function nginx(options: NginxOptions): Promise<Nginx> {
  const program = tool('nginx', 'nginx');
  const home = await tempdir();
  const port = await freePort();
  await mkdir(join(home.path, 'logs'));
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `${name}_temp_path ${join(home.path, name)};`,
  );
  const { tls } = options;
  const configuration = `
${process.getuid?.() === 0 ? 'user root;' : ''}
daemon off;
worker_processes 1;
pid ${join(home.path, 'nginx.pid')};
error_log ${join(home.path, 'logs/error.log')} warn;
events { worker_connections 256; }
http {
  log_format short '$status $http_range $body_bytes_sent $uri';
  access_log ${join(home.path, 'logs/access.log')} short;
  sendfile on;
  tcp_nopush on;
  types { text/html html; application/octet-stream img raw; }
  default_type application/octet-stream;
  ${temporary.join('\n  ')}
  ${options.http ?? ''}
  server {
    ${['127.0.0.1', ...(options.address ? [options.address] : [])].map((at) => `listen ${at}:${port}${tls ? ' ssl' : ''};`).join(' ')}
    ${tls ? `ssl_certificate ${tls.certificate}; ssl_certificate_key ${tls.key};` : ''}
    server_name localhost;
    root ${options.root};
    ${options.server ?? ''}
  }
}
`;
  const file = join(home.path, 'nginx.conf');
  await writeFile(file, configuration);
  const child = spawn(program, ['-p', home.path, '-c', file], { stdio: ['ignore', 'ignore', 'pipe'] });
  let complaints = '';
  child.stderr.on('data', (text: Buffer) => {
    complaints += text.toString();
  });
  await listening(port, child, () => complaints);
  return {
    port,
    url: `${tls ? 'https' : 'http'}://127.0.0.1:${port}`,
    pid: child.pid ?? 0,
    async requests() {
      const text = await readFile(join(home.path, 'logs/access.log'), 'utf8');
      return text.split('\n').filter((line) => line !== '');
    },
    warnings: () => readFile(join(home.path, 'logs/error.log'), 'utf8'),
    async [Symbol.asyncDispose]() {
      await stop(child);
      await home[Symbol.asyncDispose]();
    },
  };
}

/** Waits until something listens on a port of loopback; throws when `child` ends before, or ends it when it takes long. */
export async function listening(port: number, child: ChildProcess, complaints: () => string): Promise<void> {
  // A large program on a busy machine takes its time to load.
  const latest = performance.now() + 30_000;
  while (performance.now() < latest) {
    if (child.exitCode !== null) throw new Error(`${child.spawnfile} ended with ${child.exitCode}: ${complaints()}`);
    const socket = connect(port, '127.0.0.1');
    const open = await Promise.race([
      once(socket, 'connect').then(
        () => true,
        () => false,
      ),
      sleep(1000, false),
    ]);
    socket.destroy();
    if (open) return;
    await sleep(25);
  }
  await stop(child);
  throw new Error(`${child.spawnfile} does not listen on port ${port}: ${complaints()}`);
}

/** Ends a child and waits until it is gone. */
export async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGTERM');
  const late = setTimeout(() => child.kill('SIGKILL'), 3000);
  await gone;
  clearTimeout(late);
}
