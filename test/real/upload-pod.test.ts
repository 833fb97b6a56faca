// The upload pod, with the environment of CDI's upload server, over TLS with certificates of clients.
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { issue, authority as issuing, type Pair as Pair_ } from '../../src/pki/authority.ts';
import { settingsOf } from '../../src/uploader/pod/settings.ts';
import { loopDevice } from '../support/devices.ts';
import { bootableDisk, difference, KiB, MiB, qcow2, run, shell } from '../support/images.ts';
import { type Answer, curl } from '../support/served.ts';
import { site } from '../support/site.ts';
import { type Authority, authority, type Pair } from '../support/tls.ts';
import { type Pod, uploadPod } from '../support/upload-pod.ts';

const NAME = 'client.upload-server.cdi.kubevirt.io';
const SIZE = 24 * MiB;
/** Of the claim, and what is usable of it: floor(ceil(96 MiB / 1.06) / 1 MiB) MiB. */
const CLAIM = 96 * MiB;
const USABLE = 90 * MiB;
let issuer: Authority;
let server: Pair;
let client: Pair;
let stranger: Pair;
const at = site(async () => {
  await bootableDisk(at('www/raw'), SIZE);
  await qcow2(at('www/raw'), at('www/qcow2'), { compressed: true });
});
const root = (path: string): string => at(`root/${path}`);

beforeAll(async () => {
  issuer = await authority(at(''));
  server = await issuer.issue('server', ['localhost', '127.0.0.1']);
  client = await issuer.issue('client', [NAME]);
  stranger = await issuer.issue('stranger', ['somebody.else']);
});
beforeEach(async () => {
  await rm(root(''), { recursive: true, force: true });
  for (const place of ['data', 'dev']) await mkdir(root(place), { recursive: true });
});

const pod = (more: Record<string, string> = {}, ca = at('ca.pem')): Promise<Pod> =>
  uploadPod({ root: root(''), server, clients: at('ca.pem'), ca, client: NAME, claim: CLAIM }, more);

const as = (pair: Pair): string[] => ['--cacert', at('ca.pem'), '--cert', pair.certificate, '--key', pair.key];
const post = (url: string, file: string, ...more: string[]): Promise<Answer> =>
  curl([...as(client), '-X', 'POST', '-H', 'Content-Type: application/octet-stream', '-T', file, ...more, url]);

describe('an upload', () => {
  test.each([
    ['/v1beta1/upload', 'qcow2'],
    ['/v1alpha1/upload', 'raw'],
    ['/v1beta1/upload-async', 'qcow2'],
  ])('to %s ends the pod, the disk whole', async (path, image) => {
    await using running = await pod();
    if (path.endsWith('async')) {
      const head = await curl(['-I', '--cacert', at('ca.pem'), running.url + path]);
      expect(head.status).toBe(200);
    }
    const answer = await post(running.url + path, at(`www/${image}`));
    expect(answer.status, answer.body).toBe(200);
    const { exit, message, log } = await running.ended;
    expect(exit, log).toBe(0);
    const sent = (await stat(at(`www/${image}`))).size;
    expect(log).toMatch(new RegExp(`^\\S+ POST ${path} status=200 seconds=[\\d.]+ read=${sent} rate=\\d+$`, 'm'));
    expect(log).not.toContain('/healthz');
    expect(JSON.parse(message ?? '')).toEqual({ preallocationApplied: false, message: 'Upload Complete' });
    const found = await stat(root('data/disk.img'));
    expect([found.size, found.mode & 0o777]).toEqual([USABLE, 0o660]);
    expect(await difference(at('www/raw'), root('data/disk.img'), SIZE)).toBeUndefined();
    expect(await readdir(root('data'))).toEqual(['disk.img']);
  });

  test('as a form, async too', async () => {
    for (const path of ['/v1beta1/upload-form', '/v1beta1/upload-form-async']) {
      await rm(root('dev/termination-log'), { force: true });
      await using running = await pod();
      const wrong = await curl([...as(client), '-F', `other=@${at('www/qcow2')}`, running.url + path]);
      expect([wrong.status, wrong.body]).toEqual([400, expect.stringContaining("no part named 'file'")]);
      const answer = await curl([...as(client), '-F', `file=@${at('www/qcow2')}`, running.url + path]);
      expect(answer.status, answer.body).toBe(200);
      expect((await running.ended).exit).toBe(0);
      expect(await difference(at('www/raw'), root('data/disk.img'), SIZE)).toBeUndefined();
    }
  });

  test('onto a device', async () => {
    await using device = await loopDevice(at('device'), SIZE + MiB);
    await run('ln', 'coreutils', ['-s', device.path, root('dev/cdi-block-volume')]);
    await using running = await pod({ DESTINATION: '/dev/cdi-block-volume' });
    const answer = await post(`${running.url}/v1beta1/upload`, at('www/qcow2'));
    expect(answer.status, answer.body).toBe(200);
    expect((await running.ended).exit).toBe(0);
    expect(await difference(at('www/raw'), device.path, SIZE)).toBeUndefined();
  });

  test('of an archive is unpacked', async () => {
    await shell(
      `mkdir -p ${at('tree/sub')} && echo content > ${at('tree/sub/file')} && tar -C ${at('tree')} -czf ${at('tree.tar.gz')} .`,
    );
    await using running = await pod();
    const answer = await post(`${running.url}/v1beta1/upload-archive`, at('tree.tar.gz'));
    expect(answer.status, answer.body).toBe(200);
    expect((await running.ended).exit).toBe(0);
    expect(await readFile(root('data/sub/file'), 'utf8')).toBe('content\n');
  });

  test('that fails is told in the words of the contract, and the next one is taken', async () => {
    await using running = await pod({ UPLOAD_IMAGE_SIZE: '16Mi' });
    const url = `${running.url}/v1beta1/upload`;
    const large = await post(url, at('www/qcow2'));
    expect([large.status, large.body]).toEqual([
      400,
      expect.stringMatching(
        /^Saving stream failed: effective image size is larger than the reported available storage: /,
      ),
    ]);
    const bytes = await readFile(at('www/qcow2'));
    await writeFile(at('short'), bytes.subarray(0, 100 * KiB));
    await bootableDisk(at('small'), 16 * MiB).catch(() => undefined);
    await shell(`head -c 8M /dev/urandom > ${at('small')}`);
    const digest = await post(url, at('small'), '-H', `Repr-Digest: sha-256=:${Buffer.alloc(32).toString('base64')}:`);
    expect([digest.status, digest.body]).toEqual([400, expect.stringContaining('was demanded')]);
    expect((await post(url, at('small'))).status).toBe(200);
    const { exit, log } = await running.ended;
    expect(exit, log).toBe(0);
    for (const code of ['TOO_LARGE', 'DIGEST_MISMATCH']) {
      expect(log).toMatch(new RegExp(`^\\S+ nothing came into the volume: .* code=${code}$`, 'm'));
      const lines = [...log.matchAll(/^\S+ POST \S+ status=400 .* outcome=(\w+)$/gm)].filter(
        ([, found]) => found === code,
      );
      expect(lines.length, log).toBe(1);
    }
    expect(await difference(at('small'), root('data/disk.img'), 8 * MiB)).toBeUndefined();
  });
});

