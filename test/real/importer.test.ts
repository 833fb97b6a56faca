// The program of the import pod, run as its pod is: by its environment, with its volume, and nobody to ask.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdir, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { request } from 'node:https';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { cloop } from '../support/bridged.ts';
import { loopDevice, recognised } from '../support/devices.ts';
import { FakeEngine } from '../support/engine.ts';
import { type ImageService, imageService } from '../support/imageio.ts';
import { bootableDisk, difference, MiB, qcow2, run, sha256, shell } from '../support/images.ts';
import { freePort, type Nginx, nginx } from '../support/nginx.ts';
import { LOGIN, type Registry, startRegistry } from '../support/registry.ts';
import { FIRST, SECOND, SIZE as STATE_SIZE, STATES, shownBy, states, THIRD } from '../support/states.ts';
import { gcsStore, KEY, type Store, s3Store } from '../support/stores.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { authority } from '../support/tls.ts';
import { tool } from '../support/tools.ts';

const PROGRAM = fileURLToPath(new URL('../../dist/importer/main.js', import.meta.url));
const IMAGE_SERVER = fileURLToPath(new URL(`../../native/imageserver-linux-${process.arch}`, import.meta.url));
const SIZE = 48 * MiB;
/** Of the claim. */
const CLAIM = 96 * MiB;

let home: TempDir;
let server: Nginx;
let registry: Registry;
let s3: Store;
let gcs: Store;
let images: ImageService;
let engine: FakeEngine;
const at = (name: string): string => join(home.path, name);
const root = (name: string): string => join(home.path, 'root', name);

beforeAll(async () => {
  home = await tempdir();
  await mkdir(at('www'));
  await bootableDisk(at('disk.raw'), SIZE);
  await qcow2(at('disk.raw'), at('www/disk.qcow2'), { compressed: true });
  await writeFile(at('www/disk.cloop'), cloop(await readFile(at('disk.raw'))));
  await writeFile(at('passwords'), `${LOGIN.username}:{PLAIN}${LOGIN.password}\n`);
  server = await nginx({
    root: at('www'),
    server: `location /private/ { alias ${at('www')}/; auth_basic "x"; auth_basic_user_file ${at('passwords')}; }
      location /slow/ { alias ${at('www')}/; limit_rate 800k; }
      location /elsewhere/ { return 302 http://127.0.0.2:1/disk.qcow2; }
      location /services/ { return 302 http://10.96.0.10/disk.qcow2; }
      location /metadata/ { return 302 http://[::ffff:169.254.169.254]/latest/meta-data/; }
      location /wants/ { if ($http_x_project != "images") { return 403; } alias ${at('www')}/; }`,
  });
  [registry, s3, gcs] = await Promise.all([startRegistry({ access: 'login' }), s3Store(), gcsStore()]);
  const image = await readFile(at('www/disk.qcow2'));
  await registry.push('vm/disk', 'latest', [{ content: image, mediaType: 'application/x-qcow2' }]);
  const Env = [
    'PATH=/bin',
    'INSTANCETYPE_KUBEVIRT_IO_DEFAULT_INSTANCETYPE=u1.medium',
    'INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE=fedora',
    'KUBEVIRT_IO_BAD=no label: it has blanks',
  ];
  await registry.push('vm/disk', 'labelled', [{ content: image, mediaType: 'application/x-qcow2' }], {
    config: { Env },
  });
  for (const store of [s3, gcs]) await store.put('disk.qcow2', image);
  images = await imageService();
  engine = await FakeEngine.start({
    user: LOGIN.username,
    password: LOGIN.password,
    show: () => images.show(at('disk.raw'), SIZE),
    images: () => `127.0.0.1:${images.port}`,
  });
}, 120_000);
afterAll(async () => {
  for (const one of [server, registry, s3, gcs, engine, images]) await one?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});
afterEach(() => rm(at('root'), { recursive: true, force: true }));

interface Pod {
  readonly child: ChildProcess;
  readonly metrics: number;
  readonly ended: Promise<{ exit: number | null; message: string | undefined; log: string }>;
}

