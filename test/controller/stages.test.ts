import type { PersistentVolumeClaim, Pod } from 'kubernetes-types/core/v1.js';
import { describe, expect, test } from 'vitest';
import { ANNOTATION } from '../../src/api/claim.ts';
import type { Checkpoint, DataVolume, DataVolumeStatus } from '../../src/api/datavolume.ts';
import type { VolumeImportSource } from '../../src/api/populators.ts';
import { decideDataVolume } from '../../src/controller/decide/datavolume.ts';
import { decideImport, isOver } from '../../src/controller/decide/import.ts';
import { decidePopulation } from '../../src/controller/decide/population.ts';
import { decideStage, firstCursor, isCarried, isPaused, type Stages } from '../../src/controller/decide/stages.ts';
import {
  type ClaimOf,
  claim,
  container,
  dataVolume,
  HTTP,
  importing,
  importSeen,
  NOW,
  pod,
  storageClass,
} from './objects.ts';
import { annotations, made, status, words } from './words.ts';

const source = { imageio: { url: 'https://engine.example.org/ovirt-engine/api', diskId: 'disk', secretRef: 'login' } };
const [ONE, TWO]: Checkpoint[] = [
  { previous: '', current: 'one' },
  { previous: 'one', current: 'two' },
];
const stages = (checkpoints: readonly (Checkpoint | undefined)[], finalCheckpoint?: boolean): Stages => ({
  source,
  checkpoints: checkpoints as Checkpoint[],
  ...(finalCheckpoint === undefined ? {} : { finalCheckpoint }),
});
const OWNED = { kind: 'DataVolume', name: 'disk', uid: 'dv-uid' };
const cursor = (current: string, previous = '', final = 'false') => ({
  [ANNOTATION.currentCheckpoint]: current,
  [ANNOTATION.previousCheckpoint]: previous,
  [ANNOTATION.finalCheckpoint]: final,
});
const mark = (name: string) => ({ [`${ANNOTATION.copiedCheckpoint}${name}`]: 'pod-uid' });
const staged = (of: Readonly<Record<string, string>>, more: ClaimOf = {}) =>
  importing({ owner: OWNED, ...more, annotations: { [ANNOTATION.source]: 'imageio', ...of } });

describe('the cursor', () => {
  test('is at the first stage of a claim that is being made, and of no other', () => {
    expect(firstCursor(stages([ONE]))).toEqual(cursor('one'));
    expect(firstCursor(stages([ONE], true))).toEqual(cursor('one', '', 'true'));
    expect(firstCursor(stages([ONE, TWO], true))).toEqual(cursor('one'));
    expect(firstCursor(stages([{ previous: '', current: '' }, TWO], true))).toEqual(cursor('two', 'one', 'true'));
    expect(firstCursor(stages([]))).toEqual({});
    expect(firstCursor({ ...HTTP, checkpoints: [ONE as Checkpoint] })).toEqual({});
  });

  test('stays where it is while its stage is carried, whatever is named meanwhile', () => {
    const other = { previous: '', current: 'other' };
    for (const wanted of [stages([ONE, TWO]), stages([other]), stages([]), stages([ONE], true)])
      expect(decideStage(staged(cursor('one')), wanted)).toEqual([]);
  });

  test('moves on from a stage that was carried, only from what was seen', () => {
    const [moved, ...others] = decideStage(staged({ ...cursor('one'), ...mark('one') }), stages([ONE, TWO], true));
    expect(moved).toMatchObject({ act: 'patch', exact: true });
    expect(annotations(moved ? [moved] : [])).toEqual(cursor('two', 'one', 'true'));
    expect(others).toEqual([]);
  });

  test('waits where no other stage is named, and the last was not said to be it', () => {
    const carried = staged({ ...cursor('one'), ...mark('one') });
    expect(decideStage(carried, stages([ONE]))).toEqual([]);
    expect([isCarried(carried), isPaused(carried, stages([ONE]))]).toEqual([true, true]);
    expect(isPaused(carried, stages([ONE, TWO]))).toBe(false);
    expect(isPaused(carried, stages([ONE], true))).toBe(false);
    expect(isPaused(staged(cursor('one')), stages([ONE]))).toBe(false);
  });

  test('goes when the last was carried, with all marks, and then the claim is filled', () => {
    const last = staged({ ...cursor('two', 'one'), ...mark('one'), ...mark('two') });
    const decisions = decideStage(last, stages([ONE, TWO], true));
    expect(words(decisions)).toEqual(['patch PersistentVolumeClaim', 'tell Normal ImportSucceeded']);
    expect(annotations(decisions)).toEqual({
      [ANNOTATION.currentCheckpoint]: null,
      [ANNOTATION.previousCheckpoint]: null,
      [ANNOTATION.finalCheckpoint]: null,
      [`${ANNOTATION.copiedCheckpoint}one`]: null,
      [`${ANNOTATION.copiedCheckpoint}two`]: null,
      [ANNOTATION.checkpointsDone]: 'true',
      [ANNOTATION.podPhase]: 'Succeeded',
    });
    const filled = staged({ [ANNOTATION.checkpointsDone]: 'true', [ANNOTATION.podPhase]: 'Succeeded' });
    expect(decideStage(filled, stages([ONE, TWO, { previous: 'two', current: 'three' }], true))).toEqual([]);
  });
});

