import { FerryError } from '../errors.ts';
import type { Export } from './handshake.ts';
import { broken, type Wire } from './wire.ts';

/** Magic numbers of doc/proto.md, "Request message", "Simple reply message" and "Structured reply chunk message". */
const REQUEST = 0x25609513;
const SIMPLE = 0x67446698;
const CHUNK = 0x668e33ef;
const READ = 0;
const BLOCK_STATUS = 7;
const DONE = 1;
/** Types of chunks; those with the highest bit set are errors. */
const NONE = 0;
const OFFSET_DATA = 1;
const OFFSET_HOLE = 2;
const STATUS = 5;
const ERRORS = 0x8000;
/** Chunks of one reply, extents of one answer, bytes of a message of an error: more are not taken. */
const MOST_CHUNKS = 4096;
const MOST_EXTENTS = 1 << 17;
const LONGEST_ERROR = 8192;
/** "Error values". */
const NAMES: Readonly<Record<number, string>> = {
  1: 'EPERM',
  5: 'EIO',
  12: 'ENOMEM',
  22: 'EINVAL',
  75: 'EOVERFLOW',
  95: 'ENOTSUP',
  108: 'ESHUTDOWN',
};
const PASSING: readonly number[] = [5, 12, 108];

/** A run of blocks: bytes, and flags of the context. */
export interface Status {
  readonly length: number;
  readonly flags: number;
}

interface Pending {
  readonly offset: number;
  readonly length: number;
  /** Where the bytes go; absent for block status. */
  readonly into?: Buffer;
  /** What has come, within `into`. */
  readonly parts: { from: number; to: number }[];
  status: Status[];
  failed?: FerryError;
  chunks: number;
  readonly done: (pending: Pending) => void;
  readonly reject: (error: FerryError) => void;
}

/** An export in transmission: any number of requests at once, each answered by its cookie. */
export class Connection {
  readonly found: Export;
  readonly #wire: Wire;
  readonly #pending = new Map<bigint, Pending>();
  #cookie = 0n;
  #ended: FerryError | undefined;
  /** A read was left here before its answers came: no other may begin, for they may never come. */
  retired = false;
  /** A read was answered here. */
  proven = false;

  constructor(wire: Wire, found: Export) {
    this.#wire = wire;
    this.found = found;
    this.#receive().catch((error: FerryError) => this.end(error));
  }

  get usable(): boolean {
    return this.#ended === undefined && !this.retired;
  }

  get waiting(): number {
    return this.#pending.size;
  }

  /** `length` bytes at `offset`, aligned as the export wants. */
  async read(offset: number, length: number): Promise<Buffer> {
    const into = Buffer.allocUnsafeSlow(length);
    const { parts } = await this.#request(READ, offset, length, into);
    this.proven = true;
    let at = 0;
    for (const part of parts.sort((one, other) => one.from - other.from)) {
      if (part.from !== at) break;
      at = part.to;
    }
    if (at !== length || parts.at(-1)?.to !== length)
      throw this.#broke(`of ${length} bytes at ${offset} not each came once`);
    return into;
  }

  /** Allocation from `offset` on; at least one run, which may be shorter or longer than `length`. */
  async status(offset: number, length: number): Promise<readonly Status[]> {
    const { status } = await this.#request(BLOCK_STATUS, offset, length);
    if (status.length === 0) throw this.#broke('it answers a question for block status without any');
    return status;
  }

  /** Ends all requests with `error`. May be called twice. */
  end(error: FerryError): void {
    this.#ended ??= error;
    this.#wire.fail(error);
    for (const pending of this.#pending.values()) pending.reject(this.#ended);
    this.#pending.clear();
  }

  #broke(what: string): FerryError {
    const error = broken(what);
    this.end(error);
    return error;
  }

  #request(type: number, offset: number, length: number, into?: Buffer): Promise<Pending> {
    return new Promise((done, reject) => {
      if (this.#ended) {
        reject(this.#ended);
        return;
      }
      const cookie = this.#cookie;
      this.#cookie += 1n;
      const rest = { parts: [], status: [], chunks: 0, done, reject };
      this.#pending.set(cookie, { offset, length, ...(into ? { into } : {}), ...rest });
      const message = Buffer.alloc(28);
      message.writeUInt32BE(REQUEST, 0);
      message.writeUInt16BE(type, 6);
      message.writeBigUInt64BE(cookie, 8);
      message.writeBigUInt64BE(BigInt(offset), 16);
      message.writeUInt32BE(length, 24);
      this.#wire.write(message);
    });
  }

