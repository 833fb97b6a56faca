import type { PersistentVolumeClaim, PersistentVolumeClaimSpec } from 'kubernetes-types/core/v1.js';
import type { CdiConfig } from '../../api/config.ts';
import { LABEL } from '../../api/label.ts';
import { renderClaim, type Seen } from '../../profile/render.ts';
import { ofClaim } from '../../profile/wanted.ts';
import { type Cause, invalid } from './cause.ts';

/** Of a JSON patch (RFC 6902). `add` replaces what is there. */
export type Operation =
  | { readonly op: 'add'; readonly path: string; readonly value: unknown }
  | { readonly op: 'remove'; readonly path: string };

/** Whether the StorageProfile is to say what is left out of a claim. */
export function isRendered({ metadata }: PersistentVolumeClaim, config: CdiConfig | undefined): boolean {
  return metadata?.labels?.[LABEL.applyStorageProfile] === 'true' && config?.spec?.webhookPvcRendering !== 'Disabled';
}

/** What is to be changed of a claim before it is made; or why it cannot be. */
export function completed(
  claim: PersistentVolumeClaim,
  seen: Seen,
): { readonly causes: readonly Cause[]; readonly patch: readonly Operation[] } {
  if (!isRendered(claim, seen.config)) return { causes: [], patch: [] };
  const rendered = renderClaim(ofClaim(claim), seen);
  if ('reason' in rendered) return { causes: [invalid('spec', rendered.message)], patch: [] };
  return { causes: [], patch: patchOf(claim.spec, rendered.spec) };
}

function patchOf(before: PersistentVolumeClaimSpec | undefined, after: PersistentVolumeClaimSpec): Operation[] {
  if (before === undefined) return [{ op: 'add', path: '/spec', value: after }];
  const [old, now] = [before, after].map((spec) => spec as Readonly<Record<string, unknown>>);
  return [
    // What only says that the profile is to say it, where that says nothing: Kubernetes' own default holds.
    ...Object.keys(before)
      .filter((name) => now?.[name] === undefined)
      .map((name) => ({ op: 'remove', path: `/spec/${name}` }) as const),
    ...Object.entries(after)
      .filter(([name, value]) => JSON.stringify(old?.[name]) !== JSON.stringify(value))
      .map(([name, value]) => ({ op: 'add', path: `/spec/${name}`, value }) as const),
  ];
}
