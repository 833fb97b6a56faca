import { FerryError } from './errors.ts';
import { compareIdentity, type Identity, parseIdentity } from './identity.ts';
import type { NativeTarget } from './native.ts';

export interface Changes {
  /** The source, of which only what changed since `changedSince` is carried. */
  readonly identity: Identity;
  /** Bytes of its disk. */
  readonly length: number;
  readonly target: string;
  /** A person says that the target holds the earlier state, whatever it is marked with. */
  readonly force: boolean;
}

/**
 * Whether the target holds the disk as it was before the changes: true to go on with putting them there, false to begin.
 * Where it is known what the target holds, it must be that state of that disk; a disk that nothing is known of is taken
 * for it. Throws CHANGED, DENIED, NOT_FOUND or TOO_LARGE: changes on top of anything else would be a disk that never was.
 */
export function admitBase({ facts, recovered }: Pick<NativeTarget, 'facts' | 'recovered'>, changes: Changes): boolean {
  const { identity, length, target, force } = changes;
  const since = `as it was at ${identity.changedSince}`;
  const refuse = (what: string, code: 'CHANGED' | 'DENIED' | 'NOT_FOUND' | 'TOO_LARGE'): FerryError =>
    new FerryError(`${what}: the changes belong onto the disk ${since}; import it whole first`, {
      code,
      stage: 'target',
    });
  if (recovered.kind === 'foreign') {
    throw refuse(`${target} holds an unfinished transfer of another host or user`, 'DENIED');
  }
  if (recovered.kind === 'checkpoint' || recovered.kind === 'finishing') {
    const found = parseIdentity(recovered.identity);
    // The last steps of finishing write over the identity: the engine compares its hash.
    if (found === undefined && recovered.kind === 'finishing') return true;
    if (found !== undefined && compareIdentity(found, identity) === 'same') return true;
    throw refuse(`${target} holds an unfinished transfer of ${found?.name ?? 'another source'}`, 'CHANGED');
  }
  if (!facts.exists) throw refuse(`${target} does not exist`, 'NOT_FOUND');
  if (facts.length < length) {
    throw refuse(`${target} has ${facts.length} bytes and the disk ${length}`, 'TOO_LARGE');
  }
  const held = recovered.kind === 'finished' && !force ? parseIdentity(recovered.identity) : undefined;
  if (held !== undefined && held.name !== identity.name) {
    throw refuse(`${target} holds a disk of ${held.name}`, 'CHANGED');
  }
  // The same changes once more do no harm.
  const again = held !== undefined && compareIdentity(held, identity) === 'same';
  if (held?.state !== undefined && held.state !== identity.changedSince && !again) {
    throw refuse(`${target} holds the disk as it was at ${held.state}`, 'CHANGED');
  }
  return false;
}
