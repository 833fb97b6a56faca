import type { Snapshot } from '../../dataplane/transfer.ts';

/**
 * Percent of the transfer, a whole number, undefined while neither length is known. 100 only when the disk is verified
 * and finished: until then 99 is the most that is shown.
 */
export function percent(snapshot: Snapshot): number | undefined {
  if (snapshot.phase === 'done') return 100;
  const { source, disk } = snapshot;
  const done = source.length !== undefined ? share(source.bytes, source.length) : share(disk.bytes, disk.length);
  if (snapshot.phase === 'verifying' || snapshot.phase === 'finishing') return 99;
  return done === undefined ? undefined : Math.max(0, Math.min(99, Math.floor(done * 100)));
}

function share(bytes: number, length: number | undefined): number | undefined {
  return length === undefined || length === 0 ? undefined : bytes / length;
}

/** `8s`, `1m05s`, `2h03m`, `3d04h`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const two = (n: number) => String(n).padStart(2, '0');
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86_400)}d${two(Math.floor((whole % 86_400) / 3600))}h`;
}
