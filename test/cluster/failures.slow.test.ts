// What a server may answer instead of the image: said in a sentence, tried again, and mended when the server is.
import { copyFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DataVolume } from '../../src/api/datavolume.ts';
import { bootableDisk, MiB, qcow2, sha256 } from '../support/images.ts';
import { type Nginx, nginx } from '../support/nginx.ts';
import { LOGIN } from '../support/registry.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import { claimOf, dataVolume, eventsOf } from './support/datavolumes.ts';
import { historyOf } from './support/history.ts';
import { secret } from './support/servers.ts';
import { until } from './support/until.ts';
import { digestOnClaim } from './support/volumes.ts';

const GROUP = 'cdi.kubevirt.io/v1beta1';
const CDI = 'cdi.kubevirt.io/';
const SIZE = 24 * MiB;
let kubernetes: Cluster;
let home: TempDir;
let site: Nginx;
const at = (name: string): string => join(home.path, name);

beforeAll(async () => {
  kubernetes = await cluster();
  home = await tempdir();
  await bootableDisk(at('disk.raw'), SIZE);
  await qcow2(at('disk.raw'), at('good.qcow2'));
  await bootableDisk(at('large.raw'), 100 * MiB);
  await qcow2(at('large.raw'), at('large.qcow2'));
  for (const { name } of FLOWS) await writeFile(at(`passwords-${name}`), `${LOGIN.username}:{PLAIN}another\n`);
  site = await nginx({
    root: home.path,
    address: kubernetes.host,
    server: FLOWS.map(
      ({ name }) =>
        `location /private-${name}/ { alias ${home.path}/; auth_basic "x"; auth_basic_user_file ${at(`passwords-${name}`)}; }`,
    ).join('\n'),
  });
}, 600_000);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
  await kubernetes?.[Symbol.asyncDispose]();
});

const FLOWS = [
  { name: 'prime', flow: 'by way of a prime', annotations: {} as Record<string, string> },
  { name: 'itself', flow: 'the claim itself', annotations: { [`${CDI}storage.usePopulator`]: 'false' } },
] as const;

interface Case {
  readonly name: string;
  /** Of the image, where each test has one of its own. */
  readonly path: (test: string) => string;
  /** What the server has at first, and what it has when it is right. */
  readonly wrong: (test: string) => Promise<unknown>;
  readonly right: (test: string) => Promise<unknown>;
  readonly says: RegExp;
}

const CASES: readonly Case[] = [
  {
    name: '404',
    path: (test) => `missing-${test}.qcow2`,
    wrong: async () => {},
    right: (test) => copyFile(at('good.qcow2'), at(`missing-${test}.qcow2`)),
    says: /^False Error Unable to connect to http data source: expected status code 200, got 404\. Status: 404 Not Found: .*404/,
  },
  {
    name: '401',
    path: (test) => `private-${test}/good.qcow2`,
    wrong: async () => {},
    right: (test) => writeFile(at(`passwords-${test}`), `${LOGIN.username}:{PLAIN}${LOGIN.password}\n`),
    says: /^False Error Unable to connect to http data source: expected status code 200, got 401\. Status: 401 Unauthorized: .*401/,
  },
  {
    name: 'a page',
    path: (test) => `page-${test}.html`,
    wrong: (test) => writeFile(at(`page-${test}.html`), '<!doctype html><html><body>Please log in</body></html>\n'),
    right: (test) => copyFile(at('good.qcow2'), at(`page-${test}.html`)),
    says: /^False Error Unable to connect to http data source: .*answered with a web page/,
  },
  {
    name: 'an image that is larger than the claim',
    path: (test) => `large-${test}.qcow2`,
    wrong: (test) => copyFile(at('large.qcow2'), at(`large-${test}.qcow2`)),
    right: async (test) => {
      await rm(at(`large-${test}.qcow2`));
      await copyFile(at('good.qcow2'), at(`large-${test}.qcow2`));
    },
    says: /^False Error DataVolume too small to contain image: .*104857600 .*is larger than the reported available/,
  },
];

describe.each(FLOWS)('$flow', (flow) => {
  test.concurrent.each(CASES)(
    '$name',
    async ({ path, wrong, right, says }) => {
      await using namespace = await kubernetes.namespace();
      using history = await historyOf<DataVolume>(kubernetes, namespace.path('datavolumes', GROUP));
      await wrong(flow.name);
      const login = secret('login', { accessKeyId: LOGIN.username, secretKey: LOGIN.password });
      await kubernetes.ask('POST', namespace.path('secrets'), login);
      const url = `http://${kubernetes.host}:${site.port}/${path(flow.name)}`;
      const dv = await dataVolume(kubernetes, namespace, 'disk', {
        annotations: flow.annotations,
        spec: {
          source: { http: { url, secretRef: 'login' } },
          pvc: {
            storageClassName: 'immediate',
            accessModes: ['ReadWriteOnce'],
            resources: { requests: { storage: '64Mi' } },
          },
        },
      });
      const sentence = await dv.says('Running', says, 30);
      expect(sentence).not.toContain(LOGIN.password);
      const { status } = await until('another try', 60, async () => {
        const found = await dv.now();
        return (found.status?.restartCount ?? 0) >= 1 && found;
      });
      expect(['ImportScheduled', 'ImportInProgress']).toContain(status?.phase);
      const claim = await claimOf(namespace, 'disk');
      const filled = claim.metadata?.annotations?.[`${CDI}storage.populator.pvcPrime`] ?? 'disk';
      const failed = (await eventsOf(kubernetes, namespace, 'PersistentVolumeClaim', filled)).filter((one) =>
        one.startsWith('Warning ErrImportFailed'),
      );
      expect(failed).toHaveLength(1);
      await right(flow.name);
      // The kubelet's own pauses: 10, 20, 40 seconds.
      await dv.reaches('Succeeded', 90);
      const digest = `sha256:${await digestOnClaim(kubernetes, namespace, 'disk', { bytes: SIZE })}`;
      expect(digest).toBe(await sha256(at('disk.raw')));
      const phases = history.steps(({ status }) => status?.phase || undefined);
      expect(phases).not.toContain('Failed');
      expect(phases.at(-1)).toBe('Succeeded');
      expect((await dv.now()).status?.restartCount).toBeGreaterThanOrEqual(1);
    },
    240_000,
  );
});
