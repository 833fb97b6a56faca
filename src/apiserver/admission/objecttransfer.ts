import type { ObjectTransfer } from '../../api/object-transfer.ts';
import { type Cause, duplicate, invalid, quoted } from './cause.ts';
import { differenceOf } from './difference.ts';

/** Kinds that can be moved. */
export const MOVED = ['DataVolume', 'PersistentVolumeClaim'] as const;

/** What `kubectl` shows of every new one. */
export const DEPRECATED =
  'ObjectTransfer is deprecated and will be removed: clone the claim into the other namespace instead, with a DataVolume whose source is pvc';

/** Where it moves to; undefined where its spec does not say what, or where. */
export function targetOf({ spec }: ObjectTransfer): { readonly namespace: string; readonly name: string } | undefined {
  const { source, target } = spec ?? {};
  const [namespace, name] = [target?.namespace || source?.namespace, target?.name || source?.name];
  return namespace && name ? { namespace, name } : undefined;
}

/** `exists`: there is one of that kind where it moves to. */
export function checkNewObjectTransfer(transfer: ObjectTransfer, exists: boolean): Cause[] {
  const { source, target } = transfer.spec ?? {};
  const found: Cause[] = [];
  if (!MOVED.some((kind) => kind === source?.kind)) {
    const message = `spec.source.kind is ${quoted(source?.kind ?? '')}: it can be ${MOVED.join(' or ')}`;
    found.push(invalid('spec.source.kind', message));
  }
  if (!target?.namespace && !target?.name) {
    const message = 'spec.target has neither namespace nor name: write the one that is to be another, or both';
    return [...found, invalid('spec.target', message)];
  }
  const where = targetOf(transfer);
  if (exists && where) {
    const message = `${source?.kind} ${where.namespace}/${where.name} already exists: name a target that is free`;
    found.push(duplicate('spec.target', message));
  }
  return found;
}

export function checkChangedObjectTransfer({ spec }: ObjectTransfer, before: ObjectTransfer): Cause[] {
  const difference = differenceOf(before.spec, spec, 'spec');
  if (difference === undefined) return [];
  const message = `ObjectTransfer spec is immutable: ${difference} is not what it was; delete the ObjectTransfer and create it as it is to be`;
  return [invalid('spec', message)];
}
