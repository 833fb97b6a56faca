// One writer: two runs on one target, a run that was stopped while another took over, a journal that is not ours.
import { rm, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { type Cli, cli, type Run, describe as told } from '../support/cli.ts';
import type { CountingServer } from '../support/counting-server.ts';
import { loopDevice } from '../support/devices.ts';
import { difference, MiB, rawDisk } from '../support/images.ts';
import { site } from '../support/site.ts';

const SIZE = 160 * MiB;
let program: Cli;
let server: CountingServer;
const runs: Run[] = [];

/** A run that ends with its test, stopped or not. */
function start(args: readonly string[], by: Cli = program): Run {
  const run = by.start([...args, '--json', '--progress', 'none']);
  runs.push(run);
  return run;
}

/** Waits until the server has sent that many bytes of this run. */
async function sent(bytes: number): Promise<void> {
  for (let waited = 0; server.bytes < bytes; waited += 10) {
    if (waited > 30_000) throw new Error(`${server.bytes} of ${bytes} bytes were fetched in 30 s`);
    await sleep(10);
  }
}

const at = site(async (opened) => {
  ({ program, server } = opened);
  await rawDisk(at('www/raw'), SIZE, { run: MiB, zeros: 0.2 });
});

afterEach(async () => {
  for (const run of runs.splice(0)) {
    run.child.kill('SIGKILL');
    await run.ended;
  }
  await rm(at('target'), { force: true });
  server.nextRun();
});

describe.each(['file', 'device'])('on a %s', (kind) => {
  async function target(): Promise<{ path: string } & AsyncDisposable> {
    if (kind === 'device') return await loopDevice(at('target'), SIZE);
    return { path: at('target'), [Symbol.asyncDispose]: async () => undefined };
  }

  test('the second of two runs is told BUSY at once, also while the first is stopped', async () => {
    await using aim = await target();
    const url = `${server.url}/raw`;
    const first = start(['import', url, aim.path, '--rate', '10MB/s']);
    await sent(4 * MiB);
    const second = await program.refused([url, aim.path]);
    expect(second).toMatchObject({ code: 'BUSY', exit: 20 });
    expect(second.seconds).toBeLessThan(3);
    first.child.kill('SIGSTOP');
    const third = await program.refused([url, aim.path, '--force', '--fresh']);
    expect(third).toMatchObject({ code: 'BUSY', exit: 20 });
    first.child.kill('SIGKILL');
    await first.ended;
    await program.imported([url, aim.path]);
    expect(await difference(at('www/raw'), aim.path, SIZE)).toBeUndefined();
  });

  test('of runs that begin in the same moment one wins', async () => {
    await using aim = await target();
    const all = [0, 1, 2].map(() => start(['import', `${server.url}/raw`, aim.path, '--rate', '60MB/s']));
    const codes = (await Promise.all(all.map((run) => run.ended))).map((ended) => ended.code);
    expect(codes.toSorted((a, b) => Number(a) - Number(b))).toEqual([0, 20, 20]);
    expect(await difference(at('www/raw'), aim.path, SIZE)).toBeUndefined();
  });

  test('a journal of another key is not resumed', async () => {
    await using aim = await target();
    const url = `${server.url}/raw`;
    const other = await cli(at(''), 'other');
    const forged = start(['import', url, aim.path, '--rate', '20MB/s'], other);
    await sent(70 * MiB);
    forged.child.kill('SIGKILL');
    await forged.ended;
    const refusal = await program.refused([url, aim.path]);
    expect(refusal).toMatchObject({ code: 'DENIED', exit: 11 });
    expect(refusal.message).toMatch(/--force/);
    server.nextRun();
    const report = await program.imported([url, aim.path, '--force']);
    expect(report.resumes).toBe(0);
    expect(report.resumedAt ?? 0).toBe(0);
    expect(report.receivedBytes).toBeGreaterThanOrEqual(SIZE);
    expect(await difference(at('www/raw'), aim.path, SIZE)).toBeUndefined();
  });
});

describe('a run that was stopped while another took over stops by itself when continued', () => {
  // Two devices over one file stand for two hosts that see one volume: the lock of one is not seen by the other.
  test.each(['is still running', 'has finished'])(
    'the other %s',
    async (state) => {
      await using here = await loopDevice(at('target'), SIZE);
      await using there = await loopDevice(at('target'), SIZE);
      const url = `${server.url}/raw`;
      const first = start(['import', url, here.path, '--rate', '20MB/s']);
      await sent(60 * MiB);
      first.child.kill('SIGSTOP');
      await sleep(200);
      const second = start(['import', url, there.path, ...(state === 'has finished' ? [] : ['--rate', '15MB/s'])]);
      if (state === 'has finished') expect((await second.ended).code).toBe(0);
      else await sleep(1500);
      first.child.kill('SIGCONT');
      const stopped = await first.ended;
      expect(stopped.code, told(stopped)).toBe(20);
      const ended = await second.ended;
      expect(ended.code, told(ended)).toBe(0);
      expect(await difference(at('www/raw'), at('target'))).toBeUndefined();
      expect((await stat(at('target'))).size).toBe(SIZE);
    },
    60_000,
  );
});