test('only the client that the certificate names, one upload at a time, and no other path', async () => {
  await using running = await pod();
  const url = `${running.url}/v1beta1/upload`;
  const none = await curl([
    '--cacert',
    at('ca.pem'),
    '-X',
    'POST',
    '-T',
    at('www/raw'),
    '-H',
    'Expect: 100-continue',
    url,
  ]);
  expect([none.status, none.sent]).toEqual([401, 0]);
  const other = await curl([...as(stranger), '-X', 'POST', '-T', at('www/qcow2'), url]);
  expect(other.status).toBe(401);
  for (const [path, method] of [
    ['/v1beta1/upload', 'PUT'],
    ['/v1beta1/upload', 'HEAD'],
    ['/', 'POST'],
    ['/v2/upload', 'POST'],
  ] as const) {
    const { status } = await curl([
      ...as(client),
      ...(method === 'HEAD' ? ['-I'] : ['-X', method]),
      running.url + path,
    ]);
    expect([path, method, status]).toEqual([path, method, 404]);
  }
  const slow = post(url, at('www/raw'), '--limit-rate', '12M');
  await sleep(1000);
  expect((await post(url, at('www/qcow2'))).status).toBe(503);
  expect((await slow).status).toBe(200);
  const { exit, log } = await running.ended;
  expect(exit, log).toBe(0);
  const refused = [...log.matchAll(/ status=(\d+) .* outcome=(\w+)$/gm)].map(([, status, code]) => `${status} ${code}`);
  const unknown = Array.from({ length: 4 }, () => '404 NOT_FOUND');
  expect(refused).toEqual(['401 DENIED', '401 DENIED', ...unknown, '503 BUSY']);
}, 30_000);

