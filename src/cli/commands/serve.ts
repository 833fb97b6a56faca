import { readFile, stat } from 'node:fs/promises';
import { isIP } from 'node:net';
import { type Command, Option } from 'commander';
import { FerryError } from '../../dataplane/errors.ts';
import { count, rate, seconds, size } from '../values.ts';

interface ServeFlags {
  readonly data: string;
  readonly listen: string;
  readonly secretFile?: string;
  readonly open?: boolean;
  readonly transfers: number;
  readonly rate?: number;
  readonly memory?: number;
  readonly allowAddress?: readonly string[];
  readonly stall: number;
  readonly expiry: number;
  readonly verbose?: boolean;
}

const EXAMPLES = `
Volumes are files in the directory, NAME.img each, all of them whole and
verified: what is on its way comes over when it is.

Examples:
  diskferry serve --data /srv/disks --open
  curl -T ubuntu.qcow2 http://127.0.0.1:8090/volumes/ubuntu
  curl -X PUT 'http://127.0.0.1:8090/volumes/data?size=20Gi'
  curl -d '{"url":"https://example.org/disk.qcow2.xz"}' http://127.0.0.1:8090/volumes/web/import
  curl http://127.0.0.1:8090/volumes

For everybody else than this machine:
  openssl rand -hex 16 > secret && chmod 600 secret
  diskferry serve --data /srv/disks --listen 0.0.0.0:8090 --secret-file secret
  curl -u :"$(cat secret)" -T disk.img http://host:8090/volumes/disk

Exit codes: 0 stopped by Ctrl-C or SIGTERM; 20 another process has the
directory; otherwise as in docs/errors.md. docs/serve.md tells all of it.`;

/** Connections that may wait to be taken: the kernel's own limit (net.core.somaxconn, tcp(7)); more of them it would drop. */
const BACKLOG = 4096;
/** Most transfers at once that can be asked for. */
const MOST_TRANSFERS = 64;
const MiB = 1024 * 1024;
/** Shorter secrets are guessed. */
const SHORTEST_SECRET = 16;

export function defineServe(program: Command): void {
  program
    .command('serve')
    .summary('keep a directory of volumes, and take uploads into it')
    .description(
      'Serves a directory of disks over HTTP: uploads with curl, tus clients or a browser,\nimports from addresses, downloads.',
    )
    .requiredOption('--data <directory>', 'directory of the volumes; made where it does not exist')
    .option('--listen <address>', 'address and port to listen on', '127.0.0.1:8090')
    .option('--secret-file <file>', 'its first line is what every request must bring, as token or password')
    .option('--open', 'no secret, for everybody on this machine; on a loopback address only')
    .addOption(
      new Option('--transfers <n>', 'transfers at once; more wait').argParser(count(MOST_TRANSFERS)).default(8),
    )
    .addOption(
      new Option('--rate <rate>', 'take in at most this, all transfers together, such as 50MB/s').argParser(rate),
    )
    .addOption(
      new Option(
        '--memory <size>',
        'allow the server this much: what is beyond 160 MiB, and 48 MiB for each transfer more, is for large windows',
      ).argParser(size),
    )
    .addOption(
      new Option(
        '--allow-address <network>',
        'import from this network too, such as 127.0.0.0/8; may be given again',
      ).argParser((network: string, before: readonly string[] = []) => [...before, network]),
    )
    .addOption(
      new Option('--stall <seconds>', 'silence after which a sender is given up')
        .argParser(seconds)
        .default(60_000, '60'),
    )
    .addOption(
      new Option('--expiry <seconds>', 'after which an unfinished upload that nobody goes on with is dropped')
        .argParser(seconds)
        .default(86_400_000, '86400'),
    )
    .option('-v, --verbose', 'say more on standard error')
    .addHelpText('after', EXAMPLES)
    .action(serve);
}

