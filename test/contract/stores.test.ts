import { createHmac, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { SourceOptions } from '../../src/dataplane/source.ts';
import { openSource } from '../../src/dataplane/sources/index.ts';
import { addressOf } from '../../src/dataplane/sources/s3.ts';
import { FaultProxy } from '../faults/proxy.ts';
import { collect, testContext, thrown } from '../support/context.ts';
import { azureStore, gcsStore, KEY, type Store, s3Store } from '../support/stores.ts';
import { tempdir } from '../support/tempdir.ts';
import { type Subject, sourceContract } from './source.ts';

const content = randomBytes(4_000_001);
let s3: Awaited<ReturnType<typeof s3Store>>;
let gcs: Awaited<ReturnType<typeof gcsStore>>;
let azure: Awaited<ReturnType<typeof azureStore>>;

beforeAll(async () => {
  [s3, gcs, azure] = await Promise.all([s3Store(), gcsStore(), azureStore()]);
}, 60_000);
afterAll(async () => {
  for (const store of [s3, gcs, azure]) await store?.[Symbol.asyncDispose]();
});

/** Source and options for an object, where the store is seen at `port`. */
type Written = (name: string, port: number) => readonly [string, SourceOptions];

const atS3: Written = (name, port) => [
  `s3://images/${name}`,
  { s3: { endpoint: `http://127.0.0.1:${port}` }, credentials: KEY },
];
const atGcs: Written = (name, port) => [
  `gs://images/${name}`,
  { environment: { STORAGE_EMULATOR_HOST: `127.0.0.1:${port}` }, anonymous: true },
];
const atAzure: Written = (name, port) => [
  `az://${azure.account}/images/${name}`,
  { environment: { AZURE_STORAGE_CONNECTION_STRING: connection(port, `AccountKey=${azure.key}`) } },
];

function connection(port: number, secret: string): string {
  return `AccountName=${azure.account};${secret};BlobEndpoint=http://127.0.0.1:${port}/${azure.account};`;
}

let subjects = 0;
async function subject(store: Store, written: Written): Promise<Subject> {
  subjects += 1;
  const name = `disk-${subjects}.img`;
  await store.put(name, content);
  const proxy = await FaultProxy.start({ port: store.port });
  const [source, options] = written(name, proxy.port);
  return {
    content,
    proxy,
    open: (context) => openSource(source, options, context),
    replace: () => store.put(name, randomBytes(content.length)),
    [Symbol.asyncDispose]: () => proxy[Symbol.asyncDispose](),
  };
}

const FACTS = { ranges: true, length: true, validator: true, remote: true };
sourceContract('S3', FACTS, () => subject(s3, atS3));
sourceContract('Google Cloud Storage', FACTS, () => subject(gcs, atGcs));
sourceContract('Azure Blob Storage', FACTS, () => subject(azure, atAzure));

const whole = async ([source, options]: readonly [string, SourceOptions]): Promise<Buffer> => {
  const context = testContext();
  await using opened = await openSource(source, options, context);
  return await collect(opened.read({ from: 0 }, context.signal));
};

describe('names', () => {
  test.each([
    ['S3', () => s3, atS3],
    ['Google Cloud Storage', () => gcs, atGcs],
    ['Azure', () => azure, atAzure],
  ] as const)('of objects may hold anything: %s', async (kind, store, written) => {
    for (const name of ['a b+c.img', "it's(1)!*.img", 'ä&=~.img', ...(kind === 'Azure' ? [] : ['50% #1 ?.img'])]) {
      const body = Buffer.from(name.repeat(100));
      await store().put(kind === 'Azure' ? encodeURIComponent(name) : name, body);
      expect((await whole(written(name, store().port))).equals(body), name).toBe(true);
    }
  });

  test.each([
    's3://bucket',
    's3://bucket/',
    's3:///key',
    's3://bucket/a/../b',
    'gs://bucket',
    'az://account/container',
  ])('that are none are refused: %s', async (text) => {
    expect(await thrown(openSource(text, {}, testContext()))).toMatchObject({ code: 'BAD_SPEC' });
  });

  test('of versions may be malformed', async () => {
    const [, options] = atS3('x', s3.port);
    const error = await thrown(openSource('s3://images/x?versionId=%zz', options, testContext()));
    expect(error.code).toMatch(/NOT_FOUND|UNSUPPORTED/);
  });

  test('of buckets are hosts at Amazon, where a certificate can be for them', () => {
    const at = (bucket: string, region = 'eu-west-1', endpoint?: string): string =>
      addressOf(bucket, 'a b/c', region, endpoint === undefined ? undefined : new URL(endpoint)).href;
    expect(at('images')).toBe('https://images.s3.eu-west-1.amazonaws.com/a%20b/c');
    expect(at('my.images')).toBe('https://s3.eu-west-1.amazonaws.com/my.images/a%20b/c');
    expect(at('images', 'cn-north-1')).toBe('https://images.s3.cn-north-1.amazonaws.com.cn/a%20b/c');
    expect(at('images', 'x', 'https://minio.local:9000/s3/')).toBe('https://minio.local:9000/s3/images/a%20b/c');
  });
});

describe('what is denied says why', () => {
  const cases: readonly [string, () => readonly [string, SourceOptions], object][] = [
    ['no such bucket', () => [`s3://nothing/x`, atS3('x', s3.port)[1]], { code: 'NOT_FOUND' }],
    ['no such key', () => atS3('nothing', s3.port), { code: 'NOT_FOUND', message: /404 \(NoSuchKey: / }],
    [
      'a wrong secret',
      () => ['s3://images/x', { ...atS3('x', s3.port)[1], credentials: { ...KEY, password: 'wrong-secret' } }],
      { code: 'DENIED', message: /403 \(SignatureDoesNotMatch: .*sent were an access key$/ },
    ],
    [
      'nobody',
      () => ['s3://images/x', { s3: { endpoint: `http://127.0.0.1:${s3.port}` }, anonymous: true }],
      { code: 'DENIED', message: /AccessDenied.*sent were no credentials/ },
    ],
    ['no such object', () => atGcs('nothing', gcs.port), { code: 'NOT_FOUND' }],
    ['no such blob', () => atAzure('nothing', azure.port), { code: 'NOT_FOUND', message: /BlobNotFound/ }],
    [
      'a wrong key',
      () => {
        const secret = `AccountKey=${Buffer.from('wrong').toString('base64')}`;
        const environment = { AZURE_STORAGE_CONNECTION_STRING: connection(azure.port, secret) };
        return [`az://${azure.account}/images/x`, { environment }];
      },
      { code: 'DENIED', message: /403 \(AuthorizationFailure: .*sent were an account key$/ },
    ],
    [
      'a wrong shared access signature',
      () => {
        const sas = `SharedAccessSignature=sv=2021-12-02&sr=c&sp=r&se=2099-01-01T00:00:00Z&sig=c2VjcmV0`;
        const environment = { AZURE_STORAGE_CONNECTION_STRING: connection(azure.port, sas) };
        return [`az://${azure.account}/images/x`, { environment }];
      },
      { code: 'DENIED', message: /403 .*sent were a shared access signature$/ },
    ],
  ];
  test.each(cases)('%s', async (_, written, expected) => {
    const error = await thrown(whole(written()));
    const { message, ...others } = expected as { message?: RegExp };
    expect(error).toMatchObject(others);
    if (message) expect(error.message).toMatch(message);
    expect(error.message).not.toMatch(/wrong-secret|c2VjcmV0|AKID/);
  });
});

test('S3: credentials that end in the middle are renewed, and the transfer goes on', async () => {
  await s3.put('renewed.img', content);
  await using home = await tempdir();
  const profile = join(home.path, 'credentials');
  const login = (access: string): Promise<void> =>
    writeFile(profile, `[default]\naws_access_key_id = ${access}\naws_secret_access_key = secret-of-${access}\n`);
  for (const access of ['FIRSTUSER', 'SECONDUSER']) await s3.user(access, `secret-of-${access}`);
  await login('FIRSTUSER');
  vi.stubEnv('AWS_SHARED_CREDENTIALS_FILE', profile);
  vi.stubEnv('AWS_CONFIG_FILE', join(home.path, 'none'));
  vi.stubEnv('AWS_EC2_METADATA_DISABLED', 'true');
  try {
    const context = testContext();
    const options: SourceOptions = { s3: { endpoint: `http://127.0.0.1:${s3.port}` } };
    await using source = await openSource('s3://images/renewed.img', options, context);
    const first = await collect(source.read({ from: 0, to: 2_000_000 }, context.signal));
    await s3.forget('FIRSTUSER');
    await login('SECONDUSER');
    const second = await collect(source.read({ from: 2_000_000 }, context.signal));
    expect(Buffer.concat([first, second]).equals(content)).toBe(true);
    // Without others it is an error, told at once.
    await s3.forget('SECONDUSER');
    const error = await thrown(collect(source.read({ from: 2_000_000 }, context.signal)));
    expect(error).toMatchObject({ code: 'DENIED', retryable: false });
  } finally {
    vi.unstubAllEnvs();
  }
});

test('S3: without credentials anywhere a public object is asked for without', async () => {
  vi.stubEnv('AWS_EC2_METADATA_DISABLED', 'true');
  vi.stubEnv('AWS_SHARED_CREDENTIALS_FILE', '/nonexistent');
  vi.stubEnv('AWS_CONFIG_FILE', '/nonexistent');
  try {
    const options: SourceOptions = { s3: { endpoint: `http://127.0.0.1:${s3.port}` } };
    const error = await thrown(openSource('s3://images/x', options, testContext()));
    expect(error.message).toMatch(/AccessDenied.*no credentials: none were found in the environment, a profile or/);
  } finally {
    vi.unstubAllEnvs();
  }
});

test('Azure: a shared access signature opens what it is for, and is shown nowhere', async () => {
  await azure.put('shared.img', content);
  const expiry = '2099-01-01T00:00:00Z';
  const resource = `/blob/${azure.account}/images`;
  // "Create a service SAS", version 2020-12-06 and later.
  const fields = ['r', '', expiry, resource, '', '', '', '2021-12-02', 'c', '', '', '', '', '', '', ''];
  const sig = createHmac('sha256', Buffer.from(azure.key, 'base64')).update(fields.join('\n')).digest('base64');
  const sas = new URLSearchParams({ sv: '2021-12-02', sr: 'c', sp: 'r', se: expiry, sig });
  const environment = {
    AZURE_STORAGE_CONNECTION_STRING: connection(azure.port, `SharedAccessSignature=${sas}`),
  };
  const context = testContext();
  await using source = await openSource(`az://${azure.account}/images/shared.img`, { environment }, context);
  expect((await collect(source.read({ from: 0 }, context.signal))).equals(content)).toBe(true);
  expect(JSON.stringify([source.name, source.details])).not.toContain(encodeURIComponent(sig));
});

describe('Google Cloud Storage', () => {
  test('promises a CRC, and pins the generation', async () => {
    await gcs.put('pinned.img', content);
    const context = testContext();
    await using source = await openSource(...atGcs('pinned.img', gcs.port), context);
    expect(source.facts.digest).toMatchObject({ algorithm: 'crc32c', hex: expect.stringMatching(/^[0-9a-f]{8}$/) });
  });

  test('gives a token that has ended for a new one, and goes on', async () => {
    await gcs.put('token.img', content);
    await using home = await tempdir();
    let issued = 0;
    // What Google's security token service and its front door do: tokens for a workload's identity, and only the last
    // one counts.
    const front = createServer((incoming, outgoing) => {
      if (incoming.url === '/token') {
        issued += 1;
        incoming.resume();
        outgoing.setHeader('content-type', 'application/json');
        outgoing.end(
          JSON.stringify({
            access_token: `token-${issued}`,
            token_type: 'Bearer',
            expires_in: 3600,
            issued_token_type: 'x',
          }),
        );
        return;
      }
      if (incoming.headers.authorization !== `Bearer token-${valid}`) {
        outgoing.writeHead(401, { 'content-type': 'application/json' });
        outgoing.end(JSON.stringify({ error: { code: 401, message: 'Invalid Credentials' } }));
        return;
      }
      const { url: path, headers } = incoming;
      const onward = request({ port: gcs.port, host: '127.0.0.1', path, headers }, (answer) => {
        outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(outgoing);
      });
      onward.end();
    });
    let valid = 1;
    front.listen(0, '127.0.0.1');
    await once(front, 'listening');
    const { port } = front.address() as AddressInfo;
    const subject = join(home.path, 'subject');
    await writeFile(subject, 'a token of the cluster');
    const credentials = join(home.path, 'credentials.json');
    await writeFile(
      credentials,
      JSON.stringify({
        type: 'external_account',
        audience: '//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q',
        subject_token_type: 'urn:ietf:params:oauth:token-type:jwt',
        token_url: `http://127.0.0.1:${port}/token`,
        credential_source: { file: subject },
      }),
    );
    vi.stubEnv('GOOGLE_APPLICATION_CREDENTIALS', credentials);
    try {
      const context = testContext();
      const environment = { STORAGE_EMULATOR_HOST: `127.0.0.1:${port}`, GOOGLE_APPLICATION_CREDENTIALS: credentials };
      await using source = await openSource('gs://images/token.img', { environment }, context);
      const first = await collect(source.read({ from: 0, to: 2_000_000 }, context.signal));
      valid = 2;
      const second = await collect(source.read({ from: 2_000_000 }, context.signal));
      expect(Buffer.concat([first, second]).equals(content)).toBe(true);
      expect(issued).toBe(2);
      valid = 99;
      const error = await thrown(collect(source.read({ from: 2_000_000 }, context.signal)));
      expect(error).toMatchObject({ code: 'DENIED', retryable: false });
      expect(error.message).toMatch(/401 \(Invalid Credentials\): access denied; sent were an access token/);
    } finally {
      vi.unstubAllEnvs();
      front.close();
    }
  });
});