test('certificates are taken up when their files change, those of both authorities while they overlap', async () => {
  const [first, second] = [await issuing('first', 60_000_000), await issuing('second', 60_000_000)];
  const put = async (from: Pair_, bundle: readonly string[]): Promise<void> => {
    const leaf = await issue(from, {
      commonName: 'localhost',
      names: ['localhost', '127.0.0.1'],
      use: 'server',
      duration: 6e7,
    });
    await Promise.all([
      writeFile(at('tls.key'), leaf.key),
      writeFile(at('tls.crt'), leaf.certificate),
      writeFile(at('bundle.crt'), bundle.join('\n')),
    ]);
  };
  const clientOf = async (from: Pair_, name: string): Promise<string[]> => {
    const leaf = await issue(from, { commonName: NAME, use: 'client', duration: 6e7 });
    await writeFile(at(`${name}.crt`), leaf.certificate);
    await writeFile(at(`${name}.key`), leaf.key);
    return ['--cert', at(`${name}.crt`), '--key', at(`${name}.key`), '-H', 'Expect:'];
  };
  await put(first, [first.certificate]);
  await writeFile(at('first.pem'), first.certificate);
  await writeFile(at('second.pem'), second.certificate);
  await using running = await pod(
    { TLS_KEY_FILE: at('tls.key'), TLS_CERT_FILE: at('tls.crt'), CLIENT_CERT_FILE: at('bundle.crt') },
    at('first.pem'),
  );
  const [old, fresh] = [await clientOf(first, 'old'), await clientOf(second, 'fresh')];
  // What is never taken shows who may ask, and leaves the pod free.
  const asked = async (ca: string, pair: readonly string[]): Promise<number> =>
    (
      await curl([
        '--cacert',
        at(ca),
        ...pair,
        '-X',
        'POST',
        '-H',
        'x-cdi-content-type: blockdevice-clone',
        '-d',
        '',
        `${running.url}/v1beta1/upload-async`,
      ])
    ).status;
  expect([await asked('first.pem', old), await asked('first.pem', fresh)]).toEqual([500, 401]);
  await put(second, [second.certificate, first.certificate]);
  for (let tries = 0; tries < 60 && (await asked('second.pem', fresh)) !== 500; tries += 1) await sleep(250);
  expect([await asked('second.pem', fresh), await asked('second.pem', old)]).toEqual([500, 500]);
}, 60_000);

test('a deadline ends it; a stop is no success; a wrong environment is named', async () => {
  await using late = await pod({ DEADLINE: new Date(Date.now() + 2000).toISOString() });
  const passed = await late.ended;
  expect([passed.exit, JSON.parse(passed.message ?? '')]).toEqual([
    0,
    { deadlinePassed: true, message: 'Deadline Passed' },
  ]);
  await rm(root('dev/termination-log'));
  const wrong = await pod({ UPLOAD_IMAGE_SIZE: 'much' });
  expect(await wrong.ended).toMatchObject({ exit: 1, message: "UPLOAD_IMAGE_SIZE 'much' is no size of a volume" });
  for (const env of [
    { LISTEN_PORT: 'x' },
    { FILESYSTEM_OVERHEAD: '2' },
    { DEADLINE: 'soon' },
    { TLS_MIN_VERSION: 'SSL' },
    { PREALLOCATION: 'maybe' },
    { TLS_KEY_FILE: 'k' },
  ]) {
    expect(() => settingsOf({ UPLOAD_IMAGE_SIZE: '1Gi', ...env }, '/')).toThrow(Object.keys(env)[0]);
  }
  // All that CDI's schema allows.
  expect(settingsOf({ UPLOAD_IMAGE_SIZE: '1Gi', FILESYSTEM_OVERHEAD: '1' }, '/').claim?.overhead).toBe(1);
});

test('a sender who goes leaves nothing that looks like a disk', async () => {
  await using running = await pod({ TLS_KEY_FILE: '', TLS_CERT_FILE: '', CLIENT_CERT_FILE: '' });
  const port = Number(new URL(running.url).port);
  const socket = connect(port, '127.0.0.1');
  socket.write(`POST /v1beta1/upload HTTP/1.1\r\nHost: x\r\nContent-Length: ${SIZE}\r\n\r\n`);
  socket.write((await readFile(at('www/raw'))).subarray(0, 4 * MiB));
  await sleep(500);
  socket.destroy();
  await sleep(500);
  const head = Buffer.alloc(512);
  const { open } = await import('node:fs/promises');
  await using file = await open(join(root('data'), 'disk.img'));
  await file.read(head, 0, 512, 0);
  expect(head.readUInt16LE(510)).not.toBe(0xaa55);
});

test.each<[string, string, string, () => string | Promise<Buffer>]>([
  ['in the head of a form', '/v1beta1/upload-form', 'multipart/form-data; boundary=x', () => '--x\r\nContent-Disp'],
  [
    'in the file of a form',
    '/v1beta1/upload-form',
    'multipart/form-data; boundary=x',
    () => `--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n${'x'.repeat(200_000)}`,
  ],
  ['in an archive', '/v1beta1/upload-archive', 'application/x-tar', () => readFile(at('www/some.tar'))],
])('a sender who goes %s leaves the volume to the next', async (_where, path, type, begin) => {
  await shell(`cd ${at('www')} && tar -cf some.tar raw && truncate -s 3M some.tar`);
  await using running = await pod({ TLS_KEY_FILE: '', TLS_CERT_FILE: '', CLIENT_CERT_FILE: '' });
  const socket = connect(Number(new URL(running.url).port), '127.0.0.1');
  socket.write(`POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: ${type}\r\nContent-Length: ${SIZE}\r\n\r\n`);
  socket.write(await begin());
  await sleep(500);
  expect((await post(`${running.url}/v1beta1/upload`, at('www/qcow2'))).status).toBe(503);
  socket.destroy();
  await sleep(1000);
  expect((await post(`${running.url}/v1beta1/upload`, at('www/qcow2'))).status).toBe(200);
  expect((await running.ended).exit).toBe(0);
});
