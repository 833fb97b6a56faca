// The container image, built and run as the import pod is: user 107, a read-only root, no capabilities, 160 MiB.
import { chown, lstat, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { buildah, buildImage, IMAGE } from '../../scripts/image.mjs';
import { cloop } from '../support/bridged.ts';
import { type Finished, runContainer, USER } from '../support/container.ts';
import { loopDevice } from '../support/devices.ts';
import { bootableDisk, difference, MiB, qcow2, run, shell } from '../support/images.ts';
import { freePort, type Nginx, nginx } from '../support/nginx.ts';
import { curl } from '../support/served.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { CLIENT, hostOf, READY, UploadCluster } from '../support/upload-cluster.ts';

const SIZE = 256 * MiB;
const MEMORY = 160 * MiB;
let home: TempDir;
let server: Nginx;
let container = '';
let rootfs = '';
const at = (name: string): string => join(home.path, name);

beforeAll(async () => {
  buildImage();
  container = buildah(['from', '--pull-never', IMAGE], { answers: true }).trim();
  rootfs = buildah(['mount', container], { answers: true }).trim();
  home = await tempdir();
  await mkdir(at('www'));
  await bootableDisk(at('disk.raw'), SIZE);
  await qcow2(at('disk.raw'), at('www/disk.qcow2'), { compressed: true });
  await writeFile(at('www/disk.cloop'), cloop(await readFile(at('disk.raw'))));
  server = await nginx({
    root: at('www'),
    server: `location /slow/ { alias ${at('www')}/; limit_rate 1500k; }`,
  });
}, 300_000);

afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
  if (container !== '') buildah(['rm', container], { quiet: true });
  await home?.[Symbol.asyncDispose]();
});

beforeEach(async () => {
  await run('rm', 'coreutils', ['-rf', at('volume'), at('termination-log')]);
  await mkdir(at('volume'));
  await chown(at('volume'), 0, USER);
  await run('chmod', 'coreutils', ['2775', at('volume')]);
  await writeFile(at('termination-log'), '', { mode: 0o666 });
  await chown(at('termination-log'), USER, USER);
});

async function pod(
  args: readonly string[],
  env: Record<string, string>,
  device?: string,
  stop?: AbortSignal,
  mounts: Readonly<Record<string, string>> = {},
): Promise<Finished> {
  return runContainer(home.path, {
    rootfs,
    args: ['/usr/lib/diskferry/entrypoint', ...args],
    env: { DISKFERRY_METRICS_PORT: String(await freePort()), ...env },
    memory: MEMORY,
    mounts: {
      '/dev/termination-log': at('termination-log'),
      ...(device === undefined ? { '/data': at('volume') } : {}),
      ...mounts,
    },
    ...(stop === undefined ? {} : { stop }),
    ...(device === undefined ? {} : { devices: { '/dev/cdi-block-volume': device } }),
  });
}

const importing = (more = {}): Record<string, string> => ({
  IMPORTER_SOURCE: 'http',
  IMPORTER_ENDPOINT: `${server.url}/disk.qcow2`,
  IMPORTER_CONTENTTYPE: 'kubevirt',
  IMPORTER_IMAGE_SIZE: String(SIZE),
  FILESYSTEM_OVERHEAD: '0',
  OWNER_UID: '8d2d0b0e-6a3c-4f0e-9a7e-0c1e5c7ad111',
  PREALLOCATION: 'false',
  INSECURE_TLS: 'false',
  DISKFERRY_ALLOW_ADDRESSES: '127.0.0.1',
  ...more,
});

function tell(what: string, { peak }: Finished): void {
  process.stdout.write(`${what}: peak ${(peak / MiB).toFixed(0)} MiB of ${MEMORY / MiB}, page cache counted\n`);
}

