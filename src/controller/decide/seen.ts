import type { Event, PersistentVolume, PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import type { StorageClass } from 'kubernetes-types/storage/v1.js';
import type { DataVolume } from '../../api/datavolume.ts';
import type { Stored } from '../../api/meta.ts';
import type { VolumeImportSource } from '../../api/populators.ts';
import type { Refusal } from '../decision.ts';

/** What is seen of a DataVolume. */
export interface DataVolumeSeen {
  readonly dv: Stored<DataVolume>;
  /** Of its name. */
  readonly claim?: Stored<PersistentVolumeClaim>;
  readonly prime?: Stored<PersistentVolumeClaim>;
  readonly source?: Stored<VolumeImportSource>;
  /** Its claim as it is to be, or why it cannot be. */
  readonly rendered:
    | { readonly spec: PersistentVolumeClaim['spec'] }
    | { readonly reason: string; readonly message: string };
  /** Of the claim. */
  readonly storageClass?: Stored<StorageClass>;
  /** Whether the class has a CSI driver, so that claims can be filled by way of a prime. */
  readonly csi: boolean;
  readonly gates: { readonly honorsConsumers: boolean; readonly adoptsClaims: boolean };
  /** Volumes that are reserved for its claim and suit it. */
  readonly reserved: readonly Stored<PersistentVolume>[];
  /** `12.34%`, while an import without a prime runs. */
  readonly progress?: string;
  /** The last event about the claim. */
  readonly event?: Stored<Event>;
  readonly refused?: Refusal;
  /** RFC 3339. */
  readonly now: string;
}
