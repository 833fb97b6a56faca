import type { PersistentVolume } from 'kubernetes-types/core/v1.js';
import { describe, expect, test } from 'vitest';
import type { StorageSpec } from '../../src/api/datavolume.ts';
import { type Rendered, renderClaim, type Seen } from '../../src/profile/render.ts';
import { ofClaim, ofDataVolume, type Wanted } from '../../src/profile/wanted.ts';
import { IS_DEFAULT, IS_VIRT_DEFAULT, profile, storageClass, volume } from './cluster.ts';

const FAST = storageClass('fast', { metadata: { annotations: IS_DEFAULT } });
const VIRT = storageClass('virt', { metadata: { annotations: IS_VIRT_DEFAULT } });
const config = {
  status: { filesystemOverhead: { global: '0.06', storageClass: { fast: '0.1', virt: '0', bare: '0.5' } } },
};

function seen(more: Partial<Seen> = {}): Seen {
  const profiles = [profile('fast', 'RWX-B RWO-B RWO-F ROX-F'), profile('virt', 'RWO-F')];
  return { storageClasses: [FAST, VIRT, storageClass('bare')], profiles, volumes: [], config, ...more };
}

const size = (storage: string): StorageSpec => ({ resources: { requests: { storage } } });

function wanted(storage: StorageSpec, more: Partial<Wanted> = {}): Wanted {
  return { kind: 'DataVolume', namespace: 'vms', name: 'disk', size: 'disk', storage, ...more };
}

/** `fast RWO-F 10Gi`, or the message. */
function short(rendered: Rendered): string {
  if (!('spec' in rendered)) return rendered.message;
  const { storageClassName, accessModes = [], volumeMode, resources } = rendered.spec;
  const modes = accessModes.map((mode) => mode.replaceAll(/[a-z]/g, '').replace('ROM', 'ROX').replace('RWM', 'RWX'));
  return `${storageClassName ?? '-'} ${modes.join()}-${volumeMode?.[0] ?? '?'} ${resources?.requests?.storage ?? '-'}`;
}

test('spec.pvc is taken as it is', () => {
  const pvc = { accessModes: ['ReadWriteOnce'], ...size('1'), storageClassName: 'none-such' };
  expect(renderClaim({ ...wanted({}), pvc }, seen())).toEqual({ spec: pvc });
});

describe('the class', () => {
  const block = { ...size('1Gi'), volumeMode: 'Block', accessModes: ['ReadWriteOnce'] };
  test.each<[string, StorageSpec, Partial<Wanted>, Partial<Seen>, string]>([
    ['that is named', { storageClassName: 'bare' }, {}, {}, 'bare RWO-B 1Gi'],
    ['of virtual machines', {}, {}, {}, 'virt RWO-B 1Gi'],
    ['of virtual machines, said', {}, { contentType: 'kubevirt' }, {}, 'virt RWO-B 1Gi'],
    ['of Kubernetes', {}, {}, { storageClasses: [FAST] }, 'fast RWO-B 1Gi'],
    ['of Kubernetes for files', { volumeMode: 'Filesystem' }, { contentType: 'archive' }, {}, 'fast RWO-F 1181116007'],
    ['that there is not', { storageClassName: 'gone' }, {}, {}, 'gone RWO-B 1Gi'],
    ['of none', {}, {}, { storageClasses: [storageClass('bare')] }, '- RWO-B 1Gi'],
    ['that is empty', { storageClassName: '' }, {}, {}, ' RWO-B 1Gi'],
  ])('%s', (_, storage, more, cluster, claim) =>
    expect(short(renderClaim(wanted({ ...block, ...storage }, more), seen(cluster)))).toBe(claim),
  );
});

