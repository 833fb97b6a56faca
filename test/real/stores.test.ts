// Whole imports from object stores: killed, gone on with, and verified by what the store promises.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Cli, cli } from '../support/cli.ts';
import { difference, MiB, qcow2, rawDisk, sha256 } from '../support/images.ts';
import { freePort } from '../support/nginx.ts';
import { azureStore, gcsStore, KEY, type Store, s3Store } from '../support/stores.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';

let home: TempDir;
let program: Cli;
const at = (name: string): string => join(home.path, name);
const stores: Store[] = [];

/** How each is written, and what the environment must hold. */
type Written = readonly [source: (name: string) => string, env: Record<string, string>, options: readonly string[]];
const written: Record<string, Written> = {};

beforeAll(async () => {
  home = await tempdir();
  program = await cli(home.path);
  await rawDisk(at('disk.raw'), 96 * MiB);
  await qcow2(at('disk.raw'), at('disk.qcow2'), { compressed: true });
  const [s3, gcs, azure] = await Promise.all([s3Store(), gcsStore(), azureStore()]);
  stores.push(s3, gcs, azure);
  for (const store of stores) {
    await store.put('disk.qcow2', await readFile(at('disk.qcow2')));
    await store.put('disk.raw', await readFile(at('disk.raw')));
  }
  written.S3 = [
    (name) => `s3://images/${name}`,
    { AWS_ACCESS_KEY_ID: KEY.username, AWS_SECRET_ACCESS_KEY: KEY.password },
    ['--s3-endpoint', `http://127.0.0.1:${s3.port}`],
  ];
  written.GCS = [(name) => `gs://images/${name}`, { STORAGE_EMULATOR_HOST: `127.0.0.1:${gcs.port}` }, ['--anonymous']];
  const parts = [`AccountName=${azure.account}`, `AccountKey=${azure.key}`];
  const endpoint = `BlobEndpoint=http://127.0.0.1:${azure.port}/${azure.account}`;
  written.Azure = [
    (name) => `az://${azure.account}/images/${name}`,
    { AZURE_STORAGE_CONNECTION_STRING: [...parts, endpoint].join(';') },
    [],
  ];
}, 120_000);
afterAll(async () => {
  for (const store of stores) await store[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});

describe.each(['S3', 'GCS', 'Azure'])('%s', (name) => {
  test.each(['raw', 'qcow2'])(
    '%s: killed after a checkpoint, it goes on from there',
    async (format) => {
      const [source, env, options] = written[name] as Written;
      const target = at(`${name}.${format}`);
      const args = [source(`disk.${format}`), target, ...options];
      const killed = await program.killedAfter(5500, [...args, '--rate', '8MB/s'], { env });
      expect(killed.signal).toBe('SIGKILL');
      const report = await program.imported(args, { env });
      expect(report).toMatchObject({ resumes: 1, sourceDigest: await sha256(at(`disk.${format}`)) });
      expect(report.resumedAt).toBeGreaterThan(0);
      expect(await difference(at('disk.raw'), target)).toBeUndefined();
      expect(await program.imported(args, { env })).toMatchObject({ outcome: 'already-done' });
    },
    60_000,
  );

  test('is inspected with little traffic', async () => {
    const [source, env, options] = written[name] as Written;
    const ended = await program.run(['inspect', source('disk.qcow2'), '--json', ...options], { env });
    expect(ended.code, ended.stderr).toBe(0);
    const found = JSON.parse(ended.stdout);
    expect(found).toMatchObject({ source: { ranges: true }, image: { format: 'qcow2' }, plan: { resumable: true } });
    expect(found.traffic).toBeLessThanOrEqual(MiB);
    expect(found.source.name).toMatch(/(s3|gs|az|http):\/\/[^?]*disk\.qcow2$/);
    expect(ended.stdout).not.toContain(KEY.password);
  });
});

test('the credentials that the environment names are looked for in the built program too', async () => {
  const credentials = at('credentials.json');
  const nobody = `http://127.0.0.1:${await freePort()}/token`;
  await writeFile(
    credentials,
    JSON.stringify({
      type: 'external_account',
      audience: 'x',
      subject_token_type: 'urn:ietf:params:oauth:token-type:jwt',
      token_url: nobody,
      credential_source: { file: credentials },
    }),
  );
  const env = { GOOGLE_APPLICATION_CREDENTIALS: credentials, STORAGE_EMULATOR_HOST: '127.0.0.1:1' };
  const refused = await program.refused(['gs://images/disk.raw', at('nothing')], { env });
  expect(refused).toMatchObject({
    code: 'DENIED',
    message: expect.stringMatching(/no Google credentials.*ECONNREFUSED/),
  });
});
