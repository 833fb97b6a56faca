// A disk in three states, as oVirt keeps snapshots: qcow2 images of which each holds what changed since the one below.
import { join } from 'node:path';
import { decodedByQemu, MiB, qemuIo, run } from './images.ts';

/** Bytes of the disk. */
export const SIZE = 64 * MiB;

export const FIRST = '10000000-aaaa-bbbb-cccc-000000000001';
export const SECOND = '20000000-aaaa-bbbb-cccc-000000000002';
export const THIRD = '30000000-aaaa-bbbb-cccc-000000000003';
/** From the first to the one that is written to. */
export const STATES = [FIRST, SECOND, THIRD];

const WRITES: Readonly<Record<string, readonly string[]>> = {
  [FIRST]: ['write -P 1 0 2M', 'write -P 2 20M 8M', 'write -P 3 63M 1M'],
  // Data over zeros, zeros over data, within a cluster, both ends.
  [SECOND]: ['write -P 4 512 512', 'write -P 5 40M 1M', 'write -z 22M 2M', 'write -P 6 27M 4k', 'write -P 7 65535k 1k'],
  [THIRD]: ['write -P 8 50M 1M'],
};

export interface States {
  /** The qcow2 of a state, on top of those before it. */
  readonly image: (id: string) => string;
  /** The disk as it was then, raw. */
  readonly raw: (id: string) => string;
}

/** Makes the images of all states. */
export async function states(directory: string): Promise<States> {
  const image = (id: string): string => join(directory, `${id}.qcow2`);
  const raw = (id: string): string => join(directory, `${id}.raw`);
  let below: readonly string[] = [];
  for (const id of STATES) {
    await run('qemu-img', 'qemu-utils', ['create', '-q', '-f', 'qcow2', ...below, image(id), String(SIZE)]);
    await qemuIo(image(id), WRITES[id] ?? []);
    await decodedByQemu(image(id), raw(id));
    below = ['-b', image(id), '-F', 'qcow2'];
  }
  return { image, raw };
}

/** A disk in its first state that then came to the second, with a bitmap `since` of what changed. */
export async function dirtied(path: string): Promise<string> {
  await run('qemu-img', 'qemu-utils', ['create', '-q', '-f', 'qcow2', path, String(SIZE)]);
  await qemuIo(path, WRITES[FIRST] ?? []);
  await run('qemu-img', 'qemu-utils', ['bitmap', '--add', path, 'since']);
  await qemuIo(path, WRITES[SECOND] ?? []);
  return path;
}

/** How qemu-nbd is told to show a state: with those below it, or alone. */
export function shownBy(image: string, alone: boolean): { readonly file: string; readonly options: readonly string[] } {
  return alone
    ? {
        file: `driver=qcow2,backing=,file.driver=file,file.filename=${image}`,
        options: ['--image-opts', '--allocation-depth'],
      }
    : { file: image, options: ['--format=qcow2', '--allocation-depth'] };
}
