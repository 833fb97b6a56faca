// The server by itself: what it answers to whoever is no API server, and what it holds of whoever sends too much.
import { once } from 'node:events';
import { connect, type TLSSocket } from 'node:tls';
import { Agent, request } from 'undici';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { invalid } from '../../src/apiserver/admission/cause.ts';
import { type AdmissionRequest, ReviewError, type Verdict } from '../../src/apiserver/review.ts';
import { routesOf } from '../../src/apiserver/routes.ts';
import { WebhookServer } from '../../src/apiserver/server.ts';
import type { Sight } from '../../src/apiserver/sight.ts';
import { authority, issue, type Pair } from '../../src/pki/authority.ts';
import { tlsRules } from '../../src/profile/tls-profile.ts';

const MIB = 2 ** 20;
let server: WebhookServer;
let [first, second]: Pair[] = [];
let ca: string[];
let agent: Agent;
let isReady = true;
let judge: (request: AdmissionRequest, signal: AbortSignal) => Promise<Verdict>;
const log: string[] = [];

beforeAll(async () => {
  const [one, other] = [await authority('one', 3_600_000), await authority('other', 3_600_000)];
  const wanted = { commonName: 'a', names: ['127.0.0.1'], use: 'server', duration: 3_600_000 } as const;
  [first, second] = [await issue(one, wanted), await issue(other, wanted)];
  ca = [one.certificate, other.certificate];
  agent = new Agent({ connect: { ca } });
  const routes = new Map([['/judge', (asked: AdmissionRequest, signal: AbortSignal) => judge(asked, signal)]]);
  const options = { host: '127.0.0.1', port: 0, routes, isReady: () => isReady };
  server = await WebhookServer.start(
    { ...options, log: (_, message) => log.push(message) },
    first as Pair,
    tlsRules(undefined),
  );
});
afterAll(async () => {
  await agent?.destroy();
  await server?.[Symbol.asyncDispose]();
});
afterEach(() => {
  isReady = true;
});

