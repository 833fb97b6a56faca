import type { Readable } from 'node:stream';
import { Batcher } from '../batch.ts';
import type { Context } from '../context.ts';
import { FerryError } from '../errors.ts';
import type { ByteStream, Source, SourceDriver, SourceOptions } from '../source.ts';

/** Opens the stream when it is first needed. */
export type StdinSpec = () => NodeJS.ReadableStream;

export const stdin: SourceDriver<StdinSpec> = {
  schemes: ['-'],
  parse: (_text: string, options: SourceOptions): StdinSpec => {
    return () => options.stdin ?? process.stdin;
  },
  async open(spec: StdinSpec, context: Context): Promise<Source> {
    return new StreamSource('-', spec() as Readable, context);
  },
};

/** A stream that can be read once: standard input, or a named pipe. */
export class StreamSource implements Source {
  readonly facts = { ranges: false };
  readonly details = { resumable: 'no: a stream can be read once' };
  readonly name: string;
  readonly #stream: Readable;
  readonly #context: Context;
  readonly #closed = new AbortController();
  #taken = false;

  constructor(name: string, stream: Readable, context: Context) {
    this.name = name;
    this.#stream = stream;
    this.#context = context;
  }

  async *read({ from, to }: { from: number; to?: number }, signal: AbortSignal): ByteStream {
    if (from > 0 || this.#taken) {
      throw new FerryError('a stream can be read once and from its beginning only', {
        code: 'UNSUPPORTED',
        stage: 'source',
      });
    }
    this.#taken = true;
    this.#context.counters.opened += 1;
    const stop = AbortSignal.any([signal, this.#closed.signal]);
    const stream = this.#stream;
    const batcher = new Batcher(() => stream.resume());
    const onData = (chunk: Uint8Array): void => {
      if (!batcher.push(chunk)) stream.pause();
    };
    const onEnd = (): void => batcher.end();
    const onError = (error: unknown): void => batcher.fail(error);
    const onClose = (): void => batcher.fail(new Error('the stream was closed before its end'));
    const onAbort = (): void => batcher.fail(stop.reason);
    if (stop.aborted) onAbort();
    else if (stream.readableEnded) onEnd();
    else if (stream.destroyed) onClose();
    stop.addEventListener('abort', onAbort, { once: true });
    stream.on('end', onEnd).on('error', onError).on('close', onClose).on('data', onData);
    stream.resume();
    try {
      let left = to ?? Number.POSITIVE_INFINITY;
      while (left > 0) {
        const batch = await batcher.next();
        if (stop.aborted) throw stop.reason;
        if (!batch) break;
        const kept: Uint8Array[] = [];
        for (const chunk of batch) {
          if (left > 0) kept.push(left < chunk.length ? chunk.subarray(0, left) : chunk);
          left -= Math.min(left, chunk.length);
        }
        yield kept;
      }
      if (to !== undefined && left > 0) {
        throw new FerryError(`the stream ended at byte ${to - left}, ${left} bytes before byte ${to}`, {
          code: 'TRUNCATED',
          stage: 'source',
        });
      }
    } catch (error) {
      if (error instanceof FerryError) throw error;
      if (stop.aborted) {
        throw new FerryError('the transfer was stopped', { code: 'ABORTED', stage: 'source', cause: error });
      }
      throw new FerryError(`the stream failed: ${(error as Error).message}`, {
        code: 'IO',
        stage: 'source',
        cause: error,
      });
    } finally {
      stop.removeEventListener('abort', onAbort);
      stream.off('end', onEnd).off('close', onClose).off('data', onData);
      // Its error listener stays: one that comes after we left must not end the process.
      stream.destroy();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort(new FerryError('the source was closed', { code: 'ABORTED', stage: 'source' }));
    this.#stream.on('error', () => {});
    this.#stream.destroy();
  }
}
