/**
 * A TCP proxy that does to connections what networks do: cuts, stalls, slows, delays, corrupts.
 *
 *     node test/faults/proxy.ts --listen 8081 --to 127.0.0.1:8080 --cut 5MB
 */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { parseRate, parseSize } from '../../src/dataplane/sizes.ts';

/** Bytes are counted from the server to the client unless said otherwise, on each connection by itself. */
export interface Faults {
  /** Bytes after which a connection is cut (RST). */
  cut?: number;
  /** Bytes from the client after which a connection is cut (RST). */
  cutSent?: number;
  /** Bytes after which a connection is ended in order (FIN). */
  finish?: number;
  /** Bytes after which nothing more comes, while the connection stays. */
  stall?: number;
  /** Bytes a second. */
  rate?: number;
  /** Milliseconds that each direction is late: half a round trip. */
  delay?: number;
  /** Byte whose lowest bit is flipped, counted over all connections together; once. */
  corrupt?: number;
  /** The same of what clients send. */
  corruptSent?: number;
  /** Connections that get the faults above; later ones are left alone. Default: all. */
  connections?: number;
}

/** Bytes on their way through `delay` at most, so that a slow reader holds the sender back. */
const IN_FLIGHT = 32 * 1024 * 1024;
/** The same at a limited rate: a narrow line holds little. */
const SLOW = 256 * 1024;

