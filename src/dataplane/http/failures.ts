import { connect, type PeerCertificate } from 'node:tls';
import { type Code, FerryError } from '../errors.ts';
import type { Guard } from '../guard.ts';
import { type Certificate, describe } from './connection.ts';
import { type Answer, field } from './exchange.ts';
import { parseRetryAfter } from './fields.ts';

/** An URL as messages may show it: no userinfo, no query, no fragment. */
export function shown(url: URL): string {
  return url.origin + url.pathname;
}

function failure(message: string, code: Code, retryable = false, cause?: unknown): FerryError {
  return new FerryError(message, { code, stage: 'source', retryable, ...(cause === undefined ? {} : { cause }) });
}

/**
 * What an answer that is not 2xx means. `credentials` names the kinds that were sent, never a value; `reason` is what
 * the server said.
 */
export function statusFailure(
  url: URL,
  answer: Pick<Answer, 'status' | 'fields'>,
  credentials: string,
  reason?: string,
): FerryError {
  const { status } = answer;
  const said = `${shown(url)} answered ${status}${reason === undefined ? '' : ` (${reason})`}`;
  if (status === 401 || status === 403) return failure(`${said}: access denied; sent were ${credentials}`, 'DENIED');
  if (status === 404 || status === 410) return failure(`${said}: there is no such object`, 'NOT_FOUND');
  if (status === 407) return failure(`${said}: the proxy wants a user name and password in its URL`, 'DENIED');
  if (status === 412) return failure(`${shown(url)} was replaced since it was opened (answer 412)`, 'CHANGED');
  if (status === 429 || status === 503) {
    const text = field(answer.fields, 'retry-after');
    const retryAfter = text === undefined ? undefined : parseRetryAfter(text, Date.now());
    const asked = retryAfter === undefined ? '' : ` and asks to wait ${Math.ceil(retryAfter)} s`;
    return new FerryError(`${said}: the server is busy${asked}`, {
      code: 'IO',
      stage: 'source',
      retryable: true,
      ...(retryAfter === undefined ? {} : { retryAfter }),
    });
  }
  // 501 and 505 say that the request itself is beyond the server; the other 5xx and 408, 425 pass (RFC 9110 section 15).
  if ((status >= 500 && status !== 501 && status !== 505) || status === 408 || status === 425) {
    return failure(`${said}: the server failed`, 'IO', true);
  }
  return failure(`${said}, which says nothing that can be imported`, 'UNSUPPORTED');
}

interface Coded extends Error {
  readonly code?: string;
}

/** What an error below HTTP means, in a sentence; `peer` = the certificate that was shown, where one was refused. */
export function transportFailure(url: URL, thrown: unknown, proxy: string | undefined, peer?: Certificate): FerryError {
  if (thrown instanceof FerryError) return thrown;
  const error = innermost(thrown);
  const code = error.code ?? '';
  const via = proxy === undefined ? '' : ` (through the proxy ${proxy})`;
  const host = `${url.host}${via}`;

  const refusal = /Proxy response \((\d+)\)|Proxy Authentication Required \((407)\)/.exec(error.message);
  if (refusal) return proxyFailure(proxy ?? 'unknown', url, Number(refusal[1] ?? refusal[2]), thrown);

  const tls = tlsFailure(url, code, error, peer);
  if (tls) return failure(tls, 'DENIED', false, thrown);

  switch (code) {
    case 'ENOTFOUND':
      return failure(`the host ${host} is unknown to the name server`, 'NOT_FOUND', false, thrown);
    case 'EAI_AGAIN':
      return failure(`the name server gave no answer for ${host}`, 'IO', true, thrown);
    case 'ECONNREFUSED':
      return failure(`${host} refuses connections: is the server running, is the port right?`, 'IO', true, thrown);
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
      return failure(`there is no route to ${host}`, 'IO', true, thrown);
    case 'ETIMEDOUT':
    case 'UND_ERR_CONNECT_TIMEOUT':
      return failure(`${host} did not take the connection in time`, 'IO', true, thrown);
    case 'UND_ERR_HEADERS_TIMEOUT':
      return failure(`${host} took the request and did not answer in time`, 'STALLED', true, thrown);
    case 'ECONNRESET':
    case 'EPIPE':
    case 'UND_ERR_SOCKET':
      return failure(`the connection to ${host} was cut`, 'IO', true, thrown);
    case 'UND_ERR_INVALID_ARG':
    case 'UND_ERR_NOT_SUPPORTED':
      return failure(`the request to ${host} cannot be sent: ${error.message}`, 'BAD_SPEC', false, thrown);
    case 'UND_ERR_HEADERS_OVERFLOW':
      return failure(`${host} answered with more than 16 KiB of header fields`, 'UNSUPPORTED', false, thrown);
    default:
      if (code.startsWith('HPE_')) {
        return failure(`${host} answered with something that is not HTTP/1.1 (${code})`, 'IO', true, thrown);
      }
      if (code.startsWith('ERR_SSL_') || code === 'EPROTO') {
        return failure(`no TLS with ${host}: ${code}; does it speak https on this port?`, 'IO', false, thrown);
      }
      return failure(`the connection to ${host} failed: ${error.message}`, 'IO', true, thrown);
  }
}

