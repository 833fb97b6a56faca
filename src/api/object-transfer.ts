import type { ObjectMeta } from 'kubernetes-types/meta/v1.js';
import type { Condition } from './meta.ts';

/** CDI's ObjectTransfer, which CDI has given up: a claim, or a DataVolume with its claim, under another name or namespace. */
export interface ObjectTransfer {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: ObjectMeta;
  readonly spec?: {
    readonly source: TransferSource;
    readonly target: TransferTarget;
    readonly parentName?: string;
  };
  readonly status?: {
    readonly data?: Readonly<Record<string, string>>;
    readonly phase?: '' | 'Pending' | 'Running' | 'Complete' | 'Error';
    readonly conditions?: readonly Condition[];
  };
}

export interface TransferSource {
  readonly apiVersion?: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly requiredAnnotations?: Readonly<Record<string, string>>;
}

/** One of them at least. */
export interface TransferTarget {
  readonly namespace?: string;
  readonly name?: string;
}