async function start(env: Record<string, string>, device?: string): Promise<Pod> {
  for (const name of ['data', 'dev']) await mkdir(root(name), { recursive: true });
  if (device) await symlink(device, root('dev/cdi-block-volume')).catch(() => undefined);
  const metrics = await freePort();
  const child = spawn(process.execPath, [PROGRAM], {
    env: {
      PATH: process.env.PATH,
      DISKFERRY_ROOT: at('root'),
      DISKFERRY_METRICS_PORT: String(metrics),
      IMPORTER_CONTENTTYPE: 'kubevirt',
      IMPORTER_IMAGE_SIZE: String(CLAIM),
      FILESYSTEM_OVERHEAD: '0.06',
      OWNER_UID: '8d2d0b0e-6a3c-4f0e-9a7e-0c1e5c7ad111',
      // The servers of these tests; other addresses of this host stay refused.
      DISKFERRY_ALLOW_ADDRESSES: '127.0.0.1',
      PREALLOCATION: 'false',
      INSECURE_TLS: 'false',
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let log = '';
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk: Buffer) => (log += chunk));
  const ended = new Promise<{ exit: number | null; message: string | undefined; log: string }>((resolve) => {
    child.once('close', async (exit) => {
      const message = await readFile(root('dev/termination-log'), 'utf8').catch(() => undefined);
      resolve({ exit, message, log });
    });
  });
  return { child, metrics, ended };
}

const pod = async (env: Record<string, string>, device?: string): Promise<Awaited<Pod['ended']>> =>
  (await start(env, device)).ended;
const http = (path: string): Record<string, string> => ({
  IMPORTER_SOURCE: 'http',
  IMPORTER_ENDPOINT: server.url + path,
});
const ofEngine = (): Record<string, string> => ({
  IMPORTER_SOURCE: 'imageio',
  IMPORTER_ENDPOINT: engine.api,
  IMPORTER_DISK_ID: '7d2c9f6e-5a0b-4c8f-9a41-2f1f6f2d8e10',
});
const DONE = { scratchSpaceRequired: false, preallocationApplied: false, message: 'Import Complete' };

/** The disk fills what is usable of the claim: floor(ceil(96 MiB / 1.06) / 1 MiB) MiB. */
const USABLE = 90 * MiB;

async function fileIsDisk(): Promise<void> {
  const found = await stat(root('data/disk.img'));
  expect(found.size).toBe(USABLE);
  expect(found.mode & 0o777).toBe(0o660);
  expect(await difference(at('disk.raw'), root('data/disk.img'), SIZE)).toBeUndefined();
}

describe('every source', () => {
  const credentials = (username: string, password: string): Record<string, string> => ({
    IMPORTER_ACCESS_KEY_ID: username,
    IMPORTER_SECRET_KEY: password,
  });
  const sources: readonly [string, () => Record<string, string>][] = [
    ['http', () => http('/disk.qcow2')],
    ['http with a login', () => ({ ...http('/private/disk.qcow2'), ...credentials(LOGIN.username, LOGIN.password) })],
    ['http with headers', () => ({ ...http('/wants/disk.qcow2'), IMPORTER_EXTRA_HEADER_0: 'X-Project: images' })],
    [
      's3',
      () => ({
        IMPORTER_SOURCE: 's3',
        IMPORTER_ENDPOINT: `http://127.0.0.1:${(s3 as Store).port}/images/disk.qcow2`,
        ...credentials(KEY.username, KEY.password),
      }),
    ],
    ['gcs', () => ({ IMPORTER_SOURCE: 'gcs', IMPORTER_ENDPOINT: `http://127.0.0.1:${gcs.port}/images/disk.qcow2` })],
    [
      'registry',
      () => ({
        IMPORTER_SOURCE: 'registry',
        IMPORTER_ENDPOINT: `docker://${registry.host}/vm/disk`,
        INSECURE_TLS: 'true',
        ...credentials(LOGIN.username, LOGIN.password),
      }),
    ],
    ['imageio', () => ({ ...ofEngine(), ...credentials(LOGIN.username, LOGIN.password) })],
  ];
  test.each(sources)('%s, into a file and onto a device', async (_, env) => {
    const file = await pod(env());
    expect(file, file.log).toMatchObject({ exit: 0 });
    expect(JSON.parse(file.message ?? '')).toEqual(DONE);
    await fileIsDisk();
    await using device = await loopDevice(at('device'), SIZE + MiB);
    await rm(root('dev/termination-log'));
    const block = await pod(env(), device.path);
    expect(block, block.log).toMatchObject({ exit: 0 });
    expect(JSON.parse(block.message ?? '')).toEqual(DONE);
    expect(await difference(at('disk.raw'), device.path, SIZE)).toBeUndefined();
    await rm(at('device'));
    for (const secret of [LOGIN.password, KEY.password]) expect(file.log + block.log).not.toContain(secret);
  });

  test('whatever certificate a web server, or an engine and its image service, shows, where nobody is to look', async () => {
    const { ca, issue } = await authority(at('.'));
    const tls = await issue('other', ['images.example.org']);
    await writeFile(at('ca.pem'), ca);
    await using site = await nginx({ root: at('www'), tls });
    await using service = await imageService({ ...tls, ca: at('ca.pem') });
    await using behind = await FakeEngine.start({
      user: LOGIN.username,
      password: LOGIN.password,
      show: () => service.show(at('disk.raw'), SIZE),
      images: () => `127.0.0.1:${service.port}`,
      scheme: 'https',
    });
    const { origin } = new URL(behind.api);
    await using front = await nginx({
      root: at('www'),
      tls,
      server: `location /ovirt-engine/ { proxy_pass ${origin}; }`,
    });
    for (const env of [
      { IMPORTER_SOURCE: 'http', IMPORTER_ENDPOINT: `${site.url}/disk.qcow2` },
      {
        ...ofEngine(),
        ...credentials(LOGIN.username, LOGIN.password),
        IMPORTER_ENDPOINT: `${front.url}/ovirt-engine/api`,
      },
    ]) {
      const refused = await pod(env);
      expect(refused, refused.log).toMatchObject({ exit: 1, message: expect.stringMatching(/is not trusted/) });
      const { exit, log } = await pod({ ...env, INSECURE_TLS: 'true' });
      expect(exit, log).toBe(0);
      await fileIsDisk();
    }
  });

  test('a container image that asks for labels', async () => {
    const { exit, message, log } = await pod({
      IMPORTER_SOURCE: 'registry',
      IMPORTER_ENDPOINT: `docker://${registry.host}/vm/disk:labelled`,
      INSECURE_TLS: 'true',
      ...credentials(LOGIN.username, LOGIN.password),
    });
    expect(exit, log).toBe(0);
    expect(JSON.parse(message ?? '')).toEqual({
      ...DONE,
      labels: {
        'instancetype.kubevirt.io/default-instancetype': 'u1.medium',
        'instancetype.kubevirt.io/default-preference': 'fedora',
      },
    });
  });

  test('a container image that the node has pulled: served in the pod, by a program that lies in it', async () => {
    const shared = (name: string): string => root(`shared/${name}`);
    for (const name of ['shared', 'image/disk']) await mkdir(root(name), { recursive: true });
    await copyFile(at('www/disk.qcow2'), root('image/disk/disk.qcow2'));
    const port = await freePort();
    // Not started yet: the importer waits.
    const importer = await start({
      IMPORTER_SOURCE: 'http',
      IMPORTER_ENDPOINT: 'http://localhost:8100/disk.img',
      IMPORTER_PULL_METHOD: 'node',
      IMPORTER_READY_FILE: '/shared/ready',
      IMPORTER_DONE_FILE: '/shared/done',
      DISKFERRY_IMAGE_PORT: String(port),
      DISKFERRY_ALLOW_ADDRESSES: '',
      http_proxy: 'http://127.0.0.1:1',
    });
    await sleep(1000);
    const places = ['-image-dir', root('image/disk'), '-ready-file', shared('ready'), '-done-file', shared('done')];
    const served = spawn(IMAGE_SERVER, ['-p', String(port), ...places], {
      env: { INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE: 'fedora' },
      stdio: 'ignore',
    });
    onTestFinished(() => void served.kill('SIGKILL'));
    const ended = once(served, 'close');
    const { exit, message, log } = await importer.ended;
    expect(exit, log).toBe(0);
    expect(JSON.parse(message ?? '')).toEqual({
      ...DONE,
      labels: { 'instancetype.kubevirt.io/default-preference': 'fedora' },
    });
    await fileIsDisk();
    expect(await ended).toEqual([0, null]);
  });

  test('an image that only QEMU reads asks for scratch space, and is imported when it is there', async () => {
    const before = await pod(http('/disk.cloop'));
    expect(before, before.log).toMatchObject({ exit: 0 });
    expect(JSON.parse(before.message ?? '')).toEqual({ ...DONE, scratchSpaceRequired: true });
    expect(await readdir(root('data'))).toEqual([]);
    await mkdir(root('scratch'));
    const { exit, message, log } = await pod(http('/disk.cloop'));
    expect(exit, log).toBe(0);
    expect(JSON.parse(message ?? '')).toEqual(DONE);
    await fileIsDisk();
    expect(await readdir(root('scratch'))).toEqual([]);
  });

  test('none: an empty disk', async () => {
    const { exit, message, log } = await pod({ IMPORTER_SOURCE: 'none', IMPORTER_ENDPOINT: '' });
    expect(exit, log).toBe(0);
    expect(JSON.parse(message ?? '')).toEqual(DONE);
    expect((await stat(root('data/disk.img'))).size).toBe(USABLE);
  });
});

test('imageio in stages: a snapshot, then what changed up to the next, onto it and nothing else', async () => {
  const disk = await states(home.path);
  await using snapshots = await FakeEngine.start({
    user: LOGIN.username,
    password: LOGIN.password,
    images: () => `127.0.0.1:${images.port}`,
    snapshots: STATES,
    show: (_, snapshot = THIRD, alone) => {
      const { file, options } = shownBy(disk.image(snapshot), alone);
      return images.show(file, STATE_SIZE, options);
    },
  });
  const stage = (current: string, previous = ''): Record<string, string> => ({
    ...ofEngine(),
    IMPORTER_ENDPOINT: snapshots.api,
    IMPORTER_ACCESS_KEY_ID: LOGIN.username,
    IMPORTER_SECRET_KEY: LOGIN.password,
    IMPORTER_CURRENT_CHECKPOINT: current,
    IMPORTER_PREVIOUS_CHECKPOINT: previous,
    IMPORTER_FINAL_CHECKPOINT: String(current === THIRD),
  });
  for (const [current, previous] of [[FIRST], [SECOND, FIRST], [THIRD, SECOND]] as const) {
    const { exit, message, log } = await pod(stage(current, previous));
    expect(exit, log).toBe(0);
    expect(JSON.parse(message ?? '')).toEqual(DONE);
    expect((await stat(root('data/disk.img'))).size).toBe(USABLE);
    expect(await difference(disk.raw(current), root('data/disk.img'), STATE_SIZE)).toBeUndefined();
  }
  const early = await pod(stage(SECOND, FIRST));
  expect([early.exit, early.message]).toEqual([1, expect.stringContaining(`holds the disk as it was at ${THIRD}`)]);
  expect(await difference(disk.raw(THIRD), root('data/disk.img'), STATE_SIZE)).toBeUndefined();
  await rm(root('data/disk.img'));
  const first = await pod(stage(SECOND, FIRST));
  expect([first.exit, first.message]).toEqual([
    1,
    expect.stringMatching(/disk.img does not exist: the changes belong/),
  ]);
}, 90_000);

describe('what ends otherwise', () => {
  test.each([
    ['404', () => http('/nothing'), 1, /^Unable to connect to http data source: .*404: there is no such object$/],
    [
      'imageio without a login',
      () => ofEngine(),
      1,
      /^Unable to connect to imageio data source: .*wants a user and a password/,
    ],
    ['vddk', () => ({ IMPORTER_SOURCE: 'vddk' }), 1, /^Unable to connect to vddk data source: .*OVA or VMDK/],
    ['an unknown source', () => ({ IMPORTER_SOURCE: 'floppy' }), 1, /^Unknown data source: floppy$/],
    [
      'an empty archive',
      () => ({ IMPORTER_SOURCE: 'none', IMPORTER_CONTENTTYPE: 'archive' }),
      1,
      /^Cannot create empty disk with content type archive$/,
    ],
    [
      'an archive in a registry',
      () => ({
        IMPORTER_SOURCE: 'registry',
        IMPORTER_ENDPOINT: `docker://${registry.host}/vm/disk`,
        IMPORTER_CONTENTTYPE: 'archive',
      }),
      1,
      /content type archive is not imported from a registry/,
    ],
    [
      'a disk that is said to be an archive',
      () => ({ ...http('/disk.qcow2'), IMPORTER_CONTENTTYPE: 'archive' }),
      1,
      /^Unable to process data: this is no tar archive/,
    ],
    [
      'a claim that is too small',
      () => ({ ...http('/disk.qcow2'), IMPORTER_IMAGE_SIZE: '32Mi' }),
      1,
      /^Unable to process data: virtual image size 50331648 is larger than the reported available storage 33554432\. A larger PVC is required$/,
    ],
    [
      'a loopback address that is not allowed',
      () => ({ ...http('/disk.qcow2'), DISKFERRY_ALLOW_ADDRESSES: '' }),
      1,
      /^Unable to connect to http data source: 127\.0\.0\.1 is a loopback address, which is not connected to: if it is meant, allow it with DISKFERRY_ALLOW_ADDRESSES$/,
    ],
    [
      'a name that leads to one',
      () => ({
        IMPORTER_SOURCE: 'http',
        IMPORTER_ENDPOINT: `http://localhost:${server.port}/disk.qcow2`,
        DISKFERRY_ALLOW_ADDRESSES: '',
      }),
      1,
      /data source: localhost leads to (127\.0\.0\.1|::1), a loopback address, which is not connected to/,
    ],
    ['a redirect to one', () => http('/elsewhere/x'), 1, /data source: 127\.0\.0\.2 is a loopback address/],
    ['a redirect to metadata', () => http('/metadata/x'), 1, /data source: ::ffff:a9fe:a9fe is a link-local address/],
    [
      'the API server, though its address was named',
      () => ({
        IMPORTER_SOURCE: 'http',
        IMPORTER_ENDPOINT: 'http://10.96.0.1/x',
        KUBERNETES_SERVICE_HOST: '10.96.0.1',
      }),
      1,
      /10\.96\.0\.1 is the cluster's API server/,
    ],
    [
      'a redirect into the network of services',
      () => ({ ...http('/services/x'), KUBERNETES_SERVICE_HOST: '10.96.0.1' }),
      1,
      /10\.96\.0\.10 is an address of the cluster's services/,
    ],
    [
      'a list of addresses that is none',
      () => ({ ...http('/x'), DISKFERRY_REFUSE_ADDRESSES: '10.0.0.0/40' }),
      1,
      /'10\.0\.0\.0\/40' is no network/,
    ],
    ['no size', () => ({ ...http('/disk.qcow2'), IMPORTER_IMAGE_SIZE: 'much' }), 1, /IMPORTER_IMAGE_SIZE 'much'/],
    [
      'a registry that has no such image',
      () => ({
        IMPORTER_SOURCE: 'registry',
        INSECURE_TLS: 'true',
        IMPORTER_ENDPOINT: `docker://${registry.host}/vm/none`,
      }),
      1,
      /failed to pull image: /,
    ],
  ] as const)('%s', async (_, env, exit, says) => {
    const ended = await pod(env());
    expect(ended, ended.log).toMatchObject({ exit, message: expect.stringMatching(says) });
    expect(ended.message).not.toContain('\n');
  });

  test.each(['md5', 'sha1', 'sha256', 'sha512'])(
    '%s: a checksum that is right, and one that is wrong',
    async (name) => {
      const [hex = ''] = (await run(`${name}sum`, 'coreutils', [at('www/disk.qcow2')])).split(' ');
      const good = await pod({ ...http('/disk.qcow2'), IMPORTER_CHECKSUM: `${name}:${hex.toUpperCase()}` });
      expect(good, good.log).toMatchObject({ exit: 0 });
      await rm(root('data/disk.img'));
      const wrong = `${name}:${'0'.repeat(hex.length)}`;
      const bad = await pod({ ...http('/disk.qcow2'), IMPORTER_CHECKSUM: wrong });
      expect(bad.exit).toBe(0);
      expect(JSON.parse(bad.message ?? '').message).toBe(
        `Unable to process data: Unable to transfer source data to target file: checksum validation failed: checksum mismatch: expected ${wrong}, calculated ${name}:${hex}`,
      );
      expect(await recognised(root('data/disk.img'))).toEqual([]);
    },
  );
});

describe('an archive', () => {
  const archive = (path: string, more = {}): Record<string, string> => ({
    ...http(path),
    IMPORTER_CONTENTTYPE: 'archive',
    ...more,
  });
  beforeAll(async () => {
    await mkdir(at('tree/sub'), { recursive: true });
    await writeFile(at('tree/sub/file'), 'content', { mode: 0o640 });
    await symlink('sub/file', at('tree/link'));
    await run('tar', 'tar', ['-C', at('tree'), '-czf', at('www/tree.tar.gz'), '.']);
  });

  test('is unpacked in place of what the volume held, but for lost+found', async () => {
    await mkdir(root('data/lost+found'), { recursive: true });
    await writeFile(root('data/old'), 'old');
    const { exit, message, log } = await pod(archive('/tree.tar.gz'));
    expect(exit, log).toBe(0);
    expect(JSON.parse(message ?? '')).toEqual(DONE);
    expect((await readdir(root('data'))).sort()).toEqual(['link', 'lost+found', 'sub']);
    expect(await readFile(root('data/link'), 'utf8')).toBe('content');
    expect((await stat(root('data/sub/file'))).mode & 0o7777).toBe(0o640);
  });

  test('that has another checksum, or leads out, is not', async () => {
    const right = await sha256(at('www/tree.tar.gz'));
    const wrong = `sha256:${'0'.repeat(64)}`;
    const bad = await pod(archive('/tree.tar.gz', { IMPORTER_CHECKSUM: wrong }));
    expect(bad.exit).toBe(0);
    expect(JSON.parse(bad.message ?? '').message).toBe(
      `Unable to process data: Unable to transfer source data to target directory: checksum validation failed: checksum mismatch: expected ${wrong}, calculated ${right}`,
    );
    await symlink('../../etc', at('tree/out'));
    await run('tar', 'tar', ['-C', at('tree'), '-cf', at('www/out.tar'), '.']);
    const out = await pod(archive('/out.tar'));
    expect(out).toMatchObject({ exit: 1, message: expect.stringMatching(/^Unable to process data: .*out is a link/) });
    expect(await readdir(root('data'))).toEqual([]);
  });

  test('does not go onto a device', async () => {
    await using device = await loopDevice(at('device'), MiB);
    const { exit, message } = await pod(archive('/tree.tar.gz'), device.path);
    expect([exit, message]).toEqual([1, expect.stringMatching(/volume mode of the claim is Block/)]);
  });
});

test('a weak checksum is kept over a kill', async () => {
  const [hex] = (await run('md5sum', 'coreutils', [at('www/disk.qcow2')])).split(' ');
  const env = { ...http('/slow/disk.qcow2'), IMPORTER_CHECKSUM: `md5:${hex}` };
  const first = await start(env);
  await sleep(4500);
  first.child.kill('SIGKILL');
  await first.ended;
  const second = await pod(env);
  expect(second, second.log).toMatchObject({ exit: 0 });
  expect(second.log).toMatch(/"resumes":1/);
  await fileIsDisk();
}, 150_000);

test('what the volume held is overwritten; a kill is gone on from, by the claim', async () => {
  await mkdir(root('data'), { recursive: true });
  await writeFile(root('data/disk.img'), 'an older disk of somebody else');
  const env = http('/slow/disk.qcow2');
  const first = await start(env);
  await sleep(4500);
  first.child.kill('SIGKILL');
  await first.ended;
  const second = await pod(http('/slow/disk.qcow2'));
  expect(second, second.log).toMatchObject({ exit: 0 });
  expect(second.log).toMatch(/"resumes":1/);
  await fileIsDisk();
}, 150_000);

test('SIGTERM ends it non-zero, and another source in the same volume starts over', async () => {
  const running = await start({ ...http('/slow/disk.qcow2'), IMPORTER_IMAGE_SIZE: String(CLAIM / 1.5) });
  await sleep(4500);
  const begun = performance.now();
  running.child.kill('SIGTERM');
  const { exit, message } = await running.ended;
  expect([exit, message]).toEqual([1, 'stopped by SIGTERM']);
  expect(performance.now() - begun).toBeLessThan(2000);
  // Its disk is larger than the one that was begun.
  const other = await pod({ ...http('/disk.qcow2'), IMPORTER_IMAGE_SIZE: String(CLAIM) });
  expect(other, other.log).toMatchObject({ exit: 0 });
  expect(other.log).toMatch(/unfinished transfer of another source: starting over/);
  await fileIsDisk();
});

test('the progress is served for the owner, and grows', async () => {
  const running = await start({ ...http('/slow/disk.qcow2'), DISKFERRY_CORRELATION_ID: 'one-id' });
  const seen: number[] = [];
  let last = '';
  let slow = 0;
  let over = false;
  void running.ended.then(() => {
    over = true;
  });
  while (!over) {
    const text = await page(running.metrics).catch(() => '');
    const found = /^kubevirt_cdi_import_progress_total\{ownerUID="8d2d0b0e-[^"]+"\} (\d+)$/m.exec(text)?.[1];
    if (found) seen.push(Number(found));
    if (text.includes('diskferry_import_')) last = text;
    if (/^diskferry_import_bottleneck\{owner_uid="[^"]+",stage="source"\} 1$/m.test(text)) slow += 1;
    await sleep(300);
  }
  const { exit, log } = await running.ended;
  expect(exit).toBe(0);
  await using place = await tempdir();
  // CDI's has a label in its own spelling.
  const ours = last.split('\n').filter((line) => !line.includes('kubevirt_cdi_'));
  await writeFile(join(place.path, 'page'), ours.join('\n'));
  await shell(`${tool('promtool', 'prometheus')} check metrics < ${join(place.path, 'page')}`);
  const value = (name: string): number =>
    Number(new RegExp(`^${name}\\{owner_uid="[^"]+"\\} (\\d+)$`, 'm').exec(last)?.[1]);
  expect(value('diskferry_import_source_bytes_total')).toBeGreaterThan(0);
  expect(value('diskferry_import_source_bytes_per_second')).toBeGreaterThan(0);
  expect(value('diskferry_import_resumes_total')).toBe(0);
  expect(slow).toBeGreaterThan(2);
  for (const line of log.trim().split('\n')) expect(line).toMatch(/^\S+ id=one-id /);
  expect(seen.length).toBeGreaterThan(5);
  expect([...seen].sort((a, b) => a - b)).toEqual(seen);
  expect(seen.some((percent) => percent > 0 && percent < 100)).toBe(true);
}, 150_000);

function page(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const asked = request({ port, host: '127.0.0.1', path: '/metrics', rejectUnauthorized: false }, (answer) => {
      let text = '';
      answer.on('data', (chunk: Buffer) => (text += chunk));
      answer.on('end', () => resolve(text));
    });
    asked.on('error', reject);
    asked.end();
  });
}