describe('the pod of a stage', () => {
  const ended = (more: object = {}) =>
    pod(
      {
        phase: 'Succeeded',
        containerStatuses: container({ terminated: { exitCode: 0, message: '{"message":"Import Complete"}' } }),
      },
      { name: 'importer-disk-checkpoint-one', ...more },
    );

  test('has a name of its own, and is told which stage', () => {
    const found = made<Pod>(decideImport(importSeen({ claim: staged(cursor('two', 'one', 'true')) })), 'Pod');
    expect(found?.metadata?.name).toBe('importer-disk-checkpoint-two');
    expect(found?.spec?.containers[0]?.env).toEqual(
      expect.arrayContaining([
        { name: 'IMPORTER_CURRENT_CHECKPOINT', value: 'two' },
        { name: 'IMPORTER_PREVIOUS_CHECKPOINT', value: 'one' },
        { name: 'IMPORTER_FINAL_CHECKPOINT', value: 'true' },
      ]),
    );
  });

  test('leaves a mark when it has ended well, and the claim is not filled yet', () => {
    const importPod = { [ANNOTATION.importPod]: 'importer-disk-checkpoint-one' };
    const decisions = decideImport(importSeen({ claim: staged({ ...cursor('one'), ...importPod }), pod: ended() }));
    expect(words(decisions)).toEqual(['patch PersistentVolumeClaim', 'delete Pod importer-disk-checkpoint-one']);
    expect(annotations(decisions)).toMatchObject({
      [ANNOTATION.podPhase]: 'Pending',
      [ANNOTATION.importPod]: null,
      ...mark('one'),
    });
  });

  test('is followed by none until the cursor moves; one that is left is taken away', () => {
    const carried = staged({ ...cursor('one'), ...mark('one') });
    expect(isOver(carried)).toBe(true);
    expect(decideImport(importSeen({ claim: carried }))).toEqual([]);
    expect(words(decideImport(importSeen({ claim: carried, pod: ended() })))).toEqual([
      'delete Pod importer-disk-checkpoint-one',
    ]);
    const next = staged({ ...cursor('two', 'one'), ...mark('one') });
    expect(words(decideImport(importSeen({ claim: next })))).toContain('create Pod importer-disk-checkpoint-two');
  });

  test('of a claim that nobody moves on is the whole import', () => {
    const bare = importing({ annotations: { [ANNOTATION.source]: 'imageio', ...cursor('one') } });
    const decisions = decideImport(importSeen({ claim: bare, pod: ended() }));
    expect(annotations(decisions)).toMatchObject({ [ANNOTATION.podPhase]: 'Succeeded' });
  });
});

const wanted = (spec: Stages): NonNullable<DataVolume['spec']> => ({ ...HTTP, ...spec });
const seen = (spec: Stages, more: object = {}) => ({
  dv: dataVolume(wanted(spec)),
  rendered: { spec: HTTP.pvc ?? {} },
  storageClass: storageClass(),
  csi: false,
  gates: { honorsConsumers: true, adoptsClaims: false },
  reserved: [],
  now: NOW,
  ...more,
});

