// The upload proxy before real upload pods, with the claims of a real API server and certificates of our own authorities.
import { type ChildProcess, spawn } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { request as ask } from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { authority } from '../../src/pki/authority.ts';
import { sign } from '../../src/pki/token.ts';
import { withHosts } from '../support/hosts.ts';
import { bootableDisk, difference, MiB, qcow2, shell } from '../support/images.ts';
import { freePort } from '../support/nginx.ts';
import { type Answer, curl } from '../support/served.ts';
import { site } from '../support/site.ts';
import { CLIENT, HOUR, hostOf, PVC, READY, UploadCluster, WAITING } from '../support/upload-cluster.ts';

const program = (part: string): string =>
  fileURLToPath(new URL(`../../dist/uploader/${part}/main.js`, import.meta.url));
const SIZE = 24 * MiB;
const CLAIM = 96 * MiB;
/** Of the pods: nobody else listens there, whatever else is tested at the same time. */
const ADDRESS = `127.${1 + (process.pid % 200)}.${1 + ((process.pid >> 8) % 200)}.7`;
/** Claims whose pods have a service. */
const NAMES = ['disk', 'prime-1', 'nobody'];

let cluster: UploadCluster;
let proxy: Proxy;
const at = site(async () => {
  await bootableDisk(at('raw'), SIZE);
  await qcow2(at('raw'), at('qcow2'), { compressed: true });
  await shell(`cd ${at('')} && mkdir files && echo one > files/a && tar -C files -cf files.tar a`);
});
beforeAll(async () => {
  cluster = await UploadCluster.start();
  proxy = await startProxy();
}, 120_000);
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await cluster?.[Symbol.asyncDispose]();
});

interface Proxy extends AsyncDisposable {
  readonly url: string;
  readonly child: ChildProcess;
  readonly ended: Promise<number | null>;
  said(): string;
}