function proxyFailure(proxy: string, url: URL, status: number, cause: unknown): FerryError {
  if (status === 407) {
    return failure(
      `the proxy ${proxy} answered 407: it wants a user name and password in its URL`,
      'DENIED',
      false,
      cause,
    );
  }
  if (status >= 500) {
    return failure(`the proxy ${proxy} answered ${status}: it cannot reach ${url.host}`, 'IO', true, cause);
  }
  return failure(`the proxy ${proxy} answered ${status}: it does not let us reach ${url.host}`, 'DENIED', false, cause);
}

function tlsFailure(url: URL, code: string, error: Coded, peer: Certificate | undefined): string | undefined {
  const shows = peer
    ? `the certificate of ${url.host} (subject ${peer.subject}, issuer ${peer.issuer}, valid to ${peer.validTo})`
    : `the certificate of ${url.host}`;
  switch (code) {
    case 'UNABLE_TO_VERIFY_LEAF_SIGNATURE':
    case 'UNABLE_TO_GET_ISSUER_CERT':
    case 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY':
    case 'SELF_SIGNED_CERT_IN_CHAIN':
    case 'DEPTH_ZERO_SELF_SIGNED_CERT':
    case 'CERT_UNTRUSTED':
      return `${shows} is not trusted: give the authority that issued it with --ca`;
    case 'CERT_HAS_EXPIRED':
      return `${shows} has expired`;
    case 'CERT_NOT_YET_VALID':
      return `${shows} is not valid yet: is this machine's clock right?`;
    case 'ERR_TLS_CERT_ALTNAME_INVALID':
      return `${shows} is for another host: ${(error as Coded & { reason?: string }).reason ?? error.message}`;
    case 'CERT_REVOKED':
      return `${shows} was revoked`;
    default:
      return code.startsWith('CERT_') ? `${shows} is refused: ${code}` : undefined;
  }
}

/** Whether an error says that a certificate was refused, so that it is worth a look at it. */
export function concernsCertificate(thrown: unknown, url: URL): boolean {
  const error = innermost(thrown);
  return url.protocol === 'https:' && tlsFailure(url, error.code ?? '', error, undefined) !== undefined;
}

/**
 * The certificate that a host shows, without trusting it: a handshake for the error message, over which nothing is
 * sent. Undefined when there is none within 3 s.
 */
export function showCertificate(url: URL, guard?: Guard): Promise<Certificate | undefined> {
  return new Promise((resolve) => {
    const host = url.hostname.replace(/^\[|\]$/g, '');
    const socket = connect({
      host,
      port: Number(url.port || 443),
      servername: isName(host) ? host : '',
      rejectUnauthorized: false,
      ...(guard === undefined ? {} : { lookup: guard.lookup }),
    });
    const done = (certificate?: PeerCertificate): void => {
      socket.destroy();
      resolve(certificate?.subject ? describe(certificate) : undefined);
    };
    socket.setTimeout(3000, () => done());
    socket.once('error', () => done());
    socket.once('secureConnect', () => done(socket.getPeerCertificate()));
  });
}

function isName(host: string): boolean {
  return !/^[\d.]+$|:/.test(host);
}

function innermost(thrown: unknown): Coded {
  let error = thrown instanceof Error ? (thrown as Coded) : (new Error(String(thrown)) as Coded);
  // undici wraps proxy and TLS errors; the innermost one that has a code of the system is the reason.
  while (error.cause instanceof Error && ((error.cause as Coded).code !== undefined || error.code === undefined)) {
    error = error.cause as Coded;
  }
  return error;
}