describe('a DataVolume in stages', () => {
  test('makes a claim with the first', () => {
    const of = made<PersistentVolumeClaim>(decideDataVolume(seen(stages([ONE, TWO]))), 'PersistentVolumeClaim');
    expect(of?.metadata?.annotations).toMatchObject(cursor('one'));
  });

  test('is paused, and says so once; then goes on', () => {
    const carried = staged({ ...cursor('one'), ...mark('one') });
    const paused = decideDataVolume(seen(stages([ONE]), { claim: carried }));
    expect(status<DataVolumeStatus>(paused)?.phase).toBe('Paused');
    expect(paused).toContainEqual(
      expect.objectContaining({ reason: 'ImportPaused', message: 'Multistage import into PVC disk is paused' }),
    );
    const dv = { ...dataVolume(wanted(stages([ONE, TWO], true))), status: { phase: 'Paused' as const } };
    const on = decideDataVolume(seen({}, { dv, claim: carried }));
    expect(annotations(on)).toMatchObject(cursor('two', 'one', 'true'));
  });

  test('is filled when the last is there', () => {
    const filled = staged({ [ANNOTATION.checkpointsDone]: 'true', [ANNOTATION.podPhase]: 'Succeeded' });
    expect(status<DataVolumeStatus>(decideDataVolume(seen(stages([ONE], true), { claim: filled })))?.phase).toBe(
      'Succeeded',
    );
  });

  test('tells what its claim is filled from, and what came since', () => {
    const first = decideDataVolume(seen(stages([ONE]), { csi: true }));
    const of = made<VolumeImportSource>(first, 'VolumeImportSource');
    expect(of?.spec).toMatchObject({ targetClaim: 'disk', checkpoints: [ONE] });
    const stored = {
      metadata: { ...of?.metadata, uid: 's', resourceVersion: '1' },
      spec: of?.spec,
    };
    const target = claim({
      owner: OWNED,
      phase: 'Pending',
      annotations: { [ANNOTATION.usePopulator]: 'true', [ANNOTATION.createdForDataVolume]: 'dv-uid' },
    });
    const patches = (spec: Stages) =>
      decideDataVolume(seen(spec, { csi: true, claim: target, source: stored })).filter(
        (one) => one.act === 'patch' && one.subject.resource.kind === 'VolumeImportSource',
      );
    expect(patches(stages([ONE]))).toEqual([]);
    expect(patches(stages([ONE], false))).toEqual([]);
    expect(patches(stages([ONE, TWO], true))).toMatchObject([
      { patch: { spec: { checkpoints: [ONE, TWO], finalCheckpoint: true } } },
    ]);
  });
});

describe('a claim in the place of another', () => {
  const target = claim({
    phase: 'Pending',
    spec: {
      dataSourceRef: { apiGroup: 'cdi.kubevirt.io', kind: 'VolumeImportSource', name: 'from' },
      storageClassName: 'fast',
    },
  });
  const from = (spec: Stages) => ({
    metadata: { name: 'from', namespace: 'ns', uid: 's', resourceVersion: '1' },
    spec: { ...spec, targetClaim: 'disk' } as never,
  });
  const prime = (of: Readonly<Record<string, string>>) =>
    staged(of, {
      name: 'prime-claim-uid',
      uid: 'prime-uid',
      owner: { kind: 'PersistentVolumeClaim', name: 'disk', uid: 'claim-uid' },
    });

  test('begins with the first stage', () => {
    const first = decidePopulation({ target, source: from(stages([ONE, TWO])), storageClass: storageClass() });
    expect(made<PersistentVolumeClaim>(first, 'PersistentVolumeClaim')?.metadata?.annotations).toMatchObject({
      ...cursor('one'),
      [ANNOTATION.importPod]: 'importer-prime-claim-uid-checkpoint-one',
    });
  });

  test('is moved on, and keeps its volume until the last is there', () => {
    const carried = prime({ ...cursor('one'), ...mark('one') });
    const volume = {
      metadata: { name: 'volume', uid: 'v', resourceVersion: '1' },
      spec: { claimRef: { uid: 'prime-uid' } },
    };
    const decide = (of: typeof carried, spec: Stages) =>
      decidePopulation({ target, source: from(spec), storageClass: storageClass(), prime: of, volume });
    const on = decide(carried, stages([ONE, TWO]));
    expect(words(on)).toEqual(['patch PersistentVolumeClaim', 'patch PersistentVolumeClaim']);
    expect(annotations(on)).toMatchObject(cursor('two', 'one'));
    expect(words(decide(carried, stages([ONE])))).toEqual(['patch PersistentVolumeClaim']);
    const filled = prime({ [ANNOTATION.checkpointsDone]: 'true', [ANNOTATION.podPhase]: 'Succeeded' });
    expect(words(decide(filled, stages([ONE], true)))).toContain('patch PersistentVolume');
  });
});
