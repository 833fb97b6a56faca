import { connect as connectSocket, isIP } from 'node:net';
import { connect as connectTls, type SecureContext } from 'node:tls';
import { FerryError } from '../errors.ts';
import type { Guard } from '../guard.ts';
import { transportFailure } from '../http/failures.ts';
import { Connection } from './connection.ts';
import { Handshake } from './handshake.ts';
import { stopped } from './pool.ts';
import { Wire } from './wire.ts';

/** Milliseconds for connecting, TLS and the negotiation together. */
const PATIENCE = 15_000;

export interface Place {
  /** As messages name it: no userinfo, no query. */
  readonly name: string;
  /** Host and port, or the path of a socket. */
  readonly at: { readonly host: string; readonly port: number } | { readonly path: string };
  readonly exportName: string;
  /** Dirty bitmap that is asked for in place of the allocation. */
  readonly bitmap?: string;
  /** Whom to trust; absent = without TLS. */
  readonly trust?: SecureContext;
}

/** A connection, and the milliseconds from its beginning to the server's first word. */
export async function connect(
  place: Place,
  stop: AbortSignal,
  guard?: Guard,
): Promise<{ connection: Connection; latency: number }> {
  if (stop.aborted) throw stopped();
  const { at, trust } = place;
  if ('host' in at) guard?.admitHost(at.host);
  const lookup = guard === undefined ? {} : { lookup: guard.lookup };
  const explain = (error: Error | undefined): FerryError => explained(place, error);
  const began = performance.now();
  const socket = connectSocket('path' in at ? at : { ...at, ...lookup, noDelay: true });
  let wire = new Wire(socket, explain);
  const late = new FerryError(`${place.name} did not answer within ${PATIENCE / 1000} s`, {
    code: 'STALLED',
    stage: 'source',
    retryable: true,
  });
  const timer = setTimeout(() => wire.fail(late), PATIENCE);
  const abort = (): void => wire.fail(stopped());
  stop.addEventListener('abort', abort, { once: true });
  try {
    let handshake = new Handshake(wire);
    await handshake.greet();
    const latency = performance.now() - began;
    if (trust) {
      await handshake.startTls();
      const host = 'host' in at ? at.host : 'localhost';
      // A name is sent to the server, an address is not (RFC 6066, section 3); either is compared with its certificate.
      const name = isIP(host) ? {} : { servername: host };
      wire = new Wire(connectTls({ socket: wire.release(), host, ...name, secureContext: trust }), explain);
      handshake = new Handshake(wire);
    }
    return { connection: new Connection(wire, await handshake.enter(place.exportName, place.bitmap)), latency };
  } catch (error) {
    wire.fail(stopped());
    throw error;
  } finally {
    clearTimeout(timer);
    stop.removeEventListener('abort', abort);
  }
}

function explained({ name, at }: Place, error: Error | undefined): FerryError {
  if (!error) {
    return new FerryError(`${name}: the server closed the connection`, {
      code: 'IO',
      stage: 'source',
      retryable: true,
    });
  }
  if ('host' in at) return transportFailure(new URL(name), error, undefined);
  const code = (error as NodeJS.ErrnoException).code;
  return new FerryError(`the socket ${at.path} cannot be used: ${error.message}`, {
    code: code === 'ENOENT' ? 'NOT_FOUND' : code === 'EACCES' ? 'DENIED' : 'IO',
    stage: 'source',
    retryable: code !== 'ENOENT' && code !== 'EACCES',
    cause: error,
  });
}
