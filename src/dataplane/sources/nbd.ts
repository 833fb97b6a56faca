import type { Context } from '../context.ts';
import { FerryError } from '../errors.ts';
import { Connections } from '../http/connection.ts';
import { received } from '../memory.ts';
import { connect, type Place } from '../nbd/connect.ts';
import type { Connection, Status } from '../nbd/connection.ts';
import { type Lease, Pool, stopped } from '../nbd/pool.ts';
import type { ByteStream, Extent, Source, SourceDetails, SourceDriver, SourceFacts, SourceOptions } from '../source.ts';

/** doc/uri.md of NetworkBlockDevice/nbd. */
const PORT = 10809;
/** Transmission flag: several connections see the same disk (doc/proto.md, "Transmission flags"). */
const MULTI_CONN = 1 << 8;
/** Flag of `base:allocation`: the run reads as zeros. */
const ZERO = 2;
/** Flag of QEMU's `qemu:dirty-bitmap:`: the run has changed (docs/interop/nbd.txt). */
const DIRTY = 1;
/** Bytes of one request, and requests under way of one read: 2 MiB, as a window of `parallel` has. */
const PIECE = 512 * 1024;
const DEPTH = 4;
/** Bytes that one question for allocation is about; servers may answer for less. */
const ASKED = 1 << 30;

export interface NbdSpec {
  readonly place: Omit<Place, 'trust'>;
  readonly tls: boolean;
  readonly options: SourceOptions;
}

/** Network block devices: qemu-nbd, nbdkit, qemu's own exports. */
export const nbd: SourceDriver<NbdSpec> = {
  schemes: ['nbd', 'nbds', 'nbd+unix', 'nbds+unix'],

  parse(text: string, options: SourceOptions): NbdSpec {
    const url = URL.parse(text);
    const wrong = (what: string): FerryError => new FerryError(what, { code: 'BAD_SPEC', stage: 'plan' });
    if (!url) throw wrong('the source is not of the form nbd://host[:port]/export or nbd+unix:///export?socket=PATH');
    const unwanted = ['tls-certificates', 'tls-psk-file'].find((one) => url.searchParams.has(one));
    if (unwanted) throw wrong(`${unwanted} is not taken: certificates to trust are given with --ca`);
    const exportName = decoded(url.pathname.slice(1));
    if (exportName === undefined) throw wrong("the export's name is not percent-encoded UTF-8");
    // Of the protocol, "Values": no string is longer.
    if (Buffer.byteLength(exportName) > 4096) throw wrong("the export's name is longer than 4096 bytes");
    const tls = url.protocol.startsWith('nbds');
    if (url.protocol.endsWith('+unix:')) {
      const path = url.searchParams.get('socket');
      if (!path) throw wrong('a Unix socket is written as nbd+unix:///export?socket=PATH');
      return { place: { name: `${url.protocol}${path}:/${exportName}`, at: { path }, exportName }, tls, options };
    }
    if (url.hostname === '') throw wrong('a host is missing: nbd://host[:port]/export');
    const host = url.hostname.replace(/^\[|\]$/g, '');
    const port = url.port === '' ? PORT : Number(url.port);
    const name = `${url.protocol}//${url.hostname}:${port}${url.pathname}`;
    return { place: { name, at: { host, port }, exportName }, tls, options };
  },

  async open({ place, tls, options }: NbdSpec, context: Context): Promise<Source> {
    const { changedSince } = options;
    // A name is 4096 bytes at most, as an export's is.
    if (Buffer.byteLength(changedSince ?? '') > 1023) {
      throw new FerryError("a dirty bitmap's name is not longer than 1023 bytes", { code: 'BAD_SPEC', stage: 'plan' });
    }
    const at = { ...place, ...(changedSince === undefined ? {} : { bitmap: changedSince }) };
    const trust = tls ? { trust: new Connections(options.ca, options.environment ?? process.env).secureContext() } : {};
    const closed = new AbortController();
    const stop = AbortSignal.any([context.signal, closed.signal]);
    const { connection, latency } = await connect({ ...at, ...trust }, stop, context.guard);
    const more = async (): Promise<Connection> => {
      const { connection: another } = await connect({ ...at, ...trust }, stop, context.guard);
      if (another.found.size === connection.found.size) return another;
      const sizes = `${another.found.size} bytes long now, it had ${connection.found.size}`;
      another.end(stopped());
      throw new FerryError(`${place.name} is ${sizes}`, { code: 'CHANGED', stage: 'source' });
    };
    const most = connection.found.flags & MULTI_CONN ? context.limits.connections : 1;
    return new NbdSource(
      place.name,
      connection,
      latency,
      new Pool(more, most, connection),
      closed,
      context,
      changedSince,
    );
  },
};

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

class NbdSource implements Source {
  readonly name: string;
  readonly facts: SourceFacts;
  readonly details: SourceDetails;
  readonly extents?: NonNullable<Source['extents']>;
  readonly #pool: Pool;
  readonly #closed: AbortController;
  readonly #context: Context;
  readonly #size: number;

