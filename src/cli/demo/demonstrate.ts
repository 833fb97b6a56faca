import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, rmSync } from 'node:fs';
import { mkdtemp, open, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FerryError } from '../../dataplane/errors.ts';
import { formatSize } from '../../dataplane/sizes.ts';
import { makeDisk, tool } from './content.ts';
import { writeQcow2 } from './qcow2.ts';
import { type DemoServer, serveFile } from './server.ts';

/** Seconds that the bytes of the image take to arrive: long enough to watch. */
const WATCHED = 6;
/** Shares of the image after which the connection is cut and the import killed. */
const CUT_AT = 0.25;
const KILL_AT = 0.6;

/** The parts of the show, one line each on standard output. */
interface Stage {
  readonly directory: string;
  readonly signal: AbortSignal;
  say(text: string): void;
}

/**
 * Shows one import from beginning to end on this machine alone. Throws DIGEST_MISMATCH when the disk is not the one that
 * was made, ABORTED when it was stopped. The temporary directory is gone afterwards in every case.
 */
export async function demonstrate(content: number, signal: AbortSignal): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'diskferry-demo-'));
  const remove = () => rmSync(directory, { recursive: true, force: true });
  process.once('exit', remove);
  let step = 0;
  const say = (text: string) => {
    step += 1;
    process.stdout.write(`${step}. ${text}\n`);
  };
  try {
    await show({ directory, signal, say }, content);
  } catch (thrown) {
    throw signal.aborted
      ? new FerryError('the demo was stopped', { code: 'ABORTED', stage: 'plan', cause: thrown })
      : thrown;
  } finally {
    remove();
    process.off('exit', remove);
  }
}

async function show(stage: Stage, content: number): Promise<void> {
  const { directory, signal, say } = stage;
  const raw = join(directory, 'made.raw');
  const image = join(directory, 'demo.qcow2');
  const target = join(directory, 'disk.img');

  const made = await makeDisk(raw, content, signal);
  say(`made a disk: ${made.kind} with ${made.files} files, ${formatSize(made.bytes)} of content`);
  const converted = await tool('qemu-img', ['convert', '-c', '-W', '-O', 'qcow2', raw, image], signal);
  if (converted === undefined) await writeQcow2(raw, image, signal);
  const { size } = await stat(image);
  say(
    `packed it as compressed qcow2, ${formatSize(size)}, ${converted === undefined ? 'by itself (qemu-img is not installed)' : 'by qemu-img'}`,
  );

  await using server = await serveFile(image, size / WATCHED);
  const digest = `sha256:${await sha256(image, signal)}`;
  say(`serving it at ${server.url}, slowly enough to watch`);
  say(`diskferry import ${server.url} disk.img`);
  await importUntilKilled(stage, server, target, digest, size);

  const before = server.sent;
  say('the same command again:');
  const code = await ended(importing(stage, server.url, target, digest, 'inherit'), signal);
  if (code !== 0) throw new FerryError(`the import ended with exit code ${code}`, { code: 'IO', stage: 'verify' });
  say(`it went on: ${formatSize(server.sent - before)} of ${formatSize(size)} were fetched this time`);
  await compare(stage, raw, target);
}

/** Starts the import, cuts its connection on the way, and kills it before it is done. */
async function importUntilKilled(
  stage: Stage,
  server: DemoServer,
  target: string,
  digest: string,
  size: number,
): Promise<void> {
  const { signal, say } = stage;
  const first = importing(stage, server.url, target, digest, 'inherit');
  const end = ended(first, signal);
  const early = end.then((code) => {
    throw new FerryError(`the import ended early, with exit code ${code}`, { code: 'IO', stage: 'verify' });
  });
  early.catch(() => undefined);
  await Promise.race([server.reached(size * CUT_AT), early]);
  const cut = server.cut();
  breakLine();
  say(`cut ${cut} ${cut === 1 ? 'connection' : 'connections'} in the middle: the import tries again by itself`);
  await Promise.race([server.reached(size * KILL_AT), early]);
  first.kill('SIGKILL');
  await end;
  breakLine();
  const probe = await tool('blkid', ['-p', target], signal).catch(() => '');
  const found = probe === undefined ? await startsLikeExt4(target) : probe !== '';
  say(
    `killed the import (SIGKILL): ${found ? 'the target ALREADY LOOKS LIKE A DISK' : 'nothing on the target can be taken for a disk yet'}`,
  );
  if (found) throw new FerryError('an unfinished disk can be recognised', { code: 'UNSAFE', stage: 'target' });
}

async function compare(stage: Stage, raw: string, target: string): Promise<void> {
  const { signal, say } = stage;
  const [want, have] = await Promise.all([sha256(raw, signal), sha256(target, signal)]);
  if (want !== have) {
    throw new FerryError(`the disk has sha256 ${have}, the one that was made ${want}`, {
      code: 'DIGEST_MISMATCH',
      stage: 'verify',
    });
  }
  say(`the disk is the one that was made, byte for byte: sha256 ${have.slice(0, 16)}…`);
  const compared = await tool('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', raw, target], signal);
  say(
    compared === undefined
      ? 'qemu-img is not installed: its word is not asked'
      : `qemu-img compare says: ${compared.trim()}`,
  );
}

/** This very program in a process of its own, with nothing of the user's proxies, secrets or state. */
function importing(
  stage: Stage,
  url: string,
  target: string,
  digest: string,
  output: 'inherit' | 'ignore',
): ChildProcess {
  const hidden = /^(https?_proxy|all_proxy|DISKFERRY_(HEADERS|USERNAME|PASSWORD))$/i;
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !hidden.test(name)));
  const program = process.argv[1] ?? '';
  const args = [...process.execArgv, program, 'import', url, target, '--digest', digest];
  return spawn(process.execPath, args, {
    stdio: ['ignore', output, 'inherit'],
    env: { ...env, DISKFERRY_STATE: join(stage.directory, 'state') },
  });
}

/** The exit code, -1 after a signal. Ends the child when the demo is stopped. */
function ended(child: ChildProcess, signal: AbortSignal): Promise<number> {
  const stop = () => child.kill('SIGKILL');
  signal.addEventListener('abort', stop, { once: true });
  return new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => resolve(code ?? -1));
  }).finally(() => {
    signal.removeEventListener('abort', stop);
    signal.throwIfAborted();
  });
}

/** A bar that was being drawn ends here, so that our line stands alone. */
function breakLine(): void {
  if (process.stderr.isTTY) process.stderr.write('\n');
}

/** The magic of ext4's superblock, 56 bytes into it at 1024 (Linux Documentation/filesystems/ext4/super.rst). */
async function startsLikeExt4(path: string): Promise<boolean> {
  const file = await open(path);
  try {
    const { buffer } = await file.read(Buffer.alloc(2), 0, 2, 1024 + 56);
    return buffer.readUInt16LE(0) === 0xef53;
  } finally {
    await file.close();
  }
}

async function sha256(path: string, signal: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1024 * 1024, signal })) hash.update(chunk);
  return hash.digest('hex');
}
