import type { TransferReport } from '../../dataplane/transfer.ts';

/** What a person wants to know of a volume that was made. */
export function reported(name: string, report: TransferReport): object {
  const { virtualSize, format, codecs, sourceBytes, sourceDigest, diskDigest, written, seconds } = report;
  return {
    name,
    state: 'ready',
    size: virtualSize,
    diskDigest,
    ...(sourceDigest === undefined ? {} : { sourceDigest }),
    format,
    codecs,
    sourceBytes,
    written,
    seconds: Math.round(seconds * 1000) / 1000,
  };
}