async function startProxy(more: Record<string, string> = {}): Promise<Proxy> {
  const port = await freePort();
  const given = await cluster.furnish(at(''));
  // The service account is where pods have it, below the root of the test.
  const account = '/var/run/secrets/kubernetes.io/serviceaccount';
  await shell(`mkdir -p ${at(`root${account}`)} && cp ${at('account')}/* ${at(`root${account}`)}`);
  const env = {
    PATH: process.env.PATH ?? '',
    DISKFERRY_ROOT: at('root'),
    ...given,
    SERVER_CERT_FILE: at('proxy.crt'),
    SERVER_KEY_FILE: at('proxy.key'),
    UPLOAD_CLIENT_CERT_FILE: at('client.crt'),
    UPLOAD_CLIENT_KEY_FILE: at('client.key'),
    LISTEN_PORT: String(port),
    ...more,
  };
  const hosts = Object.fromEntries(NAMES.map((claim) => [hostOf(claim), ADDRESS]));
  const node = [process.execPath, '--initial-old-space-size=512', '--max-semi-space-size=1', program('proxy')];
  const [command, args] = await withHosts(at('hosts'), hosts, node);
  const child = spawn(command, args, { env, stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  child.stderr?.on('data', (text: Buffer) => (log += text.toString()));
  const ended = new Promise<number | null>((resolve) => void child.once('close', resolve));
  const url = `https://127.0.0.1:${port}`;
  for (let tries = 0; tries < 200 && child.exitCode === null; tries += 1) {
    if ((await curl(['--cacert', at('outside.pem'), `${url}/healthz`])).status === 200) break;
    await sleep(50);
  }
  return {
    url,
    child,
    ended,
    said: () => log,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

/** What virtctl does, with curl in its place (docs/uploadproxy.md). */
const virtctl = async (name: string, path: string, more: readonly string[]): Promise<Answer> =>
  curl([
    '--cacert',
    at('outside.pem'),
    '-H',
    `Authorization: Bearer ${await cluster.tokenFor(name)}`,
    ...more,
    proxy.url + path,
  ]);
const post = (name: string, file: string, path = '/v1beta1/upload'): Promise<Answer> =>
  virtctl(name, path, ['-X', 'POST', '-H', 'Content-Type: application/octet-stream', '-T', file]);
const head = (name: string): Promise<Answer> => virtctl(name, '/v1beta1/upload-async', ['-I']);

interface Pod extends AsyncDisposable {
  readonly disk: string;
  readonly directory: string;
  readonly ended: Promise<{ exit: number | null; message: string }>;
  /** Takes it away, as a node that goes. */
  kill(): void;
}

/** The upload pod of a claim, where its service leads. */
async function pod(name: string, by = cluster.servers, size = CLAIM): Promise<Pod> {
  const root = at(`pod-${name}`);
  await rm(root, { recursive: true, force: true });
  for (const place of ['data', 'dev']) await mkdir(`${root}/${place}`, { recursive: true });
  const host = hostOf(name);
  await cluster.furnishPod(at(''), name, by);
  const child = spawn(process.execPath, [program('pod')], {
    env: {
      PATH: process.env.PATH ?? '',
      DISKFERRY_ROOT: root,
      TLS_KEY_FILE: at('pod.key'),
      TLS_CERT_FILE: at('pod.crt'),
      CLIENT_CERT_FILE: at('clients.pem'),
      CLIENT_NAME: CLIENT,
      UPLOAD_IMAGE_SIZE: String(size),
      LISTEN_ADDRESS: ADDRESS,
    },
    stdio: 'ignore',
  });
  const ended = new Promise<{ exit: number | null; message: string }>((resolve) => {
    child.once('close', async (exit) => {
      resolve({ exit, message: await readFile(`${root}/dev/termination-log`, 'utf8').catch(() => '') });
    });
  });
  for (let tries = 0; tries < 200; tries += 1) {
    if ((await curl(['-k', '-H', `Host: ${host}`, `https://${ADDRESS}:8443/healthz`])).status === 200) break;
    await sleep(50);
  }
  return {
    disk: `${root}/data/disk.img`,
    directory: `${root}/data`,
    ended,
    kill: () => void child.kill('SIGKILL'),
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

test('as virtctl asks: the way that it chooses, the image, and what is said of a claim that is full', async () => {
  await cluster.claim('disk', READY);
  await using running = await pod('disk');
  expect((await head('disk')).status).toBe(200);
  const answer = await post('disk', at('qcow2'), '/v1beta1/upload-async');
  expect(answer.status, answer.body + proxy.said()).toBe(200);
  const { exit, message } = await running.ended;
  expect([exit, JSON.parse(message)]).toMatchObject([0, { message: 'Upload Complete' }]);
  expect(await difference(at('raw'), running.disk, SIZE)).toBeUndefined();
  await cluster.annotate('disk', { 'pod.phase': 'Succeeded', 'pod.ready': 'false' });
  const again = await post('disk', at('qcow2'));
  expect([again.status, again.body]).toEqual([
    503,
    'rejecting Upload Request for PVC disk that already finished uploading\n',
  ]);
});

describe('a token', () => {
  const asked = async (authorization: string | undefined, more: readonly string[] = []): Promise<Answer> =>
    curl([
      '--cacert',
      at('outside.pem'),
      ...(authorization === undefined ? [] : ['-H', `Authorization: ${authorization}`]),
      ...more,
      '-X',
      'POST',
      '-T',
      at('raw'),
      `${proxy.url}/v1beta1/upload`,
    ]);

  test('that is missing, false, expired, or for something else gives no right, and no byte is sent', async () => {
    await cluster.claim('disk', READY);
    const stranger = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey;
    const scope = { operation: 'Upload', name: 'disk', namespace: 'default', resource: PVC };
    const cases: [string | undefined, number, RegExp][] = [
      [undefined, 400, /wants a token/],
      ['Basic YTpi', 400, /wants a token/],
      ['Bearer x y', 400, /wants a token/],
      ['Bearer nonsense', 401, /not signed/],
      [`Bearer ${await sign({ issuer: 'cdi-apiserver', key: stranger }, scope, HOUR)}`, 401, /not signed/],
      [`Bearer ${await cluster.tokenFor('disk', {}, HOUR, 'cdi-deployment')}`, 401, /iss/],
      [`bearer ${await cluster.tokenFor('disk', {}, -60_000)}`, 401, /expired/],
      [`Bearer ${await cluster.tokenFor('disk', { operation: 'Clone' })}`, 400, /it is for &#39;Clone&#39;/],
      [`Bearer ${await cluster.tokenFor('disk', { resource: { ...PVC, resource: 'volumesnapshots' } })}`, 400, /claim/],
      [`Bearer ${await cluster.tokenFor('')}`, 400, /claim/],
      [`Bearer ${await cluster.tokenFor('..')}`, 400, /names no claim/],
      [
        `Bearer ${await cluster.tokenFor('disk', { params: { uid: 'of one that was deleted' } })}`,
        401,
        /earlier claim/,
      ],
    ];
    for (const [authorization, status, why] of cases) {
      const answer = await asked(authorization, ['-H', 'Expect: 100-continue']);
      expect([answer.status, answer.body, answer.sent]).toEqual([status, expect.stringMatching(why), 0]);
    }
    const shown = JSON.stringify(proxy.said());
    expect(shown).not.toContain(await cluster.tokenFor('disk'));
    expect(shown).not.toMatch(/eyJ/);
  });

  test('of this very claim is good', async () => {
    const uid = await cluster.claim('disk', READY);
    await using running = await pod('disk');
    const answer = await asked(`Bearer ${await cluster.tokenFor('disk', { params: { uid } })}`);
    expect(answer.status, answer.body).toBe(200);
    expect((await running.ended).exit).toBe(0);
  });
});

describe('a pod that is not ready', () => {
  test('is waited for, and the body with it', async () => {
    await cluster.claim('disk', WAITING);
    const answer = post('disk', at('qcow2'));
    await using running = await pod('disk');
    await sleep(2000);
    await cluster.annotate('disk', { 'pod.phase': 'Running', 'pod.ready': 'true' });
    expect((await answer).status).toBe(200);
    expect((await running.ended).exit).toBe(0);
  });

  test('for 10 s; then the client is told what to look at', async () => {
    await cluster.claim('nobody', WAITING);
    const began = performance.now();
    const [unready, missing] = await Promise.all([post('nobody', at('raw')), post('absent', at('raw'))]);
    expect(performance.now() - began).toBeLessThan(14_000);
    expect([unready.status, unready.body, unready.sent < SIZE]).toEqual([
      503,
      expect.stringMatching(
        /^the upload pod of default\/nobody is not ready, its phase is Pending: .*describe pod cdi-upload-nobody.* \(waited for 10 s\)\n$/,
      ),
      true,
    ]);
    expect([missing.status, missing.body]).toEqual([503, expect.stringContaining('no claim default/absent')]);
  });

  test('nor anybody: what is no target of uploads, or is said to be elsewhere, is refused at once', async () => {
    await cluster.claim('disk', { 'pod.ready': 'true' });
    expect(await post('disk', at('raw'))).toMatchObject({
      status: 503,
      body: expect.stringContaining('takes no upload'),
    });
    await cluster.claim('disk', { ...READY, contentType: 'movie' });
    expect(await post('disk', at('raw'))).toMatchObject({
      status: 503,
      body: expect.stringContaining('&#39;movie&#39;'),
    });
    await cluster.claim('disk', { ...READY, uploadPodName: 'evil.example.org:443/x#' });
    expect(await post('disk', at('raw'))).toMatchObject({
      status: 503,
      body: expect.stringContaining('no name of a pod'),
    });
  });

  test('whose service leads to nobody is 502', async () => {
    await cluster.claim('nobody', READY);
    const answer = await post('nobody', at('raw'));
    expect([answer.status, answer.body]).toEqual([
      502,
      expect.stringMatching(
        /^error in upload-proxy: the upload pod cdi-upload-nobody\.default\.svc:8443: .*ECONNREFUSED/,
      ),
    ]);
  });
});

test('an upload into a claim that another one fills goes to that one', async () => {
  const spec = { dataSourceRef: { apiGroup: 'cdi.kubevirt.io', kind: 'VolumeUploadSource', name: 'source' } };
  await cluster.claim('disk', {}, spec);
  await cluster.claim('prime-1', READY);
  await using running = await pod('prime-1');
  const answer = post('disk', at('qcow2'));
  await sleep(1500);
  await cluster.annotate('disk', { 'populator.pvcPrime': 'prime-1' });
  expect((await answer).status).toBe(200);
  expect((await running.ended).exit).toBe(0);
  expect(await difference(at('raw'), running.disk, SIZE)).toBeUndefined();
});

test('an archive goes to the path of archives, whatever was asked', async () => {
  await cluster.claim('disk', { ...READY, contentType: 'archive' });
  await using running = await pod('disk');
  // virtctl tries the asynchronous way first, and takes the other where that is not there.
  expect((await head('disk')).status).toBe(404);
  const answer = await post('disk', at('files.tar'));
  expect(answer.status, answer.body).toBe(200);
  expect((await running.ended).exit).toBe(0);
  expect(await readFile(`${running.directory}/a`, 'utf8')).toBe('one\n');
});

test('what a pod refuses is told as it says it, and the next one is taken', async () => {
  await cluster.claim('disk', READY);
  await using running = await pod('disk');
  await shell(`qemu-img create -q -f qcow2 ${at('huge')} 1T && head -c 64M /dev/zero >> ${at('huge')}`);
  const answer = await post('disk', at('huge'));
  expect([answer.status, answer.body]).toEqual([
    400,
    expect.stringContaining('larger than the reported available storage'),
  ]);
  expect(answer.sent).toBeLessThan(16 * MiB);
  const slow = virtctl('disk', '/v1beta1/upload', ['-X', 'POST', '--limit-rate', '8M', '-T', at('raw')]);
  await sleep(1500);
  expect((await post('disk', at('qcow2'))).status).toBe(503);
  expect((await slow).status).toBe(200);
  expect((await running.ended).exit).toBe(0);
});

test('a client that goes leaves the pod to the next', async () => {
  await cluster.claim('disk', READY);
  await using running = await pod('disk');
  const url = new URL(`${proxy.url}/v1beta1/upload`);
  const request = ask(url, {
    method: 'POST',
    ca: cluster.outside.certificate,
    headers: { authorization: `Bearer ${await cluster.tokenFor('disk')}`, 'content-length': SIZE },
  });
  request.on('error', () => undefined);
  request.write((await readFile(at('raw'))).subarray(0, 4 * MiB));
  await sleep(1500);
  expect((await post('disk', at('qcow2'))).status).toBe(503);
  request.destroy();
  await sleep(1000);
  expect((await post('disk', at('qcow2'))).status).toBe(200);
  expect((await running.ended).exit).toBe(0);
  expect(await difference(at('raw'), running.disk, SIZE)).toBeUndefined();
});

test('a client that goes while the pod is waited for leaves it free', async () => {
  await cluster.claim('disk', WAITING);
  const gone = await virtctl('disk', '/v1beta1/upload', ['-X', 'POST', '--max-time', '2', '-T', at('raw')]);
  expect(gone.status).toBe(0);
  await using running = await pod('disk');
  await cluster.annotate('disk', { 'pod.phase': 'Running', 'pod.ready': 'true' });
  // Whoever was still waited for would have it by now.
  await sleep(2000);
  expect((await post('disk', at('qcow2'))).status).toBe(200);
  expect((await running.ended).exit).toBe(0);
});

test('a pod that goes in the middle is 502, and what is still sent is not waited for', async () => {
  await cluster.claim('disk', READY);
  await using running = await pod('disk');
  const answer = virtctl('disk', '/v1beta1/upload', ['-X', 'POST', '--limit-rate', '4M', '-T', at('raw')]);
  await sleep(1500);
  running.kill();
  expect(await answer).toMatchObject({ status: 502, body: expect.stringMatching(/^error in upload-proxy: /) });
});

test('pages of other sites may ask, with a token', async () => {
  await cluster.claim('disk', READY);
  await using running = await pod('disk');
  const asked = ['-X', 'OPTIONS', '-i', '-H', 'Origin: https://console.example.org'];
  const preflight = await curl([
    '--cacert',
    at('outside.pem'),
    ...asked,
    '-H',
    'Access-Control-Request-Method: POST',
    '-H',
    'Access-Control-Request-Headers: authorization,content-type',
    `${proxy.url}/v1beta1/upload`,
  ]);
  expect(preflight.status).toBe(204);
  for (const line of ['Allow-Origin: *', 'Allow-Methods: POST', 'Allow-Headers: authorization,content-type']) {
    expect(preflight.body.toLowerCase()).toContain(`access-control-${line.toLowerCase()}`);
  }
  const answer = await virtctl('disk', '/v1beta1/upload-form', [
    '-i',
    '-H',
    'Origin: https://console.example.org',
    '-F',
    `file=@${at('qcow2')}`,
  ]);
  expect([answer.status, answer.body]).toEqual([200, expect.stringMatching(/access-control-allow-origin: \*/i)]);
  expect((await running.ended).exit).toBe(0);
  const denied = await curl([
    '--cacert',
    at('outside.pem'),
    '-i',
    '-H',
    'Origin: https://console.example.org',
    `${proxy.url}/v1beta1/upload`,
  ]);
  expect([denied.status, denied.body]).toEqual([400, expect.stringMatching(/access-control-allow-origin: \*/i)]);
});

test('authorities of pods change while both are trusted; one that is not is no pod', async () => {
  await cluster.claim('disk', READY);
  const next = await authority('upload servers, later', HOUR);
  await using running = await pod('disk', next);
  expect(await post('disk', at('qcow2'))).toMatchObject({ status: 502, body: expect.stringMatching(/certificate/) });
  await cluster.trust(`${next.certificate}\n${cluster.servers.certificate}`);
  expect((await post('disk', at('qcow2'))).status).toBe(200);
  expect((await running.ended).exit).toBe(0);
  await using old = await pod('disk');
  expect((await post('disk', at('qcow2'))).status).toBe(200);
  expect((await old.ended).exit).toBe(0);
});

test('an API server that is silent is told of', async () => {
  cluster.api.pause();
  try {
    const answer = await post('disk', at('raw'));
    expect([answer.status, answer.body]).toEqual([
      503,
      expect.stringContaining('cannot be read: the API server cannot be reached'),
    ]);
  } finally {
    cluster.api.resume();
  }
}, 60_000);

test('it holds none of what it passes on', async () => {
  await shell(`head -c 512M /dev/urandom > ${at('random')}`);
  await cluster.claim('disk', READY);
  await using running = await pod('disk', cluster.servers, 1024 * MiB);
  const answer = await post('disk', at('random'));
  expect(answer.status, answer.body).toBe(200);
  expect((await running.ended).exit).toBe(0);
  const status = await readFile(`/proc/${proxy.child.pid}/status`, 'utf8');
  const peak = Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) / 1024;
  process.stdout.write(`the proxy, after all of these: peak ${peak.toFixed(0)} MiB resident\n`);
  expect(peak).toBeLessThan(160);
}, 60_000);

test('a stop lets an upload end, and takes no other', async () => {
  await using own = await startProxy();
  await cluster.claim('disk', READY);
  await using running = await pod('disk');
  const token = await cluster.tokenFor('disk');
  const answer = curl([
    '--cacert',
    at('outside.pem'),
    '-H',
    `Authorization: Bearer ${token}`,
    '-X',
    'POST',
    '--limit-rate',
    '8M',
    '-T',
    at('raw'),
    `${own.url}/v1beta1/upload`,
  ]);
  await sleep(1500);
  own.child.kill('SIGTERM');
  await sleep(200);
  expect((await curl(['--cacert', at('outside.pem'), `${own.url}/healthz`])).status).toBe(0);
  expect((await answer).status).toBe(200);
  expect([await own.ended, (await running.ended).exit]).toEqual([0, 0]);
});

test('a wrong environment is named', async () => {
  for (const [name, value] of [
    ['APISERVER_PUBLIC_KEY', 'x'],
    ['LISTEN_PORT', 'x'],
    ['KUBERNETES_SERVICE_HOST', ''],
  ] as const) {
    await using wrong = await startProxy({ [name]: value });
    expect([await wrong.ended, wrong.said()]).toEqual([1, expect.stringContaining(name)]);
  }
});
