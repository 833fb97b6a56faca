// What is rendered is what an API server takes: of every provisioner that is known, in each of its modes.
import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parseQuantity } from '../../src/api/quantity.ts';
import { CAPABILITIES } from '../../src/profile/capabilities.ts';
import { renderClaim, requestOf } from '../../src/profile/render.ts';
import { type ApiServer, startApiServer } from '../support/apiserver.ts';
import { storageClass } from './cluster.ts';

let server: ApiServer;
beforeAll(async () => {
  server = await startApiServer();
}, 120_000);
afterAll(() => server?.[Symbol.asyncDispose]());

const create = (spec: object): Promise<PersistentVolumeClaim> =>
  server.ask('POST', '/api/v1/namespaces/default/persistentvolumeclaims?dryRun=All', {
    metadata: { name: 'disk' },
    spec,
  });

test('every row of the table', { timeout: 120_000 }, async () => {
  const config = { status: { filesystemOverhead: { global: '0.055' } } };
  for (const [key, { sets }] of Object.entries(CAPABILITIES)) {
    const storageClasses = [storageClass('a')];
    const profiles = [{ metadata: { name: 'a' }, status: { claimPropertySets: sets } }];
    const seen = { storageClasses, profiles, volumes: [], config };
    for (const { accessModes = [], volumeMode = '' } of sets) {
      for (const [at, size] of ['1Mi', '1234567890', '1.5Ti', '7Ei', '1e15'].entries()) {
        const modes = [{}, { volumeMode }, { accessModes: [...accessModes] }][at % 3];
        const storage = { storageClassName: 'a', resources: { requests: { storage: size } }, ...modes };
        const rendered = renderClaim({ kind: 'DataVolume', namespace: 'b', name: 'c', size: 'disk', storage }, seen);
        if (!('spec' in rendered)) expect.fail(`${key} ${size}: ${rendered.message}`);
        const { spec } = await create(rendered.spec);
        expect(spec).toMatchObject({ storageClassName: 'a', accessModes: rendered.spec.accessModes });
        expect([key, spec?.volumeMode]).toEqual([key, rendered.spec.volumeMode]);
        expect(requestOf(spec)).toBe(requestOf(rendered.spec));
        expect((requestOf(spec) ?? 0n) >= (parseQuantity(size) ?? 0n)).toBe(true);
      }
    }
  }
});