async function serve(flags: ServeFlags): Promise<void> {
  const { host, port } = place(flags.listen);
  const access = flags.open ? 'open' : { secret: await secretOf(flags.secretFile) };
  if (access === 'open' && !isLoopback(host)) {
    throw usage(`--open is for loopback addresses: ${host} can be reached by others, give --secret-file`);
  }
  const [
    { Guard },
    { memoryFor, SharedWindows },
    { Pace },
    { Store },
    { buildServer },
    { logOf },
    { listenForStop },
    { version },
  ] = await Promise.all([
    import('../../dataplane/guard.ts'),
    import('../../dataplane/memory-budget.ts'),
    import('../../dataplane/pace.ts'),
    import('../../store/store.ts'),
    import('../../uploader/server.ts'),
    import('../../uploader/log.ts'),
    import('../stop.ts'),
    import('../root.ts'),
  ]);
  const needed = memoryFor(flags.transfers);
  const { memory = needed } = flags;
  if (memory < needed) {
    const remedy = `give --memory ${needed / MiB}Mi or more, or fewer --transfers`;
    throw usage(`${flags.transfers} transfers at once need ${needed} bytes, --memory has ${memory}: ${remedy}`);
  }
  const stop = listenForStop();
  const log = logOf(flags.verbose === true);
  const remedy = 'if it is meant, start the server with --allow-address';
  await using store = await Store.open(flags.data, log);
  await store.tidy(flags.expiry);
  const app = await buildServer({
    store,
    access,
    log,
    transfers: flags.transfers,
    ...(flags.rate === undefined ? {} : { rate: new Pace(flags.rate) }),
    memory: new SharedWindows(memory - memoryFor(flags.transfers)),
    guard: new Guard([], flags.allowAddress ?? [], remedy),
    stall: flags.stall,
    expiry: flags.expiry,
    version: version(),
  });
  try {
    const url = await app.listen({ host, port, backlog: BACKLOG }).catch((thrown: NodeJS.ErrnoException) => {
      throw new FerryError(`cannot listen on ${flags.listen}: ${thrown.message}`, {
        code: thrown.code === 'EADDRINUSE' ? 'BUSY' : 'DENIED',
        stage: 'plan',
        cause: thrown,
      });
    });
    process.stdout.write(`diskferry serves ${store.directory} at ${url}\n`);
    await new Promise<void>((resolve) => {
      if (stop.signal.aborted) resolve();
      stop.signal.addEventListener('abort', () => resolve(), { once: true });
    });
  } finally {
    await app.close();
  }
}

function place(text: string): { host: string; port: number } {
  const [, bracketed, plain, port = ''] = /^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$/.exec(text) ?? [];
  const host = bracketed ?? plain ?? '';
  if (host === '' || Number(port) > 65_535) throw usage(`'${text}' is no address: write 127.0.0.1:8090 or [::1]:8090`);
  return { host, port: Number(port) };
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
}

async function secretOf(file: string | undefined): Promise<string> {
  if (file === undefined) {
    throw usage('give --secret-file with what every request must bring, or --open for everybody on this machine');
  }
  const { mode } = await stat(file).catch((thrown: Error) => {
    throw usage(`${file} cannot be read: ${thrown.message}`);
  });
  if ((mode & 0o077) !== 0) throw usage(`others can read ${file}: run \`chmod 600 ${file}\``);
  const [secret = ''] = (await readFile(file, 'utf8')).split(/\r?\n/, 1);
  if (secret.length < SHORTEST_SECRET) {
    throw usage(
      `the first line of ${file} has less than ${SHORTEST_SECRET} characters: \`openssl rand -hex 16 > ${file}\``,
    );
  }
  // As a bearer token it is one word of a header (RFC 6750 section 2.1).
  if (!/^[\x21-\x7e]+$/.test(secret)) {
    throw usage(`the first line of ${file} is one word of ASCII, without spaces: \`openssl rand -hex 16 > ${file}\``);
  }
  return secret;
}

function usage(message: string): FerryError {
  return new FerryError(message, { code: 'BAD_SPEC', stage: 'plan' });
}
