import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import { expect, test } from 'vitest';
import { ANNOTATION } from '../../src/api/claim.ts';
import { decidePopulation, type PopulationSeen, primeName } from '../../src/controller/decide/population.ts';
import { type ClaimOf, claim, importing, storageClass } from './objects.ts';
import { annotations, made, words } from './words.ts';

const REF = {
  dataSourceRef: { apiGroup: 'cdi.kubevirt.io', kind: 'VolumeImportSource', name: 'from' },
  storageClassName: 'fast',
};
const target = (more: ClaimOf = {}) => claim({ phase: 'Pending', ...more, spec: { ...REF, ...more.spec } });
const source = {
  metadata: { name: 'from', namespace: 'ns', uid: 's', resourceVersion: '1' },
  spec: { source: { http: { url: 'https://images.example.org/disk.qcow2' } } },
};
const prime = (more: ClaimOf = {}) =>
  importing({
    name: 'prime-claim-uid',
    uid: 'prime-uid',
    owner: { kind: 'PersistentVolumeClaim', name: 'disk', uid: 'claim-uid' },
    ...more,
  });
const seen = (more: Partial<PopulationSeen> = {}): PopulationSeen => ({
  target: target(),
  source,
  storageClass: storageClass(),
  ...more,
});

test('a prime is made beside the target, as large and of the same class, with what it is filled with', () => {
  const decisions = decidePopulation(seen());
  expect(words(decisions)).toEqual([
    'create PersistentVolumeClaim prime-claim-uid',
    'tell Normal CreatedPVCPrimeSuccessfully',
  ]);
  const made1 = made<PersistentVolumeClaim>(decisions, 'PersistentVolumeClaim');
  expect(made1?.spec).toEqual({
    accessModes: ['ReadWriteOnce'],
    resources: { requests: { storage: '1Gi' } },
    storageClassName: 'fast',
  });
  expect(made1?.metadata?.annotations).toMatchObject({
    [ANNOTATION.source]: 'http',
    [ANNOTATION.immediate]: '',
    [ANNOTATION.populatorKind]: 'VolumeImportSource',
  });
  expect(primeName(target())).toBe('prime-claim-uid');
});

test('a class that waits for a consumer waits, until a node is chosen or nobody is to be waited for', () => {
  const waiting = storageClass('csi', 'WaitForFirstConsumer');
  expect(decidePopulation(seen({ storageClass: waiting }))).toEqual([]);
  const chosen = target({ annotations: { [ANNOTATION.selectedNode]: 'n1' } });
  const of = made<PersistentVolumeClaim>(
    decidePopulation(seen({ storageClass: waiting, target: chosen })),
    'PersistentVolumeClaim',
  );
  expect(of?.metadata?.annotations?.[ANNOTATION.selectedNode]).toBe('n1');
  const immediate = target({ annotations: { [ANNOTATION.immediate]: 'true' } });
  expect(words(decidePopulation(seen({ storageClass: waiting, target: immediate })))).toContain(
    'create PersistentVolumeClaim prime-claim-uid',
  );
});

test.each([
  ['a source that is missing', { source: undefined }, 'VolumeImportSource from does not exist'],
  ['a class that is missing', { storageClass: undefined }, 'storage class fast does not exist'],
  [
    'a source for another claim',
    { source: { ...source, spec: { ...source.spec, targetClaim: 'other' } } },
    'is for the claim other only',
  ],
  [
    'a provisioner that takes no sources',
    { storageClass: storageClass('kubernetes.io/no-provisioner') },
    'takes no dataSourceRef',
  ],
])('%s is told on the target', (_, of, message) => {
  const { source: from, storageClass: type, ...rest } = { ...seen(), ...of } as PopulationSeen;
  const decisions = decidePopulation({
    ...rest,
    ...(from ? { source: from } : {}),
    ...(type ? { storageClass: type } : {}),
  });
  expect(words(decisions)).toEqual(['patch PersistentVolumeClaim']);
  expect(annotations(decisions)[ANNOTATION.boundMessage]).toContain(message);
});

test('what is known of the prime stands on the target', () => {
  const of = prime({
    annotations: { [ANNOTATION.podPhase]: 'Running', [ANNOTATION.podRestarts]: '2', [ANNOTATION.running]: 'true' },
  });
  expect(annotations(decidePopulation(seen({ prime: of, progress: '12.00%' })))).toMatchObject({
    [ANNOTATION.podPhase]: 'Running',
    [ANNOTATION.podRestarts]: '2',
    [ANNOTATION.populatorProgress]: '12.00%',
    [ANNOTATION.prime]: 'prime-claim-uid',
  });
});

test('when the prime is full, the target gets its volume; then the prime goes', () => {
  const full = prime({ annotations: { [ANNOTATION.podPhase]: 'Succeeded' } });
  const volume = {
    metadata: { name: 'pv', uid: 'pv', resourceVersion: '7' },
    spec: { claimRef: { uid: 'prime-uid' } },
  };
  const decisions = decidePopulation(seen({ prime: full, volume }));
  expect(words(decisions)).toEqual([
    'patch PersistentVolumeClaim',
    'patch PersistentVolume',
    'tell Normal importSucceeded',
  ]);
  expect(decisions).toContainEqual(
    expect.objectContaining({
      act: 'patch',
      exact: true,
      patch: { spec: { claimRef: expect.objectContaining({ name: 'disk', uid: 'claim-uid' }) } },
    }),
  );
  const labelled = {
    ...full,
    metadata: { ...full.metadata, labels: { 'instancetype.kubevirt.io/default': 'x', app: 'y' } },
  };
  expect(decidePopulation(seen({ prime: labelled, volume }))[0]).toEqual(
    expect.objectContaining({ patch: { metadata: { labels: { 'instancetype.kubevirt.io/default': 'x' } } } }),
  );
  const others = { ...volume, spec: { claimRef: { uid: 'claim-uid' } } };
  expect(words(decidePopulation(seen({ prime: full, volume: others })))).toEqual(['patch PersistentVolumeClaim']);
  const bound = target({ phase: 'Bound', spec: { volumeName: 'pv' } });
  const lost = prime({ phase: 'Lost', annotations: { [ANNOTATION.podPhase]: 'Succeeded' } });
  expect(words(decidePopulation(seen({ target: bound, prime: lost })))).toEqual([
    'patch PersistentVolumeClaim',
    'delete PersistentVolumeClaim prime-claim-uid',
  ]);
});

test('a claim of the name that was not made for the target is never used', () => {
  const foreign = importing({ name: 'prime-claim-uid', annotations: { [ANNOTATION.podPhase]: 'Succeeded' } });
  const decisions = decidePopulation(
    seen({
      prime: foreign,
      volume: {
        metadata: { name: 'pv', uid: 'pv', resourceVersion: '1' },
        spec: { claimRef: { uid: foreign.metadata.uid } },
      },
    }),
  );
  expect(words(decisions)).toEqual(['patch PersistentVolumeClaim', 'again']);
  expect(annotations(decisions)[ANNOTATION.boundReason]).toBe('PrimeNameTaken');
});