test('it is what an existing controller starts, and its size', async () => {
  const [bytes = Number.NaN] = (await run('du', 'coreutils', ['-sb', rootfs])).split('\t').map(Number);
  process.stdout.write(`the image unpacked: ${(bytes / MiB).toFixed(0)} MiB\n`);
  expect(bytes).toBeLessThan(300 * MiB);
  const config = buildah(
    ['inspect', '--type', 'image', '--format', '{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}', IMAGE],
    {
      answers: true,
    },
  );
  expect(config.trim()).toBe('107:107 [/usr/lib/diskferry/entrypoint]');
  for (const program of [
    'bin/sh',
    'usr/bin/qemu-img',
    'usr/bin/qemu-nbd',
    'usr/bin/sha256sum',
    'usr/bin/cdi-importer',
    'usr/bin/cdi-uploadserver',
    'usr/bin/cdi-uploadproxy',
    'usr/bin/cdi-containerimage-server',
  ])
    await expect(lstat(join(rootfs, program)), program).resolves.toBeTruthy();
});

describe('an import over HTTP', () => {
  test('into the directory of a volume', async () => {
    const done = await pod(['-v=1'], importing());
    expect(done.exit, done.log).toBe(0);
    tell('into a file', done);
    const disk = at('volume/disk.img');
    const found = await stat(disk);
    expect([found.uid, found.gid, found.mode & 0o7777]).toEqual([USER, USER, 0o660]);
    expect(JSON.parse(await readFile(at('termination-log'), 'utf8'))).toMatchObject({ message: 'Import Complete' });
    expect(await run('qemu-img', 'qemu-utils', ['compare', '-f', 'raw', '-F', 'raw', at('disk.raw'), disk])).toContain(
      'identical',
    );
    expect(done.peak).toBeLessThanOrEqual(MEMORY);
  });

  test('onto a block volume', async () => {
    await using device = await loopDevice(at('device'), SIZE);
    const done = await pod([], importing(), device.path);
    expect(done.exit, done.log).toBe(0);
    tell('onto a device', done);
    expect(await difference(at('disk.raw'), device.path, SIZE)).toBeUndefined();
  });

  test('of an image that only QEMU reads: it is in there, and confined without any privilege', async () => {
    await mkdir(at('scratch'));
    await chown(at('scratch'), USER, USER);
    const env = importing({ IMPORTER_ENDPOINT: `${server.url}/disk.cloop` });
    const done = await pod([], env, undefined, undefined, { '/scratch': at('scratch') });
    expect(done.exit, done.log).toBe(0);
    expect(done.log).not.toContain('run without');
    tell('by QEMU', done);
    expect(await difference(at('disk.raw'), at('volume/disk.img'))).toBeUndefined();
    expect(await readdir(at('scratch'))).toEqual([]);
  });

  test('that fails says why, as the controller reads it', async () => {
    const failed = await pod(['-v=1'], importing({ IMPORTER_ENDPOINT: `${server.url}/nothing` }));
    expect(failed.exit).toBe(1);
    expect(await readFile(at('termination-log'), 'utf8')).toMatch(/^Unable to connect to http data source: .*404/);
  });
});

test.each(['/data', '/dev/cdi-block-volume'])(
  'an upload, as an existing controller starts its server: %s',
  async (place) => {
    const block = place !== '/data';
    await using device = block ? await loopDevice(at('device'), SIZE) : undefined;
    const port = await freePort();
    const ended = pod(
      ['-v=3'],
      {
        DESTINATION: block ? place : '',
        UPLOAD_IMAGE_SIZE: String(SIZE),
        FILESYSTEM_OVERHEAD: '0',
        LISTEN_ADDRESS: '127.0.0.1',
        LISTEN_PORT: String(port),
        DEADLINE: new Date(Date.now() + 60_000).toISOString(),
      },
      device?.path,
    );
    const retries = ['--retry', '20', '--retry-delay', '1', '--retry-connrefused'];
    const url = `http://127.0.0.1:${port}/v1beta1/upload`;
    const answer = await curl([...retries, '-X', 'POST', '-T', at('www/disk.qcow2'), url]);
    const done = await ended;
    expect([answer.status, done.exit], done.log).toEqual([200, 0]);
    tell('an upload', done);
    expect(await difference(at('disk.raw'), device?.path ?? at('volume/disk.img'), SIZE)).toBeUndefined();
  },
  120_000,
);

