/** What a file is, from its first bytes; for people, before anything is sent. The server decides. */
export interface Guess {
  readonly kind: string;
  /** Bytes of the disk, where the head says. */
  readonly size?: number;
}

const CODECS: readonly (readonly [name: string, magic: readonly number[]])[] = [
  ['gzip', [0x1f, 0x8b]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
  ['bzip2', [0x42, 0x5a, 0x68]],
  ['lz4', [0x04, 0x22, 0x4d, 0x18]],
  ['snappy', [0xff, 0x06, 0, 0, 0x73, 0x4e, 0x61, 0x50, 0x70, 0x59]],
  ['zip', [0x50, 0x4b, 3, 4]],
];

/** `head` is the first KiB or more, `length` that of the file in bytes. */
export function guess(head: Uint8Array, length: number): Guess {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const text = (at: number, n: number): string => String.fromCharCode(...head.subarray(at, at + n));
  const big = (at: number): number => Number(view.getBigUint64(at));
  const little = (at: number): number => Number(view.getBigUint64(at, true));
  if (head.length < 512) return { kind: 'too short for a disk' };
  if (text(0, 4) === 'QFI\xfb') return { kind: 'qcow2', size: big(24) };
  if (text(0, 4) === 'KDMV') return { kind: 'VMDK', size: little(12) * 512 };
  if (text(0, 8) === 'conectix') return { kind: 'VHD', size: big(48) };
  if (text(0, 8) === 'vhdxfile') return { kind: 'VHDX' };
  if (view.getUint32(64, true) === 0xbeda107f) return { kind: 'VDI', size: little(368) };
  if (text(257, 5) === 'ustar') return { kind: 'tar archive' };
  const codec = CODECS.find(([, magic]) => magic.every((byte, at) => head[at] === byte));
  if (codec) return { kind: `compressed with ${codec[0]}` };
  if (/^\s*<(!doctype|html|\?xml)/i.test(text(0, 256))) return { kind: 'a page of text, not a disk' };
  return { kind: 'raw disk', size: length };
}

const NAMES = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;

/** As formatSize of the data plane. */
export function readable(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1023.5 && unit < NAMES.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toPrecision(3)} ${NAMES[unit]}`;
}
