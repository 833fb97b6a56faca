import type { Socket } from 'node:net';
import { FerryError } from '../errors.ts';

/** Bytes that may wait to be asked for before the socket is held back. */
const WAITING = 1 << 20;

/** A server that does not keep to the protocol (doc/proto.md of NetworkBlockDevice/nbd), named `section` there. */
export function broken(what: string): FerryError {
  return new FerryError(`the NBD server does not keep to the protocol: ${what}`, { code: 'CORRUPT', stage: 'source' });
}

interface Filling {
  readonly into: Uint8Array;
  at: number;
  readonly done: () => void;
  readonly failed: (error: unknown) => void;
}

/** A socket as exact numbers of bytes. One `fill` at a time. */
export class Wire {
  readonly #socket: Socket;
  #chunks: Buffer[] = [];
  #bytes = 0;
  #filling: Filling | undefined;
  #ended: FerryError | undefined;

  /** `explain` says what an error of the socket means. */
  constructor(socket: Socket, explain: (error: Error | undefined) => FerryError) {
    this.#socket = socket;
    socket.on('data', this.#take);
    socket.on('error', (error) => this.fail(explain(error)));
    socket.on('close', () => this.fail(explain(undefined)));
    socket.on('end', () => this.fail(explain(undefined)));
  }

  readonly #take = (chunk: Buffer): void => {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    this.#move();
    if (this.#bytes > WAITING) this.#socket.pause();
  };

  #move(): void {
    const filling = this.#filling;
    if (!filling) return;
    while (filling.at < filling.into.length) {
      const chunk = this.#chunks[0];
      if (!chunk) break;
      const part = chunk.subarray(0, filling.into.length - filling.at);
      filling.into.set(part, filling.at);
      filling.at += part.length;
      this.#bytes -= part.length;
      if (part.length === chunk.length) this.#chunks.shift();
      else this.#chunks[0] = chunk.subarray(part.length);
    }
    if (this.#socket.isPaused() && this.#bytes <= WAITING / 2) this.#socket.resume();
    if (filling.at < filling.into.length) return;
    this.#filling = undefined;
    filling.done();
  }

  /** Resolves when `into` is full. */
  fill(into: Uint8Array): Promise<void> {
    return new Promise((done, failed) => {
      this.#filling = { into, at: 0, done, failed };
      this.#move();
      if (this.#filling && this.#ended) this.fail(this.#ended);
    });
  }

  async take(bytes: number): Promise<Buffer> {
    const buffer = Buffer.alloc(bytes);
    await this.fill(buffer);
    return buffer;
  }

  write(bytes: Uint8Array): void {
    if (!this.#ended) this.#socket.write(bytes);
  }

  /** Ends everything with `error`. May be called twice: the first counts. */
  fail(error: FerryError): void {
    this.#ended ??= error;
    this.#socket.destroy();
    const filling = this.#filling;
    this.#filling = undefined;
    filling?.failed(this.#ended);
  }

  /** Gives the socket away, to TLS. Throws when the server sent more than was asked for: it would pass for encrypted. */
  release(): Socket {
    if (this.#bytes > 0) throw broken('it sends data before TLS has begun');
    this.#socket.removeAllListeners();
    return this.#socket;
  }
}