export class FaultProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #to: { readonly host: string; readonly port: number };
  /** Of this machine: who else can reach it decides. */
  readonly #address: string;
  /** May be changed while it runs: counts for new connections, and for the next bytes of those that are open. */
  faults: Faults;
  /** Bytes that came from the server, and from clients. */
  bytes = 0;
  sent = 0;
  accepted = 0;

  private constructor(to: { host: string; port: number }, faults: Faults, address: string) {
    this.#to = to;
    this.#address = address;
    this.faults = faults;
    this.#server = createServer({ noDelay: true }, (client) => this.#serve(client));
  }

  static async start(
    to: { host?: string; port: number },
    faults: Faults = {},
    listen = 0,
    address = '127.0.0.1',
  ): Promise<FaultProxy> {
    const proxy = new FaultProxy({ host: to.host ?? '127.0.0.1', port: to.port }, faults, address);
    proxy.#server.listen(listen, address);
    await once(proxy.#server, 'listening');
    return proxy;
  }

  get port(): number {
    const address = this.#server.address();
    return address !== null && typeof address === 'object' ? address.port : 0;
  }

  get url(): string {
    return `http://${this.#address}:${this.port}`;
  }

  /** Cuts every connection that is open. */
  cutAll(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  /** Connections that are open to clients. */
  get open(): number {
    return this.#sockets.size;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    if (!this.#server.listening) return;
    this.#server.close();
    await once(this.#server, 'close');
  }

  #serve(client: Socket): void {
    this.accepted += 1;
    const faulty = this.accepted <= (this.faults.connections ?? Number.POSITIVE_INFINITY);
    const server = connect({ ...this.#to, noDelay: true });
    this.#sockets.add(client);
    client.on('close', () => {
      this.#sockets.delete(client);
      server.destroy();
    });
    // A server that ends in order still has bytes on their way here.
    server.on('error', () => client.destroy());
    server.on('close', (failed: boolean) => {
      if (failed) client.destroy();
    });
    client.on('error', () => server.destroy());
    let given = 0;
    late(client, server, (chunk) => {
      const { cutSent, corruptSent, delay = 0 } = faulty ? this.faults : {};
      const data = flipped(chunk, corruptSent, this.sent);
      this.sent += data.length;
      given += data.length;
      const due = performance.now() + delay;
      if (cutSent === undefined || given < cutSent) return { data, due };
      return { data, due, last: () => setImmediate(() => client.resetAndDestroy()) };
    });
    let passed = 0;
    /** When the last byte so far may leave, at the rate. */
    let free = 0;
    late(server, client, (chunk) => {
      const { cut, finish, stall, rate, corrupt, delay } = faulty ? this.faults : {};
      const before = this.bytes;
      this.bytes += chunk.length;
      const data = flipped(chunk, corrupt, before);
      let due = performance.now() + (delay ?? 0);
      if (rate !== undefined) {
        free = Math.max(free, performance.now()) + (data.length / rate) * 1000;
        due = Math.max(due, free);
      }
      const room = Math.min(cut ?? Infinity, finish ?? Infinity, stall ?? Infinity) - passed;
      passed += data.length;
      if (data.length < room) return { data, due, bound: rate === undefined ? IN_FLIGHT : SLOW };
      const end = room + passed - data.length;
      const last = (): void => {
        if (end === cut) setImmediate(() => client.resetAndDestroy());
        else if (end === finish) client.end();
      };
      return { data: data.subarray(0, Math.max(0, room)), due, last };
    });
  }
}

/** The lowest bit of byte `at` flipped, where `before` bytes came before the chunk. */
function flipped(chunk: Buffer, at: number | undefined, before: number): Buffer {
  if (at === undefined || at < before || at >= before + chunk.length) return chunk;
  const data = Buffer.from(chunk);
  data.writeUInt8(data.readUInt8(at - before) ^ 1, at - before);
  return data;
}

interface Piece {
  readonly data: Buffer;
  /** When it arrives, on the clock of performance.now(). */
  readonly due: number;
  /** Nothing follows it; called when it has been written. */
  readonly last?: () => void;
  /** Bytes that may be on their way. */
  readonly bound?: number;
}

/** Passes on what `from` sends, as `change` makes it. */
function late(from: Socket, to: Socket, change: (chunk: Buffer) => Piece): void {
  const flying: Piece[] = [];
  let bytes = 0;
  let bound = IN_FLIGHT;
  let over = false;
  let ended = false;
  let full = false;
  let timer: NodeJS.Timeout | undefined;
  /** Writes what is due. One timer for all: a timer a chunk would be most of the work. */
  const land = (): void => {
    timer = undefined;
    const now = performance.now();
    while (!full && flying[0] && flying[0].due <= now) {
      const piece = flying.shift();
      if (!piece || to.destroyed || to.writableEnded) continue;
      bytes -= piece.data.length;
      full = !to.write(piece.data);
      piece.last?.();
      if (full) {
        to.once('drain', () => {
          full = false;
          land();
        });
      }
    }
    if (over || full || bytes > bound) from.pause();
    else from.resume();
    if (full) return;
    if (flying[0]) timer = setTimeout(land, Math.max(1, flying[0].due - now));
    else if (ended && !over) to.end();
  };
  from.on('data', (chunk: Buffer) => {
    if (over) return;
    const piece = change(chunk);
    if (piece.last) over = true;
    bound = piece.bound ?? IN_FLIGHT;
    bytes += piece.data.length;
    flying.push(piece);
    if (over || bytes > bound) from.pause();
    if (!timer && !full) land();
  });
  from.on('end', () => {
    ended = true;
    if (!timer && !full) land();
  });
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      listen: { type: 'string', default: '0' },
      to: { type: 'string' },
      cut: { type: 'string' },
      'cut-sent': { type: 'string' },
      finish: { type: 'string' },
      stall: { type: 'string' },
      rate: { type: 'string' },
      delay: { type: 'string' },
      corrupt: { type: 'string' },
      'corrupt-sent': { type: 'string' },
      connections: { type: 'string' },
    },
  });
  const to = /^(.+):(\d+)$/.exec(values.to ?? '');
  if (!to) {
    console.error(
      'usage: node test/faults/proxy.ts --listen PORT --to HOST:PORT [--cut SIZE] [--cut-sent SIZE] [--finish SIZE] [--stall SIZE] [--rate SIZE/s] [--delay MILLISECONDS] [--corrupt OFFSET] [--corrupt-sent OFFSET] [--connections COUNT]',
    );
    process.exitCode = 2;
    return;
  }
  const faults: Faults = {};
  for (const name of ['cut', 'finish', 'stall', 'corrupt', 'delay', 'connections'] as const) {
    const text = values[name];
    if (text !== undefined) faults[name] = parseSize(text);
  }
  if (values['cut-sent'] !== undefined) faults.cutSent = parseSize(values['cut-sent']);
  if (values['corrupt-sent'] !== undefined) faults.corruptSent = parseSize(values['corrupt-sent']);
  if (values.rate !== undefined) faults.rate = parseRate(values.rate);
  const proxy = await FaultProxy.start({ host: to[1] ?? '', port: Number(to[2]) }, faults, Number(values.listen));
  console.log(`${proxy.url} -> ${values.to}`);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main();
