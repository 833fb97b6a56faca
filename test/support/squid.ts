import { spawn } from 'node:child_process';
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { freePort, listening, stop } from './nginx.ts';
import { tempdir } from './tempdir.ts';
import { tool } from './tools.ts';

export interface Squid extends AsyncDisposable {
  readonly port: number;
  /** One line a request: `GET http://…`, `CONNECT host:port`. */
  requests(): Promise<string>;
}

/** A real forward proxy, which carries http, tunnels https and keeps nothing. Listens on loopback, and at `address`. */
export async function startSquid(address?: string): Promise<Squid> {
  const program = tool('squid', 'squid-openssl');
  await using stack = new AsyncDisposableStack();
  const home = stack.use(await tempdir());
  // As root squid becomes the user proxy, who writes its logs there.
  await chmod(home.path, 0o777);
  const port = await freePort();
  const at = (name: string): string => join(home.path, name);
  await writeFile(
    at('squid.conf'),
    `${['127.0.0.1', ...(address ? [address] : [])].map((host) => `http_port ${host}:${port}`).join('\n')}
http_access allow all
cache deny all
access_log stdio:${at('access.log')}
cache_log ${at('cache.log')}
pid_filename ${at('squid.pid')}
coredump_dir ${home.path}
shutdown_lifetime 0 seconds
netdb_filename none
pinger_enable off
memory_cache_shared off
${process.getuid?.() === 0 ? 'cache_effective_user proxy' : ''}
`,
  );
  // A service name of its own: squid's shared memory is named after it.
  const child = spawn(program, ['-N', '-n', `diskferry${port}`, '-f', at('squid.conf')], { stdio: 'ignore' });
  stack.defer(() => stop(child));
  await listening(port, child, () => 'see cache.log');
  const kept = stack.move();
  return {
    port,
    requests: () => readFile(at('access.log'), 'utf8'),
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}
