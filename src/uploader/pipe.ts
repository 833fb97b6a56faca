import type { Readable } from 'node:stream';
import { Batcher } from '../dataplane/batch.ts';
import { FerryError } from '../dataplane/errors.ts';
import type { ByteStream, Source, SourceFacts } from '../dataplane/source.ts';

/** What an earlier process took, and the head of it, which is looked at again. */
export interface Before {
  readonly offset: number;
  readonly head: Uint8Array;
}

/** What a protocol says of all that is sent by it. */
export type Content = Pick<SourceFacts, 'format' | 'codecs' | 'disk'>;

/**
 * What somebody sends, as a source: in order and once, by one body or several, one after the other. Its sender is held back
 * where the disk is slower.
 */
export class Pipe implements Source {
  readonly name: string;
  readonly facts: SourceFacts;
  readonly details = { resumable: 'by who sends it' };
  readonly #batcher = new Batcher(() => this.#body?.resume(), true);
  readonly #length: number | undefined;
  readonly #before: Before | undefined;
  #body: Readable | undefined;
  #leave: (() => void) | undefined;
  #taken: number;

  /** `length` in bytes of all that will be sent, where it is known; `content`: what the protocol says of it. */
  constructor(name: string, length: number | undefined, before?: Before, content: Content = {}) {
    this.name = name;
    this.#length = length;
    this.#before = before;
    this.#taken = before?.offset ?? 0;
    this.facts = { ranges: false, ...content, ...(length === undefined ? {} : { length }) };
  }

  /** Bytes that were taken of all bodies, those of an earlier process too. */
  get taken(): number {
    return this.#taken;
  }

  /** The image can be taken: its sender may send at full speed. */
  admit(): void {
    this.#batcher.readAhead();
  }

  /**
   * Takes a body to its end; answers whether it ended as it should, and not because its sender went. STALLED after `stall`
   * milliseconds of silence. Nothing is taken beyond the length that was told: BAD_SPEC.
   */
  take(body: Readable, stall: number, signal: AbortSignal): Promise<boolean> {
    this.#body = body;
    return new Promise((resolve, reject) => {
      let last = performance.now();
      const silence = setInterval(() => {
        // Who is held back is not silent.
        if (body.isPaused()) last = performance.now();
        if (performance.now() - last > stall) over(() => reject(silent(stall)));
      }, stall / 4);
      silence.unref();
      const over = (settle: () => void): void => {
        body.off('data', onData).off('end', onEnd).off('close', onClose);
        signal.removeEventListener('abort', onAbort);
        clearInterval(silence);
        body.pause();
        this.#body = undefined;
        this.#leave = undefined;
        settle();
      };
      this.#leave = () => over(() => resolve(false));
      const onData = (chunk: Uint8Array): void => {
        last = performance.now();
        if (this.#length !== undefined && this.#taken + chunk.length > this.#length) {
          const message = `more than the ${this.#length} bytes that were announced were sent`;
          over(() => reject(new FerryError(message, { code: 'BAD_SPEC', stage: 'source' })));
          return;
        }
        this.#taken += chunk.length;
        if (!this.#batcher.push(chunk)) body.pause();
      };
      const onEnd = (): void => over(() => resolve(true));
      const onClose = (): void => over(() => resolve(false));
      const onAbort = (): void => over(() => reject(signal.reason as Error));
      // The close that follows says all that there is to say.
      body.on('error', () => undefined);
      if (signal.aborted) return onAbort();
      // Its sender went before anybody listened.
      if (body.destroyed && !body.readableEnded) return onClose();
      signal.addEventListener('abort', onAbort, { once: true });
      body.on('data', onData).on('end', onEnd).on('close', onClose);
    });
  }

  /** Takes no more of the body at hand, as if its sender had gone. */
  leave(): void {
    this.#leave?.();
  }

  /** All was sent. */
  end(): void {
    if (this.#length !== undefined && this.#taken < this.#length) {
      const message = `of ${this.#length} bytes that were announced ${this.#taken} came`;
      this.fail(new FerryError(message, { code: 'TRUNCATED', stage: 'source' }));
    } else this.#batcher.end();
  }

  /** Nobody will send the rest. */
  fail(reason: FerryError): void {
    this.#batcher.fail(reason);
  }

  async *read({ from, to }: { from: number; to?: number }, signal: AbortSignal): ByteStream {
    const { offset, head } = this.#before ?? { offset: 0 };
    if (head !== undefined && from === 0 && from < offset) {
      yield [head];
      return;
    }
    if (from !== offset || to !== undefined) {
      throw new FerryError('what is sent can be read once, in order', { code: 'UNSUPPORTED', stage: 'source' });
    }
    const abort = (): void => this.#batcher.fail(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    try {
      for (;;) {
        signal.throwIfAborted();
        const batch = await this.#batcher.next();
        if (!batch) return;
        yield batch;
      }
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#batcher.clear();
  }
}

function silent(stall: number): FerryError {
  return new FerryError(`nothing was sent for ${Math.round(stall / 1000)} s`, { code: 'STALLED', stage: 'source' });
}
