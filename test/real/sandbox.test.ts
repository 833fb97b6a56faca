// The threads of a transfer under way, as the kernel shows them: https://docs.kernel.org/filesystems/proc.html, "status".
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import type { Cli } from '../support/cli.ts';
import type { CountingServer } from '../support/counting-server.ts';
import { MiB, qcow2, rawDisk, run } from '../support/images.ts';
import { site } from '../support/site.ts';

let program: Cli;
let server: CountingServer;
const at = site(async (opened) => {
  ({ program, server } = opened);
  await rawDisk(at('www/raw'), 32 * MiB);
  await qcow2(at('www/raw'), at('www/qcow2'));
  await run('tar', 'tar', ['-C', at('www'), '-cf', at('www/tar'), 'raw']);
});

interface Thread {
  /** Its first 15 bytes. */
  readonly name: string;
  /** 2: a filter is installed. */
  readonly seccomp: string;
}

async function threads(pid: number): Promise<Thread[]> {
  const found: Thread[] = [];
  for (const task of await readdir(`/proc/${pid}/task`).catch(() => [])) {
    const status = await readFile(`/proc/${pid}/task/${task}/status`, 'utf8').catch(() => '');
    const field = (key: string): string => new RegExp(`^${key}:\\s*(.*)$`, 'm').exec(status)?.[1] ?? '';
    if (status !== '') found.push({ name: field('Name'), seccomp: field('Seccomp') });
  }
  return found;
}

test.each<[string, string[], ...string[]]>([
  ['raw', ['ferry-decode', 'ferry-hash', 'ferry-checkpoin', 'ferry-work-0']],
  ['qcow2', ['ferry-decode', 'ferry-work-0']],
  ['tar', ['ferry-unpack', 'ferry-hash'], '--archive'],
])('the threads that read %s are confined, the others are not', async (name, expected, ...options) => {
  const aim = ['import', `${server.url}/${name}`, at(`out-${name}`), ...options];
  const running = program.start([...aim, '--rate', '1MB/s', '--progress', 'none', '--verbose']);
  let seen: Thread[] = [];
  for (let turn = 0; turn < 100 && !expected.every((one) => seen.some(({ name }) => name === one)); turn++) {
    await sleep(100);
    seen = await threads(running.pid);
  }
  running.child.kill('SIGINT');
  const { stderr } = await running.ended;
  const engine = seen.filter(({ name }) => expected.includes(name));
  expect(
    engine.map(({ name }) => name),
    stderr,
  ).toEqual(expect.arrayContaining(expected));
  expect(engine.filter(({ seccomp }) => seccomp !== '2')).toEqual([]);
  const others = seen.filter(({ name }) => !name.startsWith('ferry-')).map(({ seccomp }) => seccomp);
  expect(new Set(others)).toEqual(new Set(['0']));
  expect(stderr).not.toContain('run without');
});
