import { randomBytes } from 'node:crypto';
import { link, mkdir, open, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { FerryError } from './errors.ts';

/** Bytes of the key: one HMAC-SHA-256 key of full strength (RFC 2104, section 3). */
const KEY_BYTES = 32;

/**
 * The key that authenticates the journals which this host writes onto targets: 32 random bytes in
 * `<stateDirectory>/key`, mode 0600, made at the first call. Whoever owned a volume before cannot know it, so a journal
 * that they forged is never resumed.
 *
 * May be called concurrently, also by several processes: exactly one key wins and all callers return it.
 * Throws DENIED when others can read the key or the directory cannot be used, CORRUPT when the file is no key.
 */
export async function hostKey(stateDirectory: string): Promise<Uint8Array> {
  const path = join(stateDirectory, 'key');
  try {
    return (await readKey(path)) ?? (await makeKey(stateDirectory, path));
  } catch (thrown) {
    if (thrown instanceof FerryError) throw thrown;
    throw new FerryError(
      `the state directory ${stateDirectory} cannot be used (${(thrown as Error).message}): set DISKFERRY_STATE to a directory that you can write`,
      { code: 'DENIED', stage: 'plan', cause: thrown },
    );
  }
}

async function readKey(path: string): Promise<Uint8Array | undefined> {
  let file: Awaited<ReturnType<typeof open>>;
  try {
    file = await open(path, 'r');
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw thrown;
  }
  try {
    const { mode, size } = await file.stat();
    if ((mode & 0o077) !== 0) {
      throw new FerryError(
        `${path} can be read by other users (mode ${(mode & 0o777).toString(8)}): run \`chmod 600 ${path}\`, or set DISKFERRY_STATE to a directory on a file system that keeps permissions`,
        { code: 'DENIED', stage: 'plan' },
      );
    }
    const key = new Uint8Array(KEY_BYTES);
    const { bytesRead } = await file.read(key, 0, KEY_BYTES, 0);
    if (size !== KEY_BYTES || bytesRead !== KEY_BYTES) {
      throw new FerryError(
        `${path} holds ${size} bytes and not a key of ${KEY_BYTES}: delete it, unfinished transfers will then begin anew`,
        { code: 'CORRUPT', stage: 'plan' },
      );
    }
    return key;
  } finally {
    await file.close();
  }
}

async function makeKey(stateDirectory: string, path: string): Promise<Uint8Array> {
  await mkdir(stateDirectory, { recursive: true, mode: 0o700 });
  const draft = `${path}.${process.pid}.${randomBytes(6).toString('hex')}`;
  const file = await open(draft, 'wx', 0o600);
  try {
    await file.writeFile(randomBytes(KEY_BYTES));
    await file.sync();
    await file.close();
    // A link appears whole or not at all, and fails where another process was first: then its key is the one.
    await link(draft, path).catch((thrown: NodeJS.ErrnoException) => {
      if (thrown.code !== 'EEXIST') throw thrown;
    });
  } finally {
    await file.close().catch(() => undefined);
    await unlink(draft).catch(() => undefined);
  }
  const key = await readKey(path);
  if (!key) throw new Error(`${path} vanished`);
  return key;
}
