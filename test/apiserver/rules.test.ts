// Every rule by itself: what is refused has its cause, and its neighbour has none.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import type { Cause } from '../../src/apiserver/admission/cause.ts';
import { checkUninstall } from '../../src/apiserver/admission/cdi.ts';
import { checkChangedDataImportCron, checkNewDataImportCron } from '../../src/apiserver/admission/dataimportcron.ts';
import { checkChangedDataVolume, checkNewDataVolume } from '../../src/apiserver/admission/datavolume.ts';
import { checkChangedObjectTransfer, checkNewObjectTransfer } from '../../src/apiserver/admission/objecttransfer.ts';
import {
  checkChangedImportSource,
  checkChangedUploadSource,
  checkNewImportSource,
  checkNewUploadSource,
} from '../../src/apiserver/admission/populator.ts';
import { claim, dataVolume } from '../controller/objects.ts';
import { GI, type Rule, type Thing } from './rules/row.ts';
import { RULES } from './rules.ts';

function judge({ resource, before, there }: Rule, object: Thing): readonly Cause[] {
  const [now, old] = [object as never, before as never];
  switch (resource.kind) {
    case 'DataVolume': {
      if (before) return checkChangedDataVolume(now, old);
      const isNamed = there?.object.metadata.name === object.metadata.name;
      const found = isNamed
        ? { ...there.object, metadata: { ...there.object.metadata, namespace: 'default' } }
        : undefined;
      return checkNewDataVolume(now, { ...(found ? { claim: found as never } : {}), adoptsClaims: false });
    }
    case 'DataImportCron':
      return before ? checkChangedDataImportCron(now, old) : checkNewDataImportCron(now);
    case 'VolumeImportSource':
      return before ? checkChangedImportSource(now, old) : checkNewImportSource(now);
    case 'VolumeUploadSource':
      return before ? checkChangedUploadSource(now, old) : checkNewUploadSource(now);
    default: {
      const target = (object.spec as { target: { name?: string } }).target.name;
      const exists = there !== undefined && there.object.metadata.name === target;
      return before ? checkChangedObjectTransfer(now, old) : checkNewObjectTransfer(now, exists);
    }
  }
}

test.each(RULES.map((rule) => [`${rule.resource.kind}: ${rule.title}`, rule] as const))('%s', (_, rule) => {
  const causes = judge(rule, rule.refused);
  expect(causes).toContainEqual(
    expect.objectContaining({ field: rule.field, message: expect.stringContaining(rule.says) }),
  );
  expect(JSON.stringify(causes)).not.toContain('swordfish');
  for (const { message } of causes) expect(message.length).toBeLessThan(500);
  for (const one of rule.accepted) expect(judge(rule, one), JSON.stringify(one)).toEqual([]);
});

test('no rule has the title of another one', () => {
  const titles = RULES.map((rule) => `${rule.resource.kind}: ${rule.title}`);
  expect(titles.filter((title, n) => titles.indexOf(title) !== n)).toEqual([]);
});

describe('a claim of the name of a DataVolume', () => {
  const wanted = dataVolume({ source: { blank: {} }, storage: GI });
  const owner = (kind: string) => ({ kind, name: 'a', uid: 'b' });

  test('is one of a DataVolume, or is filled, or is to be taken by all', () => {
    const seen = { adoptsClaims: false };
    expect(checkNewDataVolume(wanted, { ...seen, claim: claim({ owner: owner('DataVolume') }) })).toEqual([]);
    expect(checkNewDataVolume(wanted, { ...seen, claim: claim({ owner: owner('Pod') }) })).toHaveLength(1);
    const filled = claim({ annotations: { 'cdi.kubevirt.io/storage.populatedFor': 'disk' } });
    expect(checkNewDataVolume(wanted, { ...seen, claim: filled })).toEqual([]);
    expect(checkNewDataVolume(wanted, { claim: claim(), adoptsClaims: true })).toEqual([]);
  });

  test('is not taken where the DataVolume says so', () => {
    const annotated = dataVolume(wanted.spec, { 'cdi.kubevirt.io/allowClaimAdoption': 'false' });
    expect(checkNewDataVolume(annotated, { claim: claim(), adoptsClaims: true })).toHaveLength(1);
  });
});

test('several causes are told at once, in order', () => {
  const storage = { resources: { requests: { storage: '-1' } }, accessModes: ['a', 'b'] };
  const causes = checkNewDataVolume(
    { metadata: { name: 'a' }, spec: { storage, source: { http: { url: '', checksum: 'b' } } } },
    { adoptsClaims: false },
  );
  expect(causes.map((cause) => cause.field)).toEqual([
    'spec.storage.resources.requests.storage',
    'spec.storage.accessModes[0]',
    'spec.storage.accessModes[1]',
    'spec.source.http.url',
    'spec.source.http.checksum',
  ]);
});

test('what is stored already can be changed around its spec, whatever that is', () => {
  const spec = { source: { http: { url: 'https://user:password@images.example/a' } }, storage: GI };
  const before = { metadata: { name: 'a', finalizers: ['a'] }, spec };
  expect(checkNewDataVolume(before, { adoptsClaims: false })).toHaveLength(1);
  expect(checkChangedDataVolume({ metadata: { name: 'a' }, spec }, before)).toEqual([]);
});

test.each([
  ['never installed', '', 'BlockUninstallIfWorkloadsExist', ['a/b'], 0],
  ['failed', 'Error', 'BlockUninstallIfWorkloadsExist', ['a/b'], 0],
  ['unguarded', 'Deployed', 'RemoveWorkloads', ['a/b'], 0],
  ['unguarded by itself', 'Deployed', undefined, ['a/b'], 0],
  ['guarded, of nothing', 'Deployed', 'BlockUninstallIfWorkloadsExist', [], 0],
  ['guarded', 'Deployed', 'BlockUninstallIfWorkloadsExist', ['a/b'], 1],
  ['guarded, while it is deleted', 'Deleting', 'BlockUninstallIfWorkloadsExist', ['a/b', 'c/d'], 1],
] as const)('an installation that is %s', (_, phase, uninstallStrategy, volumes, count) => {
  const causes = checkUninstall({ spec: uninstallStrategy ? { uninstallStrategy } : {}, status: { phase } }, volumes);
  expect(causes).toHaveLength(count);
  const [cause] = causes;
  if (!cause) return;
  expect(cause.message).toContain(`there are still ${volumes.length} DataVolumes present`);
  // Of what we install, nothing is deleted with it but itself (docs/install.md).
  expect(cause.message).toMatch(/RemoveWorkloads: then they and their disks stay as they are, as long as/);
});

test('what stands in our examples is accepted', async () => {
  const directory = fileURLToPath(new URL('../../examples', import.meta.url));
  const texts = readdirSync(directory)
    .filter((name) => name.endsWith('.yaml'))
    .map((name) => readFileSync(join(directory, name), 'utf8'));
  const objects = texts.flatMap((text) => parseAllDocuments(text).map((one) => one.toJS()));
  const volumes = objects.filter((one) => one.kind === 'DataVolume');
  expect(volumes.length).toBeGreaterThan(3);
  for (const one of volumes) expect(checkNewDataVolume(one, { adoptsClaims: false })).toEqual([]);
  for (const one of objects) if (one.kind === 'VolumeImportSource') expect(checkNewImportSource(one)).toEqual([]);
});
