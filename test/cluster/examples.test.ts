// The examples, literally: applied with kubectl, and what comes of them read by another program.
import { execFile } from 'node:child_process';
import { chown, mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { partsOf, places } from './layout.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import type { Namespace } from './support/namespace.ts';
import { until } from './support/until.ts';
import { digestOnClaim } from './support/volumes.ts';

const MiB = 1024 * 1024;
/** Of the example's disk; what follows on the volume are zeros. */
const SIZE = 64 * MiB;
const USER = 107;
let kubernetes: Cluster;
let digest: string;
const disks: string[] = [];

beforeAll(async () => {
  kubernetes = await cluster();
  digest = (await readFile(join(places(kubernetes.layout).site, 'example.raw.sha256'), 'utf8')).slice(0, 64);
  // What the examples say is to be done on the node.
  for (const node of kubernetes.nodes)
    for (const name of ['example', 'local']) {
      const path = join(partsOf(node).lib, 'disks', name);
      await mkdir(path, { recursive: true });
      await chown(path, USER, USER);
      disks.push(path);
    }
}, 600_000);
afterAll(async () => {
  for (const path of disks) await rm(path, { recursive: true, force: true });
  await kubernetes?.[Symbol.asyncDispose]();
});

test.each([
  ['datavolume-http.yaml', 'example-http'],
  ['datavolume-block.yaml', 'example-block'],
  ['datavolume-hostpath.yaml', 'example-hostpath'],
  ['datavolume-local.yaml', 'example-local'],
  ['claim.yaml', 'example-claim'],
  ['populator.yaml', 'example-populated'],
])(
  '%s',
  async (file, claim) => {
    const text = await readFile(join('examples', file), 'utf8');
    await using namespace = await kubernetes.namespace();
    const apply = ['-n', namespace.name, '-f', '-'];
    await kubernetes.kubectl(['apply', ...apply], text);
    try {
      if (text.includes('kind: DataVolume'))
        await kubernetes.kubectl(
          ['wait', '--for=jsonpath={.status.phase}=Succeeded', `dv/${claim}`, '--timeout=90s', '-n', namespace.name],
          undefined,
          100,
        );
      await filled(namespace, claim);
      expect(await digestOnClaim(kubernetes, namespace, claim, { bytes: SIZE })).toBe(digest);
    } finally {
      await kubernetes.kubectl(['delete', '--ignore-not-found', '--timeout=60s', ...apply], text, 70);
    }
  },
  180_000,
);

test('datavolume-blank.yaml', async () => {
  const text = await readFile('examples/datavolume-blank.yaml', 'utf8');
  await using namespace = await kubernetes.namespace();
  await kubernetes.kubectl(['apply', '-n', namespace.name, '-f', '-'], text);
  await kubernetes.kubectl(
    ['wait', '--for=jsonpath={.status.phase}=Succeeded', 'dv/example-blank', '--timeout=90s', '-n', namespace.name],
    undefined,
    100,
  );
  const zeros = 'cmp -n 67108864 /data/disk.img /dev/zero && stat -c %s /data/disk.img';
  const size = await namespace.run('zeros', { command: ['sh', '-euc', zeros], mounts: { 'example-blank': '/data' } });
  expect(Number(size)).toBeGreaterThan(900 * MiB);
}, 180_000);

test('cluster.sh', async () => {
  const { name, directory } = kubernetes.layout;
  const env = { ...process.env, DISKFERRY_CLUSTER_NAME: name, DISKFERRY_CLUSTER: directory };
  const { stdout } = await promisify(execFile)('examples/cluster.sh', { env, timeout: 200_000 });
  expect(stdout).toContain(`on the volume  ${digest}\nof the image   ${digest}\n`);
  expect(stdout).toMatch(/^example-http +Succeeded +100\.0%/m);
  await kubernetes.kubectl(['delete', 'pod/example-look', 'datavolume/example-http', '-n', 'default'], undefined, 90);
}, 240_000);

/** Bound, and said to be filled. */
async function filled(namespace: Namespace, claim: string): Promise<void> {
  interface Claim {
    readonly metadata: { readonly annotations?: Readonly<Record<string, string>> };
    readonly status: { readonly phase: string };
  }
  await until(`claim ${claim} is filled`, 90, async () => {
    const found = await namespace.found<Claim>('persistentvolumeclaims', claim);
    return (
      found?.status.phase === 'Bound' &&
      found.metadata.annotations?.['cdi.kubevirt.io/storage.pod.phase'] === 'Succeeded'
    );
  });
}
