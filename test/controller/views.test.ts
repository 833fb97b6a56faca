// What is worked out of all imports together: right after each change, and not for each of them anew.
import { beforeEach, expect, test } from 'vitest';
import { ANNOTATION } from '../../src/api/claim.ts';
import { Views } from '../../src/controller/views.ts';
import { World } from '../../src/controller/world.ts';
import { importing, importSeen, pod } from './objects.ts';

const PER_NODE = 10;
let world: World;
let views: Views;
let version: number;
beforeEach(() => {
  // Nothing is watched: what is in it, tests put there.
  world = new World(undefined as never, () => undefined);
  views = new Views(world, importSeen().settings, () => undefined);
  version = 0;
});

const claimed = (name: string, annotations: Record<string, string> = {}): void => {
  version += 1;
  const made = importing({ name, uid: `uid-${name}`, annotations: { ...annotations } });
  world.claims.take({ ...made, metadata: { ...made.metadata, resourceVersion: String(version) } });
};
const podOf = (name: string, nodeName: string | undefined, status: object = { phase: 'Pending' }): void => {
  version += 1;
  const { metadata, spec } = pod();
  world.pods.take({
    metadata: { ...metadata, name: `importer-${name}`, uid: `pod-${name}`, resourceVersion: String(version) },
    spec: { ...spec, ...(nodeName === undefined ? {} : { nodeName }) },
    status,
  });
};
const names = Array.from({ length: PER_NODE + 5 }, (_, n) => `disk-${n}`);
const waiting = (): number => views.turns.size;

test('whoever the scheduler has found a node for makes room for another', () => {
  for (const name of names) claimed(name);
  expect(waiting()).toBe(5);
  for (const name of names.slice(0, PER_NODE)) podOf(name, undefined);
  expect(waiting()).toBe(5);
  // Looked at, and in vain.
  podOf('disk-2', undefined, { phase: 'Pending', conditions: [{ type: 'PodScheduled', status: 'False' }] });
  expect(waiting()).toBe(4);
  podOf('disk-0', 'n1');
  expect(waiting()).toBe(4);
  // Each node may have as many.
  podOf('disk-1', 'n2');
  expect(waiting()).toBe(0);
});

test('one for which a pod is being made has it already', () => {
  for (const name of names) claimed(name);
  const first = views.turns;
  expect(views.turns).toBe(first);
  views.starts('ns/disk-14');
  expect(views.turns).not.toBe(first);
  expect(views.turns.has('ns/disk-14')).toBe(false);
  expect(waiting()).toBe(5);
  views.isStarted('ns/disk-14');
  expect(views.turns.has('ns/disk-9')).toBe(true);
});

test('what is over is not looked at', () => {
  for (const name of names) claimed(name);
  for (const name of names.slice(0, 3)) claimed(name, { [ANNOTATION.podPhase]: 'Succeeded' });
  for (const name of names.slice(3, 5)) claimed(name, { [ANNOTATION.fatalError]: 'true' });
  expect(waiting()).toBe(0);
  expect(world.claims.by('importing', '')).toHaveLength(PER_NODE);
});
