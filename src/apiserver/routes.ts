import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import type { Cdi } from '../api/config.ts';
import type { DataImportCron } from '../api/data-import-cron.ts';
import type { DataVolume } from '../api/datavolume.ts';
import type { ObjectTransfer } from '../api/object-transfer.ts';
import type { VolumeImportSource, VolumeUploadSource } from '../api/populators.ts';
import { UPLOAD_SOURCES } from '../api/resource.ts';
import { hasGate } from '../profile/config.ts';
import { checkUninstall, isGuarded } from './admission/cdi.ts';
import { completed } from './admission/claim.ts';
import { checkChangedDataImportCron, checkNewDataImportCron } from './admission/dataimportcron.ts';
import { checkChangedDataVolume, checkNewDataVolume } from './admission/datavolume.ts';
import {
  checkChangedObjectTransfer,
  checkNewObjectTransfer,
  DEPRECATED,
  targetOf,
} from './admission/objecttransfer.ts';
import {
  checkChangedImportSource,
  checkChangedUploadSource,
  checkNewImportSource,
  checkNewUploadSource,
} from './admission/populator.ts';
import { type AdmissionRequest, ReviewError, type Verdict } from './review.ts';
import type { Sight } from './sight.ts';
import { WEBHOOKS } from './webhooks.ts';

/** Judges a request. Throws KubeError where it cannot see what it must, ReviewError for what is not asked here. */
export type Judge = (request: AdmissionRequest, signal: AbortSignal) => Promise<Verdict>;

/** Path → who judges what is asked there. */
export function routesOf(sight: Sight): ReadonlyMap<string, Judge> {
  const judges: Readonly<Record<string, Judge>> = {
    '/datavolume-validate': dataVolumes(sight),
    '/dataimportcron-validate': dataImportCrons,
    '/populator-validate': populators,
    '/objecttransfer-validate': objectTransfers(sight),
    '/cdi-validate': installations(sight),
    '/pvc-mutate': claims(sight),
  };
  return new Map(
    WEBHOOKS.map(({ path, resources, operations }) => {
      const judge: Judge = async (request, signal) => {
        const { group, resource } = request.resource;
        const isAsked = resources.some((one) => one.group === group && one.plural === resource);
        if (!isAsked || !operations.includes(request.operation)) {
          const message = `${path} is not asked about ${request.operation} of ${resource} of the group '${group}'`;
          throw new ReviewError(400, message);
        }
        const found = judges[path];
        if (!found) throw new TypeError(`nobody judges what is asked at ${path}`);
        return found(request, signal);
      };
      return [path, judge];
    }),
  );
}

const dataVolumes =
  (sight: Sight): Judge =>
  async ({ operation, object, oldObject, namespace = '' }, signal) => {
    const volume = object as DataVolume;
    if (operation === 'UPDATE') return { causes: checkChangedDataVolume(volume, oldObject as DataVolume) };
    await sight.synced();
    const claim = await sight.claim(namespace, volume.metadata?.name ?? '', signal);
    const adoptsClaims = hasGate(sight.config, 'DataVolumeClaimAdoption');
    return { causes: checkNewDataVolume(volume, { ...(claim ? { claim } : {}), adoptsClaims }) };
  };

const dataImportCrons: Judge = async ({ operation, object, oldObject }) => {
  const cron = object as DataImportCron;
  if (operation === 'UPDATE') return { causes: checkChangedDataImportCron(cron, oldObject as DataImportCron) };
  return { causes: checkNewDataImportCron(cron) };
};

const populators: Judge = async ({ operation, resource, object, oldObject }) => {
  if (resource.resource === UPLOAD_SOURCES.plural) {
    const source = object as VolumeUploadSource;
    if (operation === 'CREATE') return { causes: checkNewUploadSource(source) };
    return { causes: checkChangedUploadSource(source, oldObject as VolumeUploadSource) };
  }
  const source = object as VolumeImportSource;
  if (operation === 'CREATE') return { causes: checkNewImportSource(source) };
  return { causes: checkChangedImportSource(source, oldObject as VolumeImportSource) };
};

const objectTransfers =
  (sight: Sight): Judge =>
  async ({ operation, object, oldObject }, signal) => {
    const transfer = object as ObjectTransfer;
    if (operation === 'UPDATE') return { causes: checkChangedObjectTransfer(transfer, oldObject as ObjectTransfer) };
    const target = targetOf(transfer);
    const exists = target !== undefined && (await sight.has(transfer.spec?.source?.kind, target, signal));
    return { causes: checkNewObjectTransfer(transfer, exists), warnings: [DEPRECATED] };
  };

const installations =
  (sight: Sight): Judge =>
  async ({ oldObject }, signal) => {
    const cdi = oldObject as Cdi;
    return { causes: checkUninstall(cdi, isGuarded(cdi) ? await sight.workloads(signal) : []) };
  };

const claims =
  (sight: Sight): Judge =>
  async ({ object, namespace = '' }) => {
    await sight.synced();
    const claim = object as PersistentVolumeClaim;
    // The API server may fill in the namespace later than it asks.
    return completed({ ...claim, metadata: { ...claim.metadata, namespace } }, sight.storage);
  };
