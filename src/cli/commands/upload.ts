import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { FerryError } from '../../dataplane/errors.ts';
import type { Snapshot } from '../../dataplane/transfer.ts';
import type { SendOptions } from '../../uploader/client/send.ts';
import { PROGRESS_MODES, type ProgressMode } from '../progress.ts';
import { count, rate, seconds, size } from '../values.ts';

interface UploadFlags {
  readonly size?: number;
  readonly replace?: boolean;
  readonly secretFile?: string;
  readonly ca?: string;
  readonly rate?: number;
  readonly connections: number;
  readonly patience: number;
  readonly fresh?: boolean;
  readonly progress: ProgressMode;
  readonly json?: boolean;
  readonly verbose?: boolean;
}

const EXAMPLES = `
The same command again goes on where the last one stopped. Holes and zeros of a raw
disk are not sent. A server that speaks tus, or takes a PUT, is given the file as it is.

Examples:
  diskferry upload ubuntu.qcow2 http://127.0.0.1:8090/volumes/ubuntu
  diskferry upload disk.img https://host/volumes/disk --secret-file secret
  diskferry upload disk.img http://127.0.0.1:8090/volumes/disk --size 40Gi --replace
  diskferry upload disk.img https://host/volumes/disk --connections 4

Exit codes: 0 the disk is whole there; otherwise as in docs/errors.md.`;

export function defineUpload(program: Command): void {
  program
    .command('upload')
    .summary('send an image to a server')
    .description(
      'Sends an image of this machine to `diskferry serve` or another server, over any line: goes on\nafter a cut, and tells when the disk is whole there.',
    )
    .argument('<file>', 'image or disk: a file or block device')
    .argument('<url>', 'of the volume: http(s)://host/volumes/NAME')
    .addOption(new Option('--size <size>', 'make the disk exactly this long, such as 20Gi').argParser(size))
    .option('--replace', 'put it in the place of a disk that the volume holds')
    .option('--secret-file <file>', "its first line is the server's secret; also in $DISKFERRY_SECRET")
    .option('--ca <file>', 'PEM certificates to trust beside those of the system')
    .addOption(new Option('--rate <rate>', 'send at most this much, such as 5MB/s').argParser(rate))
    .addOption(
      new Option(
        '--connections <n>',
        'send ranges of a raw disk over so many connections, 1 to 8, where the server takes them: for lines that slow each of them down; elsewhere one is faster, and outlives a stop of the server',
      )
        .argParser(count(8))
        .default(1),
    )
    .addOption(
      new Option('--patience <seconds>', 'how long to go on trying without any progress')
        .argParser(seconds)
        .default(300_000, '300'),
    )
    .option('--fresh', 'begin anew, whatever an earlier run sent')
    .addOption(
      new Option('--progress <mode>', 'how progress is shown on standard error')
        .choices(PROGRESS_MODES)
        .default('auto'),
    )
    .option('--json', 'print the report as JSON on standard output')
    .option('-v, --verbose', 'say more on standard error')
    .addHelpText('after', EXAMPLES)
    .action(upload);
}

async function upload(file: string, address: string, flags: UploadFlags): Promise<void> {
  const url = addressOf(address, flags);
  const [
    { openSource },
    { send },
    { Unfinished },
    { listenForStop },
    { logTo, showProgress },
    { contextOf },
    { formatSize },
  ] = await Promise.all([
    import('../../dataplane/sources/index.ts'),
    import('../../uploader/client/send.ts'),
    import('../unfinished.ts'),
    import('../stop.ts'),
    import('../progress.ts'),
    import('../../dataplane/context.ts'),
    import('../../dataplane/sizes.ts'),
  ]);
  const path = resolve(file);
  const { signal } = listenForStop();
  const display = showProgress(process.stderr, flags.progress);
  const log = logTo(display, flags.verbose === true);
  const began = performance.now();
  try {
    await using source = await openSource(path, {}, contextOf({ connections: 1 }, signal, log));
    const sent = await send(
      source,
      {
        url,
        headers: await secretHeader(flags.secretFile),
        environment: process.env,
        patience: flags.patience,
        log,
        ...(flags.ca === undefined ? {} : { ca: await readFile(flags.ca, 'utf8') }),
        ...(flags.rate === undefined ? {} : { rate: flags.rate }),
        memory: await Unfinished.of(path, url),
        fresh: flags.fresh === true,
        connections: flags.connections,
        watch: meter((snapshot) => display.update(snapshot)),
      },
      signal,
    );
    display.close();
    const report = { ...sent, seconds: (performance.now() - began) / 1000 };
    const lines = [
      `${file}: ${formatSize(sent.sent)} sent to ${url.origin}${url.pathname}`,
      ...(sent.spared > 0 ? [`  ${formatSize(sent.spared)} of zeros were not sent`] : []),
      ...(sent.resumedAt > 0 ? [`  gone on with at ${formatSize(sent.resumedAt)}`] : []),
      ...(sent.size === undefined ? [] : [`  disk of ${formatSize(sent.size)}, ${sent.diskDigest}`]),
    ];
    process.stdout.write(flags.json ? `${JSON.stringify(report)}\n` : `${lines.join('\n')}\n`);
  } catch (thrown) {
    display.close();
    if (!signal.aborted) throw thrown;
    throw new FerryError('stopped: run the same command again to go on', {
      code: 'ABORTED',
      stage: 'source',
      cause: thrown,
    });
  }
}

function addressOf(text: string, { size: bytes, replace }: UploadFlags): URL {
  const url = URL.parse(text);
  if (!url || !/^https?:$/.test(url.protocol)) throw usage(`'${text}' is no http:// or https:// URL`);
  if (url.username || url.password) {
    throw usage(
      'the URL carries a user name or password, which every user of this machine can see: give --secret-file',
    );
  }
  if (bytes !== undefined) url.searchParams.set('size', String(bytes));
  if (replace) url.searchParams.set('replace', 'true');
  return url;
}

async function secretHeader(file: string | undefined): Promise<Record<string, string>> {
  const text = file === undefined ? (process.env.DISKFERRY_SECRET ?? '') : await readFile(file, 'utf8');
  const [secret = ''] = text.split(/\r?\n/, 1);
  if (file !== undefined && secret === '') throw usage(`the first line of ${file} is empty`);
  return secret === '' ? {} : { authorization: `Bearer ${secret}` };
}

/** Snapshots for the display, at most ten a second. */
function meter(show: (snapshot: Snapshot) => void): SendOptions['watch'] {
  let shownAt = 0;
  let first: { readonly phase: string; readonly at: number; readonly bytes: number } | undefined;
  return (phase, bytes, length, retries) => {
    const now = performance.now();
    if (first?.phase !== phase) first = { phase, at: now, bytes };
    if (now - shownAt < 100 && bytes < length) return;
    shownAt = now;
    const rate_ = Math.max(0, (bytes - first.bytes) / Math.max(0.001, (now - first.at) / 1000));
    show({
      phase: phase === 'moving' && bytes >= length ? 'verifying' : phase,
      source: { bytes, length },
      disk: { bytes: 0 },
      rate: now - first.at < 300 ? 0 : rate_,
      ...(rate_ > 0 ? { secondsLeft: (length - bytes) / rate_ } : {}),
      bottleneck: 'none',
      retries,
      resumes: 0,
    });
  };
}

function usage(message: string): FerryError {
  return new FerryError(message, { code: 'BAD_SPEC', stage: 'plan' });
}
