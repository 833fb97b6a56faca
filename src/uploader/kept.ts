import { open } from 'node:fs/promises';

/** As native/engine/src/conversion/kept.rs has it: a magic, the length of the head, the head. */
const MAGIC = 'DFKEPT01';
/** Heads are not longer (native/engine/src/formats/mod.rs, Driver.needs). */
const LONGEST = 8 * 1024 * 1024;

/** The head of a source that was kept for a process that goes on; undefined where it was not. */
export async function keptHead(path: string): Promise<Uint8Array | undefined> {
  await using file = await open(path, 'r').catch(() => undefined);
  if (!file) return undefined;
  const start = Buffer.alloc(MAGIC.length + 4);
  const { bytesRead } = await file.read(start, 0, start.length, 0);
  const length = start.readUInt32LE(MAGIC.length);
  if (bytesRead < start.length || start.subarray(0, MAGIC.length).toString() !== MAGIC || length > LONGEST)
    return undefined;
  const head = Buffer.alloc(length);
  const read = await file.read(head, 0, length, start.length);
  return read.bytesRead === length ? head : undefined;
}