test('an upload with a token, as virtctl sends it, by the proxy to the pod', async () => {
  await using cluster = await UploadCluster.start();
  for (const place of ['proxy', 'tls']) await mkdir(at(place));
  const port = await freePort();
  const address = '127.99.8.7';
  const given = await cluster.furnish(at('proxy'));
  await cluster.furnishPod(at('tls'), 'disk');
  await cluster.claim('disk', READY);
  await writeFile(at('hosts'), `127.0.0.1 localhost\n${address} ${hostOf('disk')}\n`);
  await shell(`chown -R ${USER}:${USER} ${at('proxy')} ${at('tls')}`);
  const stop = new AbortController();
  const proxy = pod(
    ['-v=3'],
    {
      ...given,
      LISTEN_PORT: String(port),
      SERVER_CERT_FILE: '/certs/proxy.crt',
      SERVER_KEY_FILE: '/certs/proxy.key',
      UPLOAD_CLIENT_CERT_FILE: '/certs/client.crt',
      UPLOAD_CLIENT_KEY_FILE: '/certs/client.key',
    },
    undefined,
    stop.signal,
    {
      '/certs': at('proxy'),
      '/var/run/secrets/kubernetes.io/serviceaccount': at('proxy/account'),
      '/etc/hosts': at('hosts'),
    },
  );
  const taking = pod(
    ['-v=3'],
    {
      UPLOAD_IMAGE_SIZE: String(SIZE),
      FILESYSTEM_OVERHEAD: '0',
      LISTEN_ADDRESS: address,
      TLS_KEY_FILE: '/tls/pod.key',
      TLS_CERT_FILE: '/tls/pod.crt',
      CLIENT_CERT_FILE: '/tls/clients.pem',
      CLIENT_NAME: CLIENT,
    },
    undefined,
    undefined,
    { '/tls': at('tls') },
  );
  const url = `https://127.0.0.1:${port}/v1beta1/upload-async`;
  const bearer = ['-H', `Authorization: Bearer ${await cluster.tokenFor('disk')}`, '--cacert', at('proxy/outside.pem')];
  const retries = ['--retry', '20', '--retry-delay', '1', '--retry-all-errors'];
  const head = await curl([...bearer, ...retries, '-I', url]);
  const answer = await curl([...bearer, ...retries, '-X', 'POST', '-T', at('www/disk.qcow2'), url]);
  const taken = await taking;
  stop.abort();
  const passed = await proxy;
  expect([head.status, answer.status], taken.log + passed.log).toEqual([200, 200]);
  expect([taken.exit, passed.exit], taken.log + passed.log).toEqual([0, 0]);
  tell('an upload over TLS', taken);
  tell('the proxy before it', passed);
  expect(await difference(at('disk.raw'), at('volume/disk.img'), SIZE)).toBeUndefined();
}, 180_000);

test('it is process 1, and SIGTERM ends it; the next one goes on', async () => {
  const slow = importing({ IMPORTER_ENDPOINT: `${server.url}/slow/disk.qcow2` });
  const stopped = await pod(['-v=1'], slow, undefined, AbortSignal.timeout(6000));
  expect([stopped.exit, await readFile(at('termination-log'), 'utf8')]).toEqual([1, 'stopped by SIGTERM']);
  const next = await pod(['-v=1'], slow);
  expect(next.exit, next.log).toBe(0);
  expect(next.log).toMatch(/"resumes":1/);
  expect(await difference(at('disk.raw'), at('volume/disk.img'))).toBeUndefined();
}, 120_000);

test('the command line is in it too', async () => {
  const version = await pod(['--version'], {});
  expect([version.exit, version.log]).toEqual([0, expect.stringMatching(/^\d+\.\d+\.\d+\n$/)]);
  const inspected = await pod(['inspect', `${server.url}/disk.qcow2`], {});
  expect([inspected.exit, inspected.log]).toEqual([0, expect.stringMatching(/image +qcow2/)]);
  const carried = await pod(['import', `${server.url}/disk.qcow2`, '/data/x.img', '--json', '--progress', 'none'], {
    DISKFERRY_STATE: '/data/state',
  });
  expect(carried.exit, carried.log).toBe(0);
  expect(await difference(at('disk.raw'), at('volume/x.img'))).toBeUndefined();
});
