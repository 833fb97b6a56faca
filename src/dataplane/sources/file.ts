import { type BigIntStats, createReadStream } from 'node:fs';
import { type FileHandle, open, readFile, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Context } from '../context.ts';
import { type Code, FerryError } from '../errors.ts';
import { received } from '../memory.ts';
import { fromEngine, native } from '../native.ts';
import type { ByteStream, Extent, Source, SourceDetails, SourceDriver, SourceFacts } from '../source.ts';
import { StreamSource } from './stdin.ts';

/** Bytes of one read: large enough that the calls cost nothing, small enough for the cache. */
const PIECE = 512 * 1024;
/** Extents that are asked for at once. */
const EXTENTS = 4096;

const UNIDENTIFIED = {
  unidentified: 'writes to a device leave no trace (give --source-unchanged if nobody writes to it)',
};

export interface FileSpec {
  readonly path: string;
}

export const file: SourceDriver<FileSpec> = {
  schemes: ['file'],

  parse(text: string): FileSpec {
    if (!text.startsWith('file:')) return { path: resolve(text) };
    try {
      return { path: fileURLToPath(text) };
    } catch (error) {
      throw new FerryError(`${text} is not a file URL of the form file:///path`, {
        code: 'BAD_SPEC',
        stage: 'source',
        cause: error,
      });
    }
  },

  async open({ path }: FileSpec, context: Context): Promise<Source> {
    const found = await stat(path, { bigint: true }).catch((error: unknown) => {
      throw explain(path, error);
    });
    if (found.isDirectory()) throw failure(`${path} is a directory, not an image`, 'UNSUPPORTED');
    if (found.isFIFO()) return new StreamSource(path, createReadStream(path), context);
    if (!found.isFile() && !found.isBlockDevice()) {
      throw failure(`${path} is neither a file nor a block device`, 'UNSUPPORTED');
    }
    const handle = await open(path, 'r').catch((error: unknown) => {
      throw explain(path, error);
    });
    try {
      return await FileSource.of(path, handle, context);
    } catch (error) {
      await handle.close();
      throw error;
    }
  },
};

function failure(message: string, code: Code, cause?: unknown): FerryError {
  return new FerryError(message, { code, stage: 'source', ...(cause === undefined ? {} : { cause }) });
}

function explain(path: string, error: unknown): FerryError {
  const code = (error as NodeJS.ErrnoException).code;
  if (code === 'ENOENT' || code === 'ENOTDIR') return failure(`${path} does not exist`, 'NOT_FOUND', error);
  if (code === 'EACCES' || code === 'EPERM') return failure(`${path} may not be read by this user`, 'DENIED', error);
  return failure(`${path} cannot be read: ${(error as Error).message}`, 'IO', error);
}

function identity(found: BigIntStats): string {
  return `${found.dev}:${found.ino}:${found.size}:${found.mtimeNs}`;
}

class FileSource implements Source {
  readonly facts: SourceFacts;
  readonly details: SourceDetails;
  readonly name: string;
  readonly #handle: FileHandle;
  readonly #context: Context;
  readonly #length: number;
  readonly #identity: string;
  readonly #closed = new AbortController();
  /** Reads that the kernel has not answered yet: the handle is closed after them. */
  readonly #pending = new Set<Promise<unknown>>();

