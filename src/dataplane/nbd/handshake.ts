import { FerryError } from '../errors.ts';
import { broken, type Wire } from './wire.ts';

/** Magic numbers of doc/proto.md, "Newstyle negotiation" and "Option reply". */
const NBDMAGIC = 0x4e42444d41474943n;
const IHAVEOPT = 0x49484156454f5054n;
const REPLY = 0x0003e889045565a9n;
/** Handshake flags, of server and client. */
const FIXED_NEWSTYLE = 1;
const NO_ZEROES = 2;
/** Options. */
const STARTTLS = 5;
const GO = 7;
const STRUCTURED_REPLY = 8;
const SET_META_CONTEXT = 10;
/** Option replies; with the highest bit set, an error. */
const ACK = 1;
const INFO = 3;
const META_CONTEXT = 4;
const ERROR = 0x80000000;
/** What NBD_REP_INFO tells. */
const INFO_EXPORT = 0;
const INFO_BLOCK_SIZE = 3;
/** Longest reply to an option that is taken, bytes (strings have 4096 at most), and most replies to one. */
const LONGEST = 65_536;
const MOST = 64;
const ALLOCATION = 'base:allocation';
/** Prefix of QEMU's names for what has changed (docs/interop/nbd.txt). */
const BITMAP = 'qemu:dirty-bitmap:';

/** What a server says of an export. Sizes in bytes. */
export interface Export {
  readonly size: number;
  /** Transmission flags. */
  readonly flags: number;
  readonly structured: boolean;
  /** Id of the context `base:allocation`, or of the dirty bitmap that was asked for, where there is one. */
  readonly context?: number;
  /** Requests are to be aligned to this, and not to be longer than `largest`. */
  readonly smallest: number;
  readonly largest: number;
}

interface Reply {
  readonly type: number;
  readonly data: Buffer;
}

function refusal({ type, data }: Reply, name: string): FerryError {
  const said = data.length > 0 ? `: ${JSON.stringify(data.subarray(0, 200).toString('utf8'))}` : '';
  const make = (message: string, code: 'NOT_FOUND' | 'DENIED' | 'UNSUPPORTED' | 'IO'): FerryError =>
    new FerryError(`${message}${said}`, { code, stage: 'source', retryable: code === 'IO' });
  switch (type - ERROR) {
    case 2:
      return make(`the NBD server does not allow the export '${name}'`, 'DENIED');
    case 5:
      return make('the NBD server wants TLS: write nbds:// instead of nbd://', 'DENIED');
    case 6:
      return make(`the NBD server has no export '${name}'`, 'NOT_FOUND');
    case 7:
      return make('the NBD server is shutting down', 'IO');
    case 1:
      return make('the NBD server is too old: it does not know NBD_OPT_GO', 'UNSUPPORTED');
    default:
      return make(`the NBD server refused the export '${name}' (error ${type - ERROR})`, 'UNSUPPORTED');
  }
}

function counted(text: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(text.length);
  return Buffer.concat([length, text]);
}

export class Handshake {
  readonly #wire: Wire;

  constructor(wire: Wire) {
    this.#wire = wire;
  }

