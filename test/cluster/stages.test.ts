// A disk of an oVirt engine that is imported in stages: each by its own pod, paused between them, and right at the end.
import type { Pod } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Checkpoint, DataVolume } from '../../src/api/datavolume.ts';
import { FakeEngine } from '../support/engine.ts';
import { imageService } from '../support/imageio.ts';
import { sha256 } from '../support/images.ts';
import { LOGIN } from '../support/registry.ts';
import { FIRST, SECOND, SIZE, STATES, type States, shownBy, states, THIRD } from '../support/states.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import { dataVolume } from './support/datavolumes.ts';
import { historyOf } from './support/history.ts';
import { secret } from './support/servers.ts';
import { until } from './support/until.ts';
import { digestOnClaim } from './support/volumes.ts';

const GROUP = 'cdi.kubevirt.io/v1beta1';
const POPULATOR = 'cdi.kubevirt.io/storage.usePopulator';
const RATE = 64 * 2 ** 20;
let kubernetes: Cluster;
let home: TempDir;
let disk: States;
let stack: AsyncDisposableStack;
let api: string;

beforeAll(async () => {
  kubernetes = await cluster();
  home = await tempdir();
  disk = await states(home.path);
  stack = new AsyncDisposableStack();
  const reachable = async (port: number): Promise<string> =>
    `${kubernetes.host}:${stack.use(await kubernetes.reachable(port, { rate: RATE })).port}`;
  const images = stack.use(await imageService());
  const imagesAt = await reachable(images.port);
  const engine = stack.use(
    await FakeEngine.start({
      user: LOGIN.username,
      password: LOGIN.password,
      images: () => imagesAt,
      snapshots: STATES,
      show: (_, snapshot = THIRD, alone) => {
        const { file, options } = shownBy(disk.image(snapshot), alone);
        return images.show(file, SIZE, options);
      },
    }),
  );
  api = `http://${await reachable(Number(new URL(engine.api).port))}/ovirt-engine/api`;
}, 600_000);
afterAll(async () => {
  await stack?.disposeAsync();
  await home?.[Symbol.asyncDispose]();
  await kubernetes?.[Symbol.asyncDispose]();
});

test.each([
  ['by way of a prime', {}],
  ['the claim itself', { [POPULATOR]: 'false' }],
])(
  'three snapshots, of which the last is named later: %s',
  async (_, annotations) => {
    await using namespace = await kubernetes.namespace();
    await kubernetes.ask(
      'POST',
      namespace.path('secrets'),
      secret('login', { accessKeyId: LOGIN.username, secretKey: LOGIN.password }),
    );
    using pods = await historyOf<Pod>(kubernetes, namespace.path('pods'));
    const checkpoints: Checkpoint[] = [
      { previous: '', current: FIRST },
      { previous: FIRST, current: SECOND },
    ];
    const source = {
      imageio: { url: api, diskId: crypto.randomUUID(), secretRef: 'login', insecureSkipVerify: true },
    };
    const dv = await dataVolume(kubernetes, namespace, 'disk', {
      annotations,
      spec: {
        source,
        checkpoints,
        finalCheckpoint: false,
        pvc: {
          storageClassName: 'immediate',
          accessModes: ['ReadWriteOnce'],
          resources: { requests: { storage: '96Mi' } },
        },
      },
    });
    await dv.reaches('Paused', 90);
    const spec: DataVolume['spec'] = {
      checkpoints: [...checkpoints, { previous: SECOND, current: THIRD }],
      finalCheckpoint: true,
    };
    await kubernetes.ask('PATCH', namespace.path('datavolumes/disk', GROUP), { spec });
    await dv.reaches('Succeeded', 90);
    const digest = await digestOnClaim(kubernetes, namespace, 'disk', { bytes: SIZE });
    expect(`sha256:${digest}`).toBe(await sha256(disk.raw(THIRD)));
    const names = new Set(pods.states.map(({ metadata }) => metadata?.name ?? ''));
    const stages = [...names].filter((name) => name.startsWith('importer-'));
    expect(stages.map((name) => name.slice(-FIRST.length))).toEqual([FIRST, SECOND, THIRD]);
    const events = await until('the last event', 15, async () => {
      const found = await dv.events();
      return found.some((one) => one.includes('ImportSucceeded')) && found;
    });
    expect(events).toContain('Normal ImportPaused Multistage import into PVC disk is paused');
    expect(events.filter((one) => one.startsWith('Warning'))).toEqual([]);
  },
  300_000,
);