  private constructor(path: string, handle: FileHandle, context: Context, found: BigIntStats, length: number) {
    const device = found.isBlockDevice();
    this.name = path;
    this.#handle = handle;
    this.#context = context;
    this.#length = length;
    this.#identity = identity(found);
    // A device's node tells nothing of writes to the device: what was read before is not known to be there still.
    this.facts = { length, ranges: true, ...(device ? UNIDENTIFIED : { validator: this.#identity }) };
    this.details = {
      kind: device ? 'block device' : 'file',
      resumable: device ? `no: ${UNIDENTIFIED.unidentified}` : 'yes',
    };
  }

  static async of(path: string, handle: FileHandle, context: Context): Promise<FileSource> {
    const found = await handle.stat({ bigint: true });
    const length = found.isBlockDevice() ? await deviceLength(path, found.rdev) : Number(found.size);
    return new FileSource(path, handle, context, found, length);
  }

  async *read(range: { from: number; to?: number }, signal: AbortSignal): ByteStream {
    const to = Math.min(range.to ?? this.#length, this.#length);
    const stop = AbortSignal.any([signal, this.#closed.signal]);
    this.#context.counters.opened += 1;
    await this.#unchanged(stop);
    let at = range.from;
    let ahead: Promise<Buffer> | undefined;
    try {
      while (at < to) {
        const piece = await (ahead ?? this.#piece(at, to));
        if (stop.aborted) throw stopped();
        if (piece.length === 0) {
          await this.#unchanged(stop);
          throw failure(`${this.name} ended at byte ${at}, ${to - at} bytes before byte ${to}`, 'TRUNCATED');
        }
        at += piece.length;
        // One piece ahead, so that the disk works while the consumer does.
        ahead = at < to ? this.#piece(at, to) : undefined;
        ahead?.catch(() => {});
        yield [piece];
      }
      await this.#unchanged(stop);
    } finally {
      await ahead?.catch(() => {});
    }
  }

  async *extents(signal: AbortSignal): AsyncIterable<readonly Extent[]> {
    const stop = AbortSignal.any([signal, this.#closed.signal]);
    await this.#unchanged(stop);
    for (let at = 0; at < this.#length; ) {
      if (stop.aborted) throw stopped();
      const found = await this.#found(native().fileExtents(this.#handle.fd, at, this.#length, EXTENTS));
      yield found;
      if (found.length < EXTENTS) break;
      at = found.at(-1)?.to ?? this.#length;
    }
    await this.#unchanged(stop);
  }

  async nonzero({ from, to }: Extent, grain: number, signal: AbortSignal): Promise<readonly Extent[]> {
    const stop = AbortSignal.any([signal, this.#closed.signal]);
    await this.#unchanged(stop);
    const found = await this.#found(native().fileNonzero(this.#handle.fd, from, to, grain));
    await this.#unchanged(stop);
    return found;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort();
    await Promise.allSettled(this.#pending);
    await this.#handle.close();
  }

  /** Extents from pairs of offsets that the engine looks for; the handle stays open meanwhile. */
  async #found(asking: Promise<Float64Array>): Promise<Extent[]> {
    this.#pending.add(asking);
    try {
      const pairs = await asking;
      const found: Extent[] = [];
      for (let i = 0; i + 1 < pairs.length; i += 2) found.push({ from: pairs[i] ?? 0, to: pairs[i + 1] ?? 0 });
      return found;
    } catch (error) {
      throw fromEngine(error);
    } finally {
      this.#pending.delete(asking);
    }
  }

  async #piece(at: number, to: number): Promise<Buffer> {
    if (this.#closed.signal.aborted) throw stopped();
    const buffer = Buffer.allocUnsafeSlow(Math.min(PIECE, to - at));
    const reading = this.#handle.read(buffer, 0, buffer.length, at);
    this.#pending.add(reading);
    try {
      const { bytesRead } = await reading;
      received(bytesRead);
      return buffer.subarray(0, bytesRead);
    } catch (error) {
      throw explain(this.name, error);
    } finally {
      this.#pending.delete(reading);
    }
  }

  /** The open file, and what stands at its path: a file that was replaced by another is CHANGED too. */
  async #unchanged(stop: AbortSignal): Promise<void> {
    if (stop.aborted) throw stopped();
    if (this.facts.validator === undefined) return;
    const checking = Promise.all([
      this.#handle.stat({ bigint: true }),
      stat(this.name, { bigint: true }).catch(() => undefined),
    ]);
    this.#pending.add(checking);
    try {
      const [held, named] = await checking;
      if (identity(held) === this.#identity && named && identity(named) === this.#identity) return;
      throw failure(`${this.name} was written to or replaced since it was opened`, 'CHANGED');
    } finally {
      this.#pending.delete(checking);
    }
  }
}

function stopped(): FerryError {
  return failure('the transfer was stopped', 'ABORTED');
}

/** A device's stat has no size; the kernel tells it in sectors of 512 bytes (Documentation/ABI/stable/sysfs-block). */
async function deviceLength(path: string, rdev: bigint): Promise<number> {
  // Layout of dev_t in glibc's sys/sysmacros.h.
  const major = ((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & ~0xfffn);
  const minor = (rdev & 0xffn) | ((rdev >> 12n) & ~0xffn);
  const text = await readFile(`/sys/dev/block/${major}:${minor}/size`, 'utf8').catch((error: unknown) => {
    throw failure(`the size of the device ${path} cannot be found: ${(error as Error).message}`, 'IO', error);
  });
  return Number(text.trim()) * 512;
}