const asked = (more: object = {}): object => ({
  apiVersion: 'admission.k8s.io/v1',
  kind: 'AdmissionReview',
  request: { uid: 'a-uid', operation: 'CREATE', resource: { resource: 'a' }, object: {}, oldObject: null, ...more },
});
async function to(path: string, body?: string | object, method = body === undefined ? 'GET' : 'POST') {
  const answer = await request(`https://127.0.0.1:${server.port}${path}`, {
    dispatcher: agent,
    method: method as 'GET',
    headers: { 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  return { status: answer.statusCode, headers: answer.headers, text: await answer.body.text() };
}
const review = async (path: string, body: object) => JSON.parse((await to(path, body)).text).response;

describe('an answer', () => {
  test('is of the request that was asked', async () => {
    judge = async () => ({ causes: [] });
    expect(await review('/judge', asked())).toEqual({ uid: 'a-uid', allowed: true });
  });

  test('tells every cause, and both warnings and refusals', async () => {
    judge = async () => ({ causes: [invalid('spec.a', 'one'), invalid('spec.b', 'two')], warnings: ['three'] });
    expect(await review('/judge?timeout=10s', asked())).toEqual({
      uid: 'a-uid',
      allowed: false,
      warnings: ['three'],
      status: {
        status: 'Failure',
        code: 422,
        reason: 'Invalid',
        message: 'one; two',
        details: {
          causes: [
            { reason: 'FieldValueInvalid', field: 'spec.a', message: 'one' },
            { reason: 'FieldValueInvalid', field: 'spec.b', message: 'two' },
          ],
        },
      },
    });
  });

  test('does not tell hundreds of causes', async () => {
    judge = async () => ({ causes: Array.from({ length: 500 }, (_, n) => invalid('spec.a', `cause ${n}`)) });
    const { status } = await review('/judge', asked());
    expect(status.message).toMatch(/cause 9; and 490 more$/);
    expect(status.details.causes).toHaveLength(10);
  });

  test('has a patch only of what is let through', async () => {
    judge = async () => ({ causes: [], patch: [{ op: 'add', path: '/spec/a', value: 1 }] });
    const { patchType, patch } = await review('/judge', asked());
    expect([patchType, Buffer.from(patch, 'base64').toString()]).toEqual([
      'JSONPatch',
      '[{"op":"add","path":"/spec/a","value":1}]',
    ]);
    judge = async () => ({ causes: [invalid('a', 'b')], patch: [{ op: 'remove', path: '/spec/a' }] });
    expect(await review('/judge', asked())).not.toHaveProperty('patch');
  });

  test('of what could not be looked at lets nothing through', async () => {
    judge = async () => {
      throw new Error('the cluster is on fire');
    };
    const { allowed, status } = await review('/judge', asked());
    expect([allowed, status.code, status.message]).toEqual([
      false,
      500,
      'it could not be looked at whether this is right: the cluster is on fire; try again',
    ]);
    expect(log.at(-1)).toBe('could not judge: the cluster is on fire');
  });
});

describe('whoever is no API server', () => {
  test.each([
    ['no path of ours', '/nothing', asked(), 404, 'no such path'],
    ['another method', '/judge', undefined, 405, 'reviews are posted'],
    ['no JSON', '/judge', '{', 400, 'the body is no JSON'],
    ['no object', '/judge', 'null', 400, 'the body is no AdmissionReview'],
    ['another version', '/judge', { ...asked(), apiVersion: 'admission.k8s.io/v1beta1' }, 400, 'name v1 in'],
    ['another kind', '/judge', { ...asked(), kind: 'Pod' }, 400, 'the body is no AdmissionReview'],
    ['no request', '/judge', { ...asked(), request: null }, 400, 'has no request'],
    ['no uid', '/judge', asked({ uid: 1 }), 400, 'has no request'],
    ['a connection', '/judge', asked({ operation: 'CONNECT' }), 400, 'has no request'],
    ['nothing that is created', '/judge', asked({ object: null }), 400, 'the request has no object'],
    ['nothing that was', '/judge', asked({ operation: 'UPDATE' }), 400, 'the request has no oldObject'],
  ] as const)('is told: %s', async (_, path, body, status, words) => {
    const answer = await to(path, body);
    expect([answer.status, answer.text]).toEqual([status, expect.stringContaining(words)]);
  });

  test('is asked about what a path is about', async () => {
    const judges = routesOf({} as Sight);
    const resource = { group: '', version: 'v1', resource: 'pods' };
    const wrong = { uid: 'a', operation: 'CREATE', resource, object: {}, oldObject: null } as const;
    for (const found of judges.values()) {
      const failure = await found(wrong, AbortSignal.timeout(1000)).catch((error: unknown) => error);
      expect(failure).toBeInstanceOf(ReviewError);
    }
    expect(judges.size).toBe(6);
  });

  test('may ask how it goes', async () => {
    expect((await to('/healthz')).status).toBe(200);
    expect((await to('/readyz')).status).toBe(200);
    isReady = false;
    expect((await to('/readyz')).status).toBe(503);
    expect((await to('/healthz')).status).toBe(200);
  });
});

describe('a body', () => {
  const sized = (bytes: number): object => asked({ object: { a: 'b'.repeat(bytes) } });

  test('holds two large objects, and no more', { timeout: 60_000 }, async () => {
    judge = async () => ({ causes: [] });
    expect((await to('/judge', sized(6 * MIB))).status).toBe(200);
    // What is refused may have gone before it was sent.
    const refused = await to('/judge', sized(8 * MIB)).catch((error: Error) => ({ status: 0, text: error.message }));
    expect([413, 0]).toContain(refused.status);
    expect((await to('/judge', asked())).status).toBe(200);
  });

  async function sender(head: string): Promise<TLSSocket> {
    const socket = connect({ host: '127.0.0.1', port: server.port, ca });
    await once(socket, 'secureConnect');
    socket.write(`POST /judge HTTP/1.1\r\nhost: a\r\n${head}\r\n\r\n`);
    return socket;
  }
  async function statusOf(socket: TLSSocket): Promise<string> {
    const [chunk] = (await once(socket, 'data')) as [Buffer];
    return chunk.toString().split('\r\n', 1)[0] ?? '';
  }

  test('that says how long it is, is refused before it comes', async () => {
    for (const length of [8 * MIB, 99_999_999_999]) {
      const socket = await sender(`content-length: ${length}`);
      expect(await statusOf(socket)).toContain('413');
      socket.destroy();
    }
  });

  test('that does not say it is cut off', async () => {
    const socket = await sender('transfer-encoding: chunked');
    socket.on('error', () => undefined);
    const chunk = 'a'.repeat(MIB);
    const answered = statusOf(socket);
    for (let n = 0; n < 9 && socket.writable; n += 1) socket.write(`${MIB.toString(16)}\r\n${chunk}\r\n`);
    expect(await answered).toContain('413');
    socket.destroy();
  });

  test('waits its turn where many are being sent, and those that are sent are answered', async () => {
    judge = async () => ({ causes: [] });
    const whole = JSON.stringify(sized(6 * MIB));
    const slow = await Promise.all(
      Array.from({ length: 4 }, () => sender(`content-length: ${Buffer.byteLength(whole)}`)),
    );
    await expect
      .poll(async () => (await to('/judge', JSON.stringify(sized(5 * MIB)))).status, { timeout: 5000 })
      .toBe(429);
    const { status, headers } = await to('/judge', JSON.stringify(sized(5 * MIB)));
    expect([status, headers['retry-after']]).toEqual([429, '1']);
    // Small ones, which most are, go on.
    expect((await to('/judge', asked())).status).toBe(200);
    for (const socket of slow) socket.write(whole);
    for (const socket of slow) expect(await statusOf(socket)).toContain('200');
    for (const socket of slow) socket.destroy();
    expect((await to('/judge', sized(5 * MIB))).status).toBe(200);
  });

  test('of whoever goes away is forgotten', async () => {
    judge = async () => ({ causes: [] });
    const gone = await Promise.all(Array.from({ length: 4 }, () => sender(`content-length: ${7 * MIB}`)));
    await expect.poll(async () => (await to('/judge', asked())).status).toBe(429);
    for (const socket of gone) socket.destroy();
    await expect.poll(async () => (await to('/judge', sized(6 * MIB))).status).toBe(200);
  });
});

test('who does not wait any more is not looked for', async () => {
  const aborted = Promise.withResolvers<void>();
  judge = (_, signal) =>
    new Promise((_resolve, reject) => {
      signal.addEventListener('abort', () => {
        aborted.resolve();
        reject(signal.reason);
      });
    });
  const impatient = new Agent({ connect: { ca } });
  const asking = request(`https://127.0.0.1:${server.port}/judge`, {
    dispatcher: impatient,
    method: 'POST',
    body: JSON.stringify(asked()),
  }).catch(() => undefined);
  await new Promise((resolve) => setTimeout(resolve, 200));
  await impatient.destroy();
  await aborted.promise;
  await asking;
});

describe('a certificate', () => {
  async function shown(options: object = {}): Promise<TLSSocket> {
    const socket = connect({ host: '127.0.0.1', port: server.port, ca, ...options });
    await once(socket, 'secureConnect');
    return socket;
  }
  const nameOf = (socket: TLSSocket): string => socket.getPeerCertificate().issuer.CN as string;

  test('is another one for whoever comes, and connections that are there go on', async () => {
    const old = await shown();
    expect(nameOf(old)).toBe('one');
    server.show(second as Pair);
    const young = await shown();
    expect(nameOf(young)).toBe('other');
    old.write('GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n');
    const [chunk] = (await once(old, 'data')) as [Buffer];
    expect(chunk.toString()).toContain('200 OK');
    for (const socket of [old, young]) socket.destroy();
    server.show(first as Pair);
  });

  test('is shown in TLS 1.2 and later', async () => {
    const socket = await shown({ maxVersion: 'TLSv1.2' });
    expect(socket.getProtocol()).toBe('TLSv1.2');
    socket.destroy();
    const older = { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'ALL:@SECLEVEL=0' };
    await expect(shown(older)).rejects.toThrow();
  });
});