  async #receive(): Promise<never> {
    const head = Buffer.alloc(20);
    for (;;) {
      await this.#wire.fill(head.subarray(0, 16));
      const magic = head.readUInt32BE(0);
      const cookie = head.readBigUInt64BE(8);
      const pending = this.#pending.get(cookie);
      if (!pending || (magic !== SIMPLE && magic !== CHUNK)) throw broken('it sends what is no reply to a request');
      if (magic === SIMPLE) {
        await this.#simple(pending, head.readUInt32BE(4));
        this.#settle(cookie, pending);
        continue;
      }
      if (!this.found.structured) throw broken('it sends structured replies unasked');
      await this.#wire.fill(head.subarray(16, 20));
      pending.chunks += 1;
      if (pending.chunks > MOST_CHUNKS) throw broken(`it answers a request in more than ${MOST_CHUNKS} chunks`);
      await this.#chunk(pending, head.readUInt16BE(6), head.readUInt32BE(16));
      if (head.readUInt16BE(4) & DONE) this.#settle(cookie, pending);
    }
  }

  #settle(cookie: bigint, pending: Pending): void {
    this.#pending.delete(cookie);
    if (pending.failed) pending.reject(pending.failed);
    else pending.done(pending);
  }

  async #simple(pending: Pending, error: number): Promise<void> {
    if (error !== 0) pending.failed = told(pending, error, '');
    else if (!pending.into) throw broken('it answers a question for block status without any');
    else if (this.found.structured)
      throw broken('it sends data in a simple reply where structured replies were agreed on');
    else {
      await this.#wire.fill(pending.into);
      pending.parts.push({ from: 0, to: pending.length });
    }
  }

  async #chunk(pending: Pending, type: number, length: number): Promise<void> {
    const { into } = pending;
    if (type === NONE && length === 0) return;
    if (type === OFFSET_DATA && into && length > 8 && length - 8 <= into.length) {
      const from = this.#place(pending, await this.#wire.take(8), length - 8);
      await this.#wire.fill(into.subarray(from, from + length - 8));
      return;
    }
    if (type === OFFSET_HOLE && into && length === 12) {
      const hole = await this.#wire.take(12);
      const bytes = hole.readUInt32BE(8);
      const from = this.#place(pending, hole, bytes);
      into.fill(0, from, from + bytes);
      return;
    }
    if (type === STATUS && !into && length >= 12 && (length - 4) % 8 === 0 && length <= 4 + 8 * MOST_EXTENTS) {
      const answer = await this.#wire.take(length);
      if (answer.readUInt32BE(0) !== this.found.context) return;
      if (pending.status.length > 0) throw broken('it tells block status twice');
      for (let at = 4; at < length; at += 8) {
        pending.status.push({ length: answer.readUInt32BE(at), flags: answer.readUInt32BE(at + 4) });
      }
      if (pending.status.some((run) => run.length === 0)) throw broken('it tells the status of no blocks');
      return;
    }
    if (type & ERRORS && length >= 6 && length <= LONGEST_ERROR) {
      const answer = await this.#wire.take(length);
      const text = answer.subarray(6, Math.min(length, 6 + answer.readUInt16BE(4)));
      pending.failed ??= told(pending, answer.readUInt32BE(0), text.subarray(0, 200).toString('utf8'));
      return;
    }
    throw broken(`it sends a chunk of type ${type} and ${length} bytes`);
  }

  /** Where in the buffer a chunk begins; noted as come. */
  #place(pending: Pending, head: Buffer, bytes: number): number {
    const from = Number(head.readBigUInt64BE(0)) - pending.offset;
    if (!(from >= 0 && bytes > 0 && from + bytes <= pending.length)) {
      throw broken(`it sends ${bytes} bytes at ${from + pending.offset} that were not asked for`);
    }
    pending.parts.push({ from, to: from + bytes });
    return from;
  }
}

function told({ offset, length }: Pending, error: number, text: string): FerryError {
  const said = text === '' ? '' : ` (${JSON.stringify(text)})`;
  const name = NAMES[error] ?? `error ${error}`;
  return new FerryError(`the NBD server answered ${name} for ${length} bytes at ${offset}${said}`, {
    code: error === 1 ? 'DENIED' : 'IO',
    stage: 'source',
    retryable: PASSING.includes(error),
  });
}
