import { FerryError } from './errors.ts';

/** A descriptor is some kilobytes; in a sparse file of QEMU it has 20 KiB (block/vmdk.c, DESC_SIZE). */
export const LONGEST_DESCRIPTOR = 64 * 1024;
/** Of the files of a disk; the largest disk in pieces of 2 GB has some 30,000. */
const MOST = 32_768;
/** Kinds of extents that are files (VMware Virtual Disk Format 5.0, "The Extent Descriptions"), and the one that is none. */
const KINDS = ['FLAT', 'VMFS', 'SPARSE', 'VMFSSPARSE', 'SESPARSE'];
const NOTHING = 'ZERO';

function unsafe(message: string): FerryError {
  return new FerryError(message, { code: 'UNSAFE', stage: 'format' });
}

/**
 * The descriptor of a VMDK with the names of its files replaced by what `placed` gives for them, so that nothing is opened
 * that a person did not give. `placed` is asked for the last part of each name, in order. Throws UNSAFE for the difference to
 * another image, CORRUPT, UNSUPPORTED for devices.
 */
export async function rewritten(descriptor: string, placed: (name: string) => Promise<string>): Promise<string> {
  const parent = /^\s*parentCID\s*=\s*"?([0-9a-f]+)"?\s*$/im.exec(descriptor)?.[1];
  if (parent !== undefined && Number.parseInt(parent, 16) !== 0xffffffff) {
    throw unsafe('the VMDK is only the difference to another image, which is not followed: flatten it first');
  }
  const lines = descriptor.replaceAll('\0', '').split(/\r?\n/);
  const kept: string[] = [];
  let extents = 0;
  for (const line of lines) {
    const [, access, sectors, kind = '', file, offset] =
      /^\s*(RW|RDONLY|NOACCESS)\s+(\d+)\s+(\w+)(?:\s+"([^"]*)")?(?:\s+(\d+))?/.exec(line) ?? [];
    if (access === undefined) {
      // What looks different here might look like an extent to QEMU.
      if (/^\s*(RW|RDONLY|NOACCESS)\b/i.test(line)) {
        throw new FerryError('a line of the descriptor of the VMDK is no extent', { code: 'CORRUPT', stage: 'format' });
      }
      // A hint names a file too.
      if (!/^\s*parentFileNameHint/i.test(line)) kept.push(line);
      continue;
    }
    extents += 1;
    if (extents > MOST) {
      throw new FerryError(`the VMDK has more than ${MOST} extents`, { code: 'TOO_LARGE', stage: 'format' });
    }
    if (kind === NOTHING) {
      kept.push(`${access} ${sectors} ${kind}`);
      continue;
    }
    if (!KINDS.includes(kind) || file === undefined) {
      throw new FerryError(`an extent of the VMDK is of the kind ${kind}, which is no file: it is not read`, {
        code: 'UNSUPPORTED',
        stage: 'format',
      });
    }
    const place = await placed(file.split(/[/\\]/).at(-1) ?? '');
    kept.push(`${access} ${sectors} ${kind} "${place}"${offset === undefined ? '' : ` ${offset}`}`);
  }
  if (extents === 0) {
    throw new FerryError('the descriptor of the VMDK names no extents', { code: 'CORRUPT', stage: 'format' });
  }
  return kept.join('\n');
}
