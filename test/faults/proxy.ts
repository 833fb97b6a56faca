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

/** All bytes are counted from the server to the client, on each connection by itself unless said otherwise. */
export interface Faults {
  /** Bytes after which a connection is cut (RST). */
  cut?: number;
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
  /** Connections that get the faults above; later ones are left alone. Default: all. */
  connections?: number;
}

/** Bytes on their way through `delay` at most, so that a slow reader holds the sender back. */
const IN_FLIGHT = 32 * 1024 * 1024;

export class FaultProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #to: { readonly host: string; readonly port: number };
  /** May be changed while it runs: counts for new connections, and for the next bytes of those that are open. */
  faults: Faults;
  /** Bytes that came from the server. */
  bytes = 0;
  accepted = 0;

  private constructor(to: { host: string; port: number }, faults: Faults) {
    this.#to = to;
    this.faults = faults;
    this.#server = createServer({ noDelay: true }, (client) => this.#serve(client));
  }

  static async start(to: { host?: string; port: number }, faults: Faults = {}, listen = 0): Promise<FaultProxy> {
    const proxy = new FaultProxy({ host: to.host ?? '127.0.0.1', port: to.port }, faults);
    proxy.#server.listen(listen, '127.0.0.1');
    await once(proxy.#server, 'listening');
    return proxy;
  }

  get port(): number {
    const address = this.#server.address();
    return address !== null && typeof address === 'object' ? address.port : 0;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
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
    server.on('close', () => client.destroySoon());
    client.on('error', () => server.destroy());
    server.on('error', () => client.destroy());
    late(client, server, () => this.faults.delay ?? 0);
    let passed = 0;
    late(
      server,
      client,
      () => this.faults.delay ?? 0,
      (chunk) => {
        const faults = faulty ? this.faults : {};
        const { cut, finish, stall, rate, corrupt } = faults;
        const before = this.bytes;
        this.bytes += chunk.length;
        let data = chunk;
        if (corrupt !== undefined && corrupt >= before && corrupt < this.bytes) {
          data = Buffer.from(chunk);
          const at = corrupt - before;
          data.writeUInt8(data.readUInt8(at) ^ 1, at);
        }
        const limit = Math.min(cut ?? Infinity, finish ?? Infinity, stall ?? Infinity);
        const room = limit - passed;
        passed += data.length;
        if (rate !== undefined) {
          server.pause();
          setTimeout(() => server.resume(), (data.length / rate) * 1000);
        }
        if (data.length < room) return data;
        server.pause();
        const last = data.subarray(0, room);
        if (limit === cut) client.write(last, () => client.resetAndDestroy());
        else if (limit === finish) client.end(last);
        else client.write(last);
        return undefined;
      },
    );
  }
}

/** Passes on what `from` sends, as `change` returns it; undefined = this was the end of it. */
function late(
  from: Socket,
  to: Socket,
  delay: () => number,
  change: (chunk: Buffer) => Buffer | undefined = (chunk) => chunk,
): void {
  let flying = 0;
  let over = false;
  const write = (data: Buffer): void => {
    if (to.destroyed || to.writableEnded) return;
    if (!to.write(data)) {
      from.pause();
      to.once('drain', () => from.resume());
    }
  };
  from.on('data', (chunk: Buffer) => {
    if (over) return;
    const data = change(chunk);
    if (data === undefined) {
      over = true;
      return;
    }
    const wait = delay();
    if (wait === 0 && flying === 0) {
      write(data);
      return;
    }
    // Timers of one length fire in their order.
    flying += data.length;
    if (flying > IN_FLIGHT) from.pause();
    setTimeout(() => {
      flying -= data.length;
      if (flying <= IN_FLIGHT) from.resume();
      write(data);
    }, wait);
  });
  from.on('end', () => {
    if (!over) setTimeout(() => to.end(), flying === 0 ? 0 : delay());
  });
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      listen: { type: 'string', default: '0' },
      to: { type: 'string' },
      cut: { type: 'string' },
      finish: { type: 'string' },
      stall: { type: 'string' },
      rate: { type: 'string' },
      delay: { type: 'string' },
      corrupt: { type: 'string' },
      connections: { type: 'string' },
    },
  });
  const to = /^(.+):(\d+)$/.exec(values.to ?? '');
  if (!to) {
    console.error(
      'usage: node test/faults/proxy.ts --listen PORT --to HOST:PORT [--cut SIZE] [--finish SIZE] [--stall SIZE] [--rate SIZE/s] [--delay MILLISECONDS] [--corrupt OFFSET] [--connections COUNT]',
    );
    process.exitCode = 2;
    return;
  }
  const faults: Faults = {};
  for (const name of ['cut', 'finish', 'stall', 'corrupt', 'delay', 'connections'] as const) {
    const text = values[name];
    if (text !== undefined) faults[name] = parseSize(text);
  }
  if (values.rate !== undefined) faults.rate = parseRate(values.rate);
  const proxy = await FaultProxy.start({ host: to[1] ?? '', port: Number(to[2]) }, faults, Number(values.listen));
  console.log(`${proxy.url} -> ${values.to}`);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main();
