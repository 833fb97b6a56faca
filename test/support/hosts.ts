import { writeFile } from 'node:fs/promises';
import { tool } from './tools.ts';

/**
 * How to start a program for which names lead to addresses, as in a cluster: in a mount namespace of its own, where
 * /etc/hosts (hosts(5)) is a file of the test. As root.
 */
export async function withHosts(
  file: string,
  hosts: Readonly<Record<string, string>>,
  command: readonly string[],
): Promise<[program: string, args: string[]]> {
  const lines = Object.entries(hosts).map(([name, address]) => `${address} ${name}\n`);
  await writeFile(file, ['127.0.0.1 localhost\n', ...lines].join(''));
  const script = 'mount --bind "$1" /etc/hosts && shift && exec "$@"';
  return [tool('unshare', 'util-linux'), ['--mount', 'sh', '-c', script, 'sh', file, ...command]];
}
