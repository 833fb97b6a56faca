import type { Content } from '../pipe.ts';

/** What CDI's clone source pod sends of a volume. */
export interface Clone {
  /** The volume becomes the disk in it, or has the files in it. */
  readonly of: 'disk' | 'files';
  readonly content: Content;
}

/** Where the disk of a file system is (CDI, pkg/common/common.go: DiskImageName). */
const DISK = 'disk.img';

/**
 * By the header `x-cdi-content-type`; undefined for what is no clone: other values mean nothing to CDI either. What is within
 * the framing is as the guest wrote it, so nothing is found out of it. `block`: the volume is a device.
 */
export function cloneOf(contentType: string | readonly string[] | undefined, block: boolean): Clone | undefined {
  switch (contentType) {
    case 'blockdevice-clone':
      return { of: 'disk', content: { codecs: ['snappy'], format: 'raw' } };
    case 'filesystem-clone':
      return block
        ? { of: 'disk', content: { codecs: ['snappy', 'tar'], format: 'raw', disk: { path: DISK } } }
        : { of: 'files', content: { codecs: ['snappy'] } };
    default:
      return undefined;
  }
}