  /** Fixed newstyle, or UNSUPPORTED. */
  async greet(): Promise<void> {
    const greeting = await this.#wire.take(16);
    if (greeting.readBigUInt64BE(0) !== NBDMAGIC)
      throw broken('it does not begin with NBDMAGIC; is it another service?');
    const flags = greeting.readBigUInt64BE(8) === IHAVEOPT ? (await this.#wire.take(2)).readUInt16BE(0) : 0;
    if (!(flags & FIXED_NEWSTYLE)) {
      throw new FerryError('the NBD server is too old: it does not know the fixed newstyle negotiation', {
        code: 'UNSUPPORTED',
        stage: 'source',
      });
    }
    const answer = Buffer.alloc(4);
    answer.writeUInt32BE(FIXED_NEWSTYLE | (flags & NO_ZEROES));
    this.#wire.write(answer);
  }

  /** What follows belongs to TLS. */
  async startTls(): Promise<void> {
    const reply = (await this.#ask(STARTTLS, Buffer.alloc(0))).at(-1);
    if (reply?.type === ACK) return;
    throw new FerryError('the NBD server has no TLS: write nbd:// instead of nbds:// if the network can be trusted', {
      code: 'UNSUPPORTED',
      stage: 'source',
    });
  }

  /** The export, with its allocation or, where a dirty bitmap is named, what has changed by it. */
  async enter(name: string, bitmap?: string): Promise<Export> {
    const text = Buffer.from(name, 'utf8');
    const structured = (await this.#ask(STRUCTURED_REPLY, Buffer.alloc(0))).at(-1)?.type === ACK;
    const wantedContext = bitmap === undefined ? ALLOCATION : BITMAP + bitmap;
    const context = structured ? await this.#context(text, wantedContext) : undefined;
    const wanted = Buffer.from([0, 1, 0, INFO_BLOCK_SIZE]);
    const replies = await this.#ask(GO, Buffer.concat([counted(text), wanted]));
    const last = replies.at(-1);
    if (last && last.type >= ERROR) throw refusal(last, name);
    let found: { size: number; flags: number } | undefined;
    let [smallest, largest] = [1, 0xffffffff];
    for (const { type, data } of replies) {
      if (type !== INFO) continue;
      const kind = data.length >= 2 ? data.readUInt16BE(0) : -1;
      if (kind === INFO_EXPORT && data.length === 12) {
        const size = data.readBigUInt64BE(2);
        if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw broken(`it has an export of ${size} bytes`);
        found = { size: Number(size), flags: data.readUInt16BE(10) };
      } else if (kind === INFO_BLOCK_SIZE && data.length === 14) {
        smallest = data.readUInt32BE(2);
        largest = data.readUInt32BE(10);
        const power = (smallest & (smallest - 1)) === 0;
        // "Block size constraints": the minimum is a power of two up to 64 KiB.
        if (smallest === 0 || smallest > 65_536 || !power || largest < Math.max(smallest, 512)) {
          throw broken(`it wants blocks of ${smallest} to ${largest} bytes`);
        }
      }
    }
    if (!found) throw broken('it does not tell the size of the export');
    if (bitmap !== undefined && context === undefined) {
      throw new FerryError(
        `the NBD server has no dirty bitmap '${bitmap}' for the export '${name}': give it one (qemu-nbd --bitmap=${bitmap}), or import the disk whole`,
        { code: 'NOT_FOUND', stage: 'source' },
      );
    }
    return { ...found, structured, smallest, largest, ...(context === undefined ? {} : { context }) };
  }

  async #context(name: Buffer, wanted: string): Promise<number | undefined> {
    const one = Buffer.from([0, 0, 0, 1]);
    const query = Buffer.concat([counted(name), one, counted(Buffer.from(wanted))]);
    const replies = await this.#ask(SET_META_CONTEXT, query);
    // What is wrong with the export is told in the answer to GO.
    if (replies.at(-1)?.type !== ACK) return undefined;
    const context = replies.find(({ type, data }) => type === META_CONTEXT && data.subarray(4).toString() === wanted);
    return context?.data.readUInt32BE(0);
  }

  /** Sends an option and answers its replies, of which the last is ACK or an error. */
  async #ask(option: number, data: Buffer): Promise<Reply[]> {
    const head = Buffer.alloc(16);
    head.writeBigUInt64BE(IHAVEOPT, 0);
    head.writeUInt32BE(option, 8);
    head.writeUInt32BE(data.length, 12);
    this.#wire.write(Buffer.concat([head, data]));
    const replies: Reply[] = [];
    while (replies.length < MOST) {
      const answer = await this.#wire.take(20);
      const length = answer.readUInt32BE(16);
      if (answer.readBigUInt64BE(0) !== REPLY || answer.readUInt32BE(8) !== option || length > LONGEST) {
        throw broken(`it answers option ${option} with what is no reply to it`);
      }
      const reply = { type: answer.readUInt32BE(12), data: await this.#wire.take(length) };
      replies.push(reply);
      if (reply.type === ACK || reply.type >= ERROR) return replies;
    }
    throw broken(`it answers option ${option} more than ${MOST} times`);
  }
}