  constructor(
    name: string,
    { found }: Connection,
    latency: number,
    pool: Pool,
    closed: AbortController,
    context: Context,
    changedSince?: string,
  ) {
    this.name = name;
    this.#pool = pool;
    this.#closed = closed;
    this.#context = context;
    this.#size = found.size;
    this.facts = {
      length: found.size,
      ranges: true,
      remote: true,
      latency,
      unidentified: 'an NBD export has nothing that identifies it (give --source-unchanged if nobody writes to it)',
      ...(changedSince === undefined ? {} : { changedSince, format: 'raw' }),
    };
    const allocation = found.context !== undefined;
    this.details = {
      kind: 'NBD export',
      holes: allocation ? 'told by the server: they are not read' : 'not told by the server',
      connections: found.flags & MULTI_CONN ? 'several' : 'one',
    };
    if (allocation) this.extents = (signal) => this.#extents(signal);
  }

  async *read(range: { from: number; to?: number }, signal: AbortSignal): ByteStream {
    const to = Math.min(range.to ?? this.#size, this.#size);
    const stop = AbortSignal.any([signal, this.#closed.signal]);
    this.#context.counters.opened += 1;
    const lease = await this.#take(stop);
    const { connection } = lease;
    const under: Promise<Buffer>[] = [];
    let asked = range.from;
    try {
      for (;;) {
        // A new connection shows first that it carries one: answers come in any order, and on a bad line none of
        // several might be whole.
        while (under.length < (connection.proven ? DEPTH : 1) && asked < to) {
          const piece = this.#piece(connection, asked, to);
          piece.bytes.catch(() => undefined); // told where it is awaited
          under.push(piece.bytes);
          asked = piece.to;
        }
        const [first] = under;
        if (!first) return;
        const bytes = await unless(stop, first);
        void under.shift();
        received(bytes.length);
        yield [bytes];
      }
    } finally {
      lease.back(under.length > 0);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed.abort();
    this.#pool.close();
  }

  async #take(stop: AbortSignal): Promise<Lease> {
    if (stop.aborted) throw stopped();
    const taking = this.#pool.take();
    try {
      return await unless(stop, taking);
    } catch (error) {
      // It may come when nobody waits for it any more.
      taking.then(
        (lease) => lease.back(false),
        () => undefined,
      );
      throw error;
    }
  }

  /** The next piece from `from` on, asked for in whole blocks of the export. */
  #piece(connection: Connection, from: number, to: number): { bytes: Promise<Buffer>; to: number } {
    const { smallest, largest } = connection.found;
    const begin = from - (from % smallest);
    const longest = Math.min(PIECE, largest - (largest % smallest));
    const end = Math.min(to, begin + longest);
    const asked = Math.min(Math.ceil(end / smallest) * smallest, this.#size);
    const bytes = connection.read(begin, asked - begin).then((all) => all.subarray(from - begin, end - begin));
    return { bytes, to: end };
  }

  async *#extents(signal: AbortSignal): AsyncIterable<readonly Extent[]> {
    const stop = AbortSignal.any([signal, this.#closed.signal]);
    const lease = await this.#take(stop);
    const { connection } = lease;
    const { stall } = this.#context.limits;
    try {
      for (let at = 0; at < this.#size; ) {
        const asking = connection.status(at, Math.min(ASKED, this.#size - at));
        const runs = await answered(asking, stop, stall, this.name);
        const extents: Extent[] = [];
        for (const { length, flags } of runs) {
          // The last run may go on beyond what was asked for.
          const to = Math.min(at + length, this.#size);
          const wanted = this.facts.changedSince === undefined ? !(flags & ZERO) : (flags & DIRTY) !== 0;
          if (wanted && to > at) extents.push({ from: at, to });
          at = to;
        }
        yield extents;
      }
    } finally {
      lease.back(connection.waiting > 0);
    }
  }
}

/** `promise`, or ABORTED as soon as `stop` is. */
async function unless<T>(stop: AbortSignal, promise: Promise<T>): Promise<T> {
  if (stop.aborted) throw stopped();
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = (): void => reject(stopped());
  stop.addEventListener('abort', abort, { once: true });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    stop.removeEventListener('abort', abort);
  }
}

/** No filter watches questions for allocation as `watchdog` watches reads. */
async function answered(
  asking: Promise<readonly Status[]>,
  stop: AbortSignal,
  stall: number,
  name: string,
): Promise<readonly Status[]> {
  asking.catch(() => undefined); // told where it is awaited
  const late = AbortSignal.timeout(stall);
  try {
    return await unless(AbortSignal.any([stop, late]), asking);
  } catch (error) {
    if (!late.aborted || stop.aborted) throw error;
    throw new FerryError(`${name} did not tell its allocation for ${stall / 1000} s`, {
      code: 'STALLED',
      stage: 'source',
      retryable: true,
    });
  }
}