describe('modes', () => {
  const RWO = ['ReadWriteOnce'];
  test.each<[StorageSpec, string]>([
    [{}, 'fast RWX-B 1Gi'],
    [{ volumeMode: '' }, 'fast RWX-B 1Gi'],
    [{ volumeMode: 'FromStorageProfile' }, 'fast RWX-B 1Gi'],
    [{ accessModes: [] }, 'fast RWX-B 1Gi'],
    [{ volumeMode: 'Block' }, 'fast RWX-B 1Gi'],
    [{ volumeMode: 'Filesystem' }, 'fast RWO-F 1181116007'],
    [{ accessModes: RWO }, 'fast RWO-B 1Gi'],
    [{ accessModes: ['ReadOnlyMany'] }, 'fast ROX-F 1181116007'],
    [{ accessModes: ['ReadOnlyMany', 'ReadWriteOnce'] }, 'fast ROX,RWO-B 1Gi'],
    [{ accessModes: ['ReadWriteOncePod'] }, 'fast RWOP-? 1181116007'],
    [{ accessModes: RWO, volumeMode: 'Filesystem' }, 'fast RWO-F 1181116007'],
  ])('%j', (storage, claim) =>
    expect(short(renderClaim(wanted({ ...size('1Gi'), storageClassName: 'fast', ...storage }), seen()))).toBe(claim),
  );

  test('of a class whose profile says nothing', () => {
    const open = wanted({ ...size('1Gi'), storageClassName: 'bare' });
    expect(renderClaim(open, seen({ profiles: [profile('bare', '')] }))).toEqual({
      reason: 'ErrClaimNotValid',
      message:
        'Spec is missing accessMode and volumeMode, cannot get access mode from StorageProfile bare: no accessMode specified in StorageProfile bare (its provisioner is csi.example.com). Write accessModes into DataVolume vms/disk, or claimPropertySets into the spec of the StorageProfile',
    });
    const half = wanted({ ...size('1Gi'), storageClassName: 'virt', volumeMode: 'Block' });
    expect(short(renderClaim(half, seen()))).toMatch(
      /^Spec is missing accessMode and cannot get access mode from StorageProfile virt: no accessMode specified in StorageProfile virt for volumeMode Block \(/,
    );
  });

  test('of a class whose profile is not there yet are what it will say', () => {
    const made = storageClass('ceph', { provisioner: 'rook-ceph.rbd.csi.ceph.com' });
    const open = wanted({ ...size('1Gi'), storageClassName: 'ceph' });
    expect(short(renderClaim(open, seen({ storageClasses: [made], profiles: [] })))).toBe('ceph RWX-B 1Gi');
    const small = storageClass('io1', { provisioner: 'ebs.csi.aws.com', parameters: { type: 'io1' } });
    const io1 = wanted({ ...size('1Gi'), storageClassName: 'io1' });
    expect(short(renderClaim(io1, seen({ storageClasses: [small], profiles: [] })))).toBe('io1 RWO-B 4Gi');
  });
});

test('files need a file system', () => {
  const archive = { contentType: 'archive' };
  expect(short(renderClaim(wanted({ ...size('1Gi'), volumeMode: 'Block' }, archive), seen()))).toBe(
    'ContentType Archive cannot have block volumeMode: DataVolume vms/disk is of files, which need a file system: leave volumeMode out, or write Filesystem',
  );
  expect(short(renderClaim(wanted(size('1Gi'), archive), seen()))).toBe('fast RWO-F 1181116007');
});

describe('without a class', () => {
  const none = seen({ storageClasses: [storageClass('a'), storageClass('b')] });
  test.each<[string, StorageSpec, Seen, RegExp]>([
    [
      'nothing is named',
      {},
      none,
      /it names no storage class and none is the default one\. .* storageclass\.kubernetes\.io\/is-default-class=true, .* storageclass\.kubevirt\.io\/is-default-virt-class=true; the storage classes are a, b$/,
    ],
    ['nor there', {}, seen({ storageClasses: [] }), /; there is no storage class$/],
    ['it is not there', { storageClassName: 'gone' }, none, /there is no storage class gone, and no available volume/],
    ['it is empty', { storageClassName: '' }, none, /its storageClassName is empty, so that it takes a volume without/],
    [
      'there are many',
      {},
      seen({ storageClasses: Array.from({ length: 14 }, (_, at) => storageClass(`c${at + 10}`)) }),
      /classes are c10, .*, c19 and 4 more$/,
    ],
  ])('and %s', (_, storage, cluster, end) => {
    const message = short(renderClaim(wanted({ ...size('1Gi'), ...storage }), cluster));
    expect(message).toMatch(
      /^PVC spec is missing accessMode and no storageClass to choose profile for DataVolume vms\/disk: /,
    );
    expect(message).toMatch(end);
  });
});

describe('a volume that is there', () => {
  const spec = { storageClassName: 'local', accessModes: ['ReadWriteOnce'], capacity: { storage: '2Gi' } };
  const block = { ...spec, volumeMode: 'Block' };
  const local = { storageClassName: 'local' };
  const missing = /^PVC spec is missing accessMode/;
  test.each<[string, PersistentVolume[], StorageSpec, string | RegExp]>([
    ['gives its modes', [volume('one', block)], local, 'local RWO-B 1Gi'],
    ['is of a file system where nothing is said', [volume('one', spec)], local, 'local RWO-? 1181116007'],
    ['of the empty class', [volume('one', { ...block, storageClassName: '' })], { storageClassName: '' }, ' RWO-B 1Gi'],
    ['of no class', [volume('one', { ...block, storageClassName: '' })], local, missing],
    ['gives nothing where no class is named', [volume('one', { ...block, storageClassName: '' })], {}, missing],
    ['is not available', [volume('one', block, { status: { phase: 'Bound' } })], local, missing],
    ['is going', [volume('one', block, { metadata: { deletionTimestamp: '2026-01-01T00:00:00Z' } })], local, missing],
    ['is too small', [volume('one', { ...block, capacity: { storage: '1023Mi' } })], local, missing],
    ['has no room for a file system', [volume('one', { ...spec, capacity: { storage: '1Gi' } })], local, missing],
    ['is for another claim', [volume('one', { ...block, claimRef: { namespace: 'vms', name: 'b' } })], local, missing],
    [
      'is for it',
      [volume('one', { ...block, claimRef: { namespace: 'vms', name: 'disk' } })],
      local,
      'local RWO-B 1Gi',
    ],
    ['is not the one', [volume('one', block)], { ...local, volumeName: 'two' }, missing],
    ['is the one', [volume('a', spec), volume('b', block)], { ...local, volumeName: 'b' }, 'local RWO-B 1Gi'],
    ['is of another mode', [volume('one', block)], { ...local, volumeMode: 'Filesystem' }, missing],
    [
      'is smaller',
      [volume('a', block), volume('b', { ...spec, capacity: { storage: '1.5Gi' } })],
      local,
      'local RWO-? 1181116007',
    ],
    [
      'is selected',
      [volume('a', spec), volume('b', block, { metadata: { labels: { disk: 'nvme' } } })],
      { ...local, selector: { matchLabels: { disk: 'nvme' } } },
      'local RWO-B 1Gi',
    ],
    [
      'is not selected',
      [volume('a', block, { metadata: { labels: { disk: 'sata' } } })],
      { ...local, selector: { matchExpressions: [{ key: 'disk', operator: 'NotIn', values: ['sata', 'ide'] }] } },
      missing,
    ],
  ])('%s', (_, volumes, storage, claim) => {
    const got = short(
      renderClaim(
        wanted({ ...size('1Gi'), ...storage }),
        seen({ storageClasses: [], volumes, config: { status: { filesystemOverhead: { global: '0.1' } } } }),
      ),
    );
    if (typeof claim === 'string') expect(got).toBe(claim);
    else expect(got).toMatch(claim);
  });

  test('does not hold against what the claim says', () => {
    const volumes = [volume('one', { ...block, accessModes: ['ReadWriteMany', 'ReadWriteOnce'] })];
    const one = wanted({ ...size('1Gi'), ...local, accessModes: ['ReadWriteOnce'] });
    expect(short(renderClaim(one, seen({ volumes })))).toBe('local RWO-B 1Gi');
    const other = wanted({ ...size('1Gi'), ...local, accessModes: ['ReadOnlyMany'] });
    expect(short(renderClaim(other, seen({ volumes })))).toBe('local ROX-? 1181116007');
  });
});

describe('the size', () => {
  const fs = (storage: string, more: StorageSpec = {}): Wanted =>
    wanted({ ...size(storage), storageClassName: 'fast', volumeMode: 'Filesystem', ...more });
  const least = (minimum: string): Seen =>
    seen({ profiles: [profile('fast', 'RWO-F RWO-B', { 'cdi.kubevirt.io/minimumSupportedPvcSize': minimum })] });
  test.each<[string, Wanted, Seen, string]>([
    ['has room for a file system', fs('1Gi'), seen(), 'fast RWO-F 1181116007'],
    ['is rounded up before', fs('1048577'), seen(), 'fast RWO-F 2306868'],
    ['of a device is as it was written', fs('1000000001', { volumeMode: 'Block' }), seen(), 'fast RWX-B 1000000001'],
    ['is written shortest', fs('10Gi'), seen(), 'fast RWO-F 11Gi'],
    ['is at least the minimum', fs('1Gi'), least('4Gi'), 'fast RWO-F 4Gi'],
    ['of a device too', fs('1Gi', { volumeMode: 'Block' }), least('4Gi'), 'fast RWO-B 4Gi'],
    ['is more than the minimum', fs('4Gi'), least('4Gi'), 'fast RWO-F 4724464026'],
    ['is not held to a minimum that is none', fs('1Gi'), least('a lot'), 'fast RWO-F 1181116007'],
    ['may be a number', fs(1073741824 as unknown as string), seen(), 'fast RWO-F 1181116007'],
    ['of exabytes', fs('7Ei'), seen(), 'fast RWO-F 8877495585472721716'],
  ])('%s', (_, what, cluster, claim) => expect(short(renderClaim(what, cluster))).toBe(claim));

  test.each([
    ['', /^PVC Spec is not valid - storage size should be at least 1MiB: DataVolume vms\/disk asks for ''$/],
    ['1048575', /at least 1MiB: DataVolume vms\/disk asks for '1048575'/],
    ['-1Gi', /at least 1MiB/],
    ['large', /at least 1MiB/],
  ])('%j is refused', (text, message) => expect(short(renderClaim(fs(text), seen()))).toMatch(message));

  test('must be there, but for copies', () => {
    const open: StorageSpec = { storageClassName: 'fast' };
    expect(short(renderClaim(wanted(open), seen()))).toMatch(
      /^PVC Spec is not valid - missing storage size: DataVolume vms\/disk says/,
    );
    expect(short(renderClaim(wanted(open, { size: 'copy' }), seen()))).toBe('fast RWX-B -');
    expect(
      short(renderClaim(wanted({ ...open, ...size('1Gi'), volumeMode: 'Filesystem' }, { size: 'copy' }), seen())),
    ).toBe('fast RWO-F 1181116007');
  });
});

describe('of a DataVolume', () => {
  test.each<[object, Wanted['size']]>([
    [{ source: { http: { url: 'https://example.com' } } }, 'disk'],
    [{}, 'disk'],
    [{ source: { pvc: { namespace: 'a', name: 'b' } } }, 'copy'],
    [{ source: { snapshot: { namespace: 'a', name: 'b' } } }, 'copy'],
    [{ sourceRef: { kind: 'DataSource', name: 'b' } }, 'copy'],
  ])('%j', (spec, whose) => expect(ofDataVolume({ spec }, undefined).size).toBe(whose));

  test('with the label, the webhook renders it', () => {
    const labels = { 'cdi.kubevirt.io/applyStorageProfile': 'true' };
    const one = { metadata: { namespace: 'vms', name: 'disk', labels }, spec: { storage: size('1Gi') } };
    expect(renderClaim(ofDataVolume(one, undefined), seen())).toEqual({
      spec: { ...size('1Gi'), volumeMode: 'FromStorageProfile' },
    });
    const block = { ...one, spec: { storage: { ...size('1Gi'), volumeMode: 'Block' } } };
    expect(short(renderClaim(ofDataVolume(block, undefined), seen()))).toBe('- -B 1Gi');
    const off = ofDataVolume(one, { spec: { webhookPvcRendering: 'Disabled' } });
    expect(short(renderClaim(off, seen()))).toBe('virt RWO-F 1Gi');
  });

  test('that says nothing is refused', () => {
    const one = ofDataVolume({ metadata: { namespace: 'vms', name: 'disk' }, spec: {} }, undefined);
    expect(short(renderClaim(one, seen()))).toMatch(/^DataVolume vms\/disk has neither spec\.pvc nor spec\.storage/);
  });
});

describe('of a claim with the label', () => {
  const claim = (spec: object, annotations = {}): Rendered =>
    renderClaim(ofClaim({ metadata: { namespace: 'vms', name: 'disk', annotations }, spec }), seen());
  const snapshot = { apiGroup: 'snapshot.storage.k8s.io', kind: 'VolumeSnapshot', name: 'a' };
  const clone = { apiGroup: 'cdi.kubevirt.io', kind: 'VolumeCloneSource', name: 'a' };
  const open = {
    ...size('1Gi'),
    storageClassName: 'fast',
    volumeMode: 'FromStorageProfile',
    accessModes: ['ReadOnlyMany'],
  };
  test.each<[string, object, object, string]>([
    ['has its modes', { ...open, accessModes: [] }, {}, 'fast RWX-B 1Gi'],
    ['has room', open, {}, 'fast ROX-F 1181116007'],
    [
      'is of files',
      { ...open, accessModes: [] },
      { 'cdi.kubevirt.io/storage.contentType': 'archive' },
      'fast RWO-F 1181116007',
    ],
    ['restores a snapshot', { ...open, dataSource: snapshot }, {}, 'fast ROX-F 1Gi'],
    ['restores a snapshot by reference', { ...open, dataSourceRef: snapshot }, {}, 'fast ROX-F 1Gi'],
    ['clones', { ...open, dataSourceRef: clone }, {}, 'fast ROX-F 1Gi'],
    ['clones without a size', { ...open, resources: {}, dataSourceRef: clone }, {}, 'fast ROX-F -'],
    ['is imported', { ...open, dataSourceRef: { ...clone, kind: 'VolumeImportSource' } }, {}, 'fast ROX-F 1181116007'],
  ])('%s', (_, spec, annotations, rendered) => expect(short(claim(spec, annotations))).toBe(rendered));

  test('keeps what this API does not know', () =>
    expect(claim({ ...open, volumeAttributesClassName: 'gold' })).toMatchObject({
      spec: { volumeAttributesClassName: 'gold' },
    }));

  test('is named in refusals', () =>
    expect(short(claim({ ...open, resources: {} }))).toContain('PersistentVolumeClaim vms/disk'));
});
