// What a person meets at the command line: stopping and going on, targets that are not ours, what is said and what never is.
import { createReadStream } from 'node:fs';
import { chmod, mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { type Cli, describe as told } from '../support/cli.ts';
import type { CountingServer } from '../support/counting-server.ts';
import { loopDevice } from '../support/devices.ts';
import { difference, MiB, rawDisk, run, sha256, shell } from '../support/images.ts';
import { rawAndQcow2, site } from '../support/site.ts';

const SIZE = 96 * MiB;
let program: Cli;
let server: CountingServer;

const at = site(async (opened) => {
  ({ program, server } = opened);
  await rawAndQcow2(at('www'), SIZE);
});

describe('stopping', () => {
  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)(
    '%s ends it within a second, and the same command goes on',
    async (signal, code) => {
      for (const name of ['raw', 'qcow2', '-']) {
        const target = at(`stopped-${signal}-${name === '-' ? 'stdin' : name}.img`);
        const args = ['import', name === '-' ? '-' : `${server.url}/${name}`, target];
        const input = name === '-' ? { stdin: createReadStream(at('www/raw')) } : {};
        const running = program.start([...args, '--rate', '15MB/s'], input);
        await sleep(3500);
        const at0 = performance.now();
        running.child.kill(signal);
        const ended = await running.ended;
        expect(performance.now() - at0, told(ended)).toBeLessThan(1000);
        expect(ended.code, told(ended)).toBe(code);
        expect(ended.stderr).toMatch(/same command/);
        const again = await program.imported(
          args.slice(1),
          name === '-' ? { stdin: createReadStream(at('www/raw')) } : {},
        );
        expect(again.resumes, name).toBe(1);
        expect(await difference(at('www/raw'), target)).toBeUndefined();
        await rm(target);
      }
    },
    60_000,
  );

  test('while the source is silent, and while it is being opened', async () => {
    for (const path of ['/silent', '/raw']) {
      server.manners.answer = (request) => path === '/silent' || request.headers.range?.startsWith('bytes=0-') !== true;
      const running = program.start(['import', `${server.url}${path}`, at('silent.img')]);
      await sleep(1200);
      const at0 = performance.now();
      running.child.kill('SIGINT');
      const ended = await running.ended;
      expect(performance.now() - at0).toBeLessThan(1000);
      expect(ended.code, told(ended)).toBe(130);
    }
    delete server.manners.answer;
    await rm(at('silent.img'), { force: true });
  });
});

describe('a finished file', () => {
  test('is recognised; --force and --fresh begin anew; another source is refused', async () => {
    const args = [`${server.url}/raw`, at('done.img')];
    const first = await program.imported(args);
    expect((await stat(at('done.img'))).mode & 0o777).toBe(0o660 & ~process.umask());
    server.nextRun();
    const second = await program.imported(args);
    expect(second).toMatchObject({ outcome: 'already-done', diskDigest: first.diskDigest, written: 0 });
    expect(server.nextRun().bytes).toBeLessThanOrEqual(MiB);
    const plain = await program.run(['import', ...args, '--progress', 'none']);
    expect(plain.stdout).toMatch(/already/i);
    expect((await program.imported([...args, '--force'])).outcome).toBe('done');
    expect(await difference(at('www/raw'), at('done.img'))).toBeUndefined();
    const other = await program.refused([`${server.url}/qcow2`, at('done.img')]);
    expect(other).toMatchObject({ code: 'DENIED', exit: 11 });
    // Changed since: no longer the finished disk, but a file with content.
    await writeFile(at('done.img'), 'mine', { flag: 'r+' });
    expect(await program.refused(args)).toMatchObject({ code: 'DENIED' });
    expect((await readFile(at('done.img'))).subarray(0, 4).toString()).toBe('mine');
  });
});

describe('an unfinished transfer', () => {
  test('is shown by inspect, kept from other sources, dropped by forget, ignored with --fresh', async () => {
    const target = at('begun.img');
    const begin = async () => {
      await program.killedAfter(3500, [`${server.url}/raw`, target, '--rate', '15MB/s']);
    };
    await begin();
    const shown = await program.run(['inspect', target, '--json']);
    const found = JSON.parse(shown.stdout) as {
      target: { recovered: { kind: string; watermark: number; virtualSize: number } };
    };
    expect(found.target.recovered).toMatchObject({ kind: 'checkpoint', virtualSize: SIZE });
    expect(found.target.recovered.watermark).toBeGreaterThan(0);
    expect((await program.run(['inspect', target])).stdout).toMatch(/unfinished transfer[\s\S]*\/raw/);
    const other = await program.refused([`${server.url}/qcow2`, target]);
    expect(other).toMatchObject({ code: 'CHANGED', exit: 12 });
    expect(other.message).toMatch(/--fresh/);
    const fresh = await program.imported([`${server.url}/qcow2`, target, '--fresh']);
    expect(fresh.resumes).toBe(0);
    expect(await difference(at('www/raw'), target)).toBeUndefined();
    await rm(target);
    await begin();
    const forgotten = await program.run(['forget', target]);
    expect(forgotten.code, told(forgotten)).toBe(0);
    expect((await program.run(['forget', target])).code).toBe(10);
    await rm(target);
  }, 60_000);
});

describe('targets that are not ours', () => {
  test('a file with content, a device with a file system or a table, are kept without --force', async () => {
    await writeFile(at('letter'), 'dear reader');
    expect(await program.refused([`${server.url}/raw`, at('letter')])).toMatchObject({ code: 'DENIED', exit: 11 });
    expect(await readFile(at('letter'), 'utf8')).toBe('dear reader');
    for (const kind of ['ext4', 'gpt'] as const) {
      await using device = await loopDevice(at(`device-${kind}`), SIZE);
      if (kind === 'ext4') await run('mkfs.ext4', 'e2fsprogs', ['-q', '-F', device.path]);
      else await run('sgdisk', 'gdisk', ['-n', '1:0:0', device.path]);
      const before = await sha256(device.path);
      const refusal = await program.refused([`${server.url}/raw`, device.path]);
      expect(refusal).toMatchObject({ code: 'DENIED', exit: 11 });
      expect(refusal.message).toMatch(kind === 'ext4' ? /ext/i : /GPT|partition/i);
      expect(await sha256(device.path)).toBe(before);
      await program.imported([`${server.url}/raw`, device.path, '--force']);
      expect(await difference(at('www/raw'), device.path, SIZE)).toBeUndefined();
      // A finished device keeps no trace: it holds a disk of unknown origin.
      expect(await program.refused([`${server.url}/raw`, device.path])).toMatchObject({ code: 'DENIED' });
    }
  });

  test('a mounted device is never overwritten', async () => {
    await using device = await loopDevice(at('mounted'), SIZE);
    await run('mkfs.ext4', 'e2fsprogs', ['-q', '-F', device.path]);
    await mkdir(at('mnt'));
    await run('mount', 'mount', [device.path, at('mnt')]);
    try {
      const refusal = await program.refused([`${server.url}/raw`, device.path, '--force']);
      expect(['UNSAFE', 'BUSY']).toContain(refusal.code);
      expect(refusal.message).toMatch(/mount|in use/);
    } finally {
      await run('umount', 'mount', [at('mnt')]);
    }
  });
});

describe('what is said', () => {
  test('inspect a source, for people and programs', async () => {
    server.nextRun();
    const shown = await program.run(['inspect', `${server.url}/qcow2`, '--json']);
    expect(shown.code, told(shown)).toBe(0);
    const found = JSON.parse(shown.stdout) as {
      image: { format: string; virtualSize: number };
      plan: { way: string; resumable: boolean };
    };
    expect(found.image).toMatchObject({ format: 'qcow2', virtualSize: SIZE });
    expect(found.plan).toMatchObject({ way: 'stream', resumable: true });
    expect(server.nextRun().bytes).toBeLessThanOrEqual(MiB);
    const people = await program.run(['inspect', `${server.url}/qcow2`, at('absent.img')]);
    expect(people.stdout).toMatch(/qcow2/);
    await expect(stat(at('absent.img'))).rejects.toThrow();
  });

  test('progress as lines of JSON, and nothing but the report on standard output', async () => {
    const ended = await program.run([
      'import',
      `${server.url}/raw`,
      at('said.img'),
      '--rate',
      '40MB/s',
      '--progress',
      'json',
      '--json',
    ]);
    expect(ended.code, told(ended)).toBe(0);
    const lines = ended.stderr
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { progress?: { phase: string; percent?: number; bottleneck: string } });
    const seen = lines.flatMap((line) => (line.progress ? [line.progress] : []));
    expect(seen.length).toBeGreaterThan(2);
    for (const progress of seen) {
      expect(['source', 'decode', 'target', 'none']).toContain(progress.bottleneck);
      if (progress.percent === 100) expect(progress.phase).toBe('done');
    }
    expect(seen.at(-1)).toMatchObject({ phase: 'done', percent: 100 });
    expect(JSON.parse(ended.stdout)).toMatchObject({ outcome: 'done', virtualSize: SIZE });
    await rm(at('said.img'));
  });

  test('secrets that files give never come out', async () => {
    const [password, token] = ['p4ssw0rd-of-nobody', 'token-of-nobody'];
    await writeFile(at('credentials'), `someone:${password}\n`);
    await writeFile(at('headers'), `X-Token: ${token}\n`);
    await chmod(at('credentials'), 0o600);
    const basic = Buffer.from(`someone:${password}`).toString('base64');
    let refuse = false;
    server.manners.answer = (request, response) => {
      if (!refuse && request.headers.authorization === `Basic ${basic}` && request.headers['x-token'] === token)
        return false;
      response.writeHead(401, { 'www-authenticate': 'Basic' }).end();
      return true;
    };
    const secret = ['--credentials-file', at('credentials'), '--headers-file', at('headers')];
    const args = [
      'import',
      `${server.url}/raw?signature=${token}`,
      at('secret.img'),
      ...secret,
      '--rate',
      '15MB/s',
      '-v',
    ];
    const running = program.start(args, { env: { DISKFERRY_DEBUG: '1' } });
    await sleep(3300);
    const seen = [(await readFile(`/proc/${running.pid}/cmdline`, 'utf8')).replaceAll(`?signature=${token}`, '')];
    running.child.kill('SIGKILL');
    await running.ended;
    const journal = (await readFile(at('secret.img'))).toString('latin1');
    const inspected = await program.run(['inspect', at('secret.img'), '--json']);
    refuse = true;
    const failed = await program.run([...args, '--json'], { env: { DISKFERRY_DEBUG: '1' } });
    expect(failed.code, told(failed)).toBe(11);
    refuse = false;
    const done = await program.run([...args.filter((arg) => !/^(--rate|15MB)/.test(arg)), '--json']);
    expect(done.code, told(done)).toBe(0);
    for (const ended of [inspected, failed, done]) seen.push(ended.stdout, ended.stderr);
    seen.push(journal, (await readFile(at('secret.img'))).toString('latin1'));
    for (const text of seen) {
      expect(text.includes(password)).toBe(false);
      expect(text.includes(token)).toBe(false);
      expect(text.includes(basic)).toBe(false);
    }
    const refusal = await program.refused([`http://someone:${password}@127.0.0.1:${server.port}/raw`, at('never.img')]);
    expect(refusal).toMatchObject({ code: 'BAD_SPEC', exit: 2 });
    expect(refusal.message + refusal.stderr).not.toContain(password);
    delete server.manners.answer;
  }, 40_000);

  test('a digest picked from a list by name', async () => {
    const digest = (await sha256(at('www/qcow2'))).slice('sha256:'.length);
    await writeFile(at('www/SHA256SUMS'), `${'0'.repeat(64)}  raw\n${digest} *qcow2\n`);
    const report = await program.imported([
      `${server.url}/qcow2`,
      at('listed.img'),
      '--digests',
      `${server.url}/SHA256SUMS`,
    ]);
    expect(report.sourceDigest).toBe(`sha256:${digest}`);
    const refusal = await program.refused([
      `${server.url}/raw`,
      at('wrong.img'),
      '--digests',
      `${server.url}/SHA256SUMS`,
    ]);
    expect(refusal).toMatchObject({ code: 'DIGEST_MISMATCH', exit: 23 });
  });

  test('--preallocate reserves the whole disk', async () => {
    await program.imported([`${server.url}/qcow2`, at('reserved.img'), '--preallocate']);
    expect((await stat(at('reserved.img'))).blocks * 512).toBeGreaterThanOrEqual(SIZE);
    expect(await difference(at('www/raw'), at('reserved.img'))).toBeUndefined();
  });

  test('--preallocate reserves a disk of which only the end of a codec tells how long it is', async () => {
    // Two fifths of it are zeros, which would be left out.
    await rawDisk(at('www/late'), 16 * MiB);
    await shell(`gzip -1 ${at('www/late')} -c > ${at('www/late.gz')}`);
    await program.imported([`${server.url}/late.gz`, at('told-late.img'), '--preallocate']);
    expect((await stat(at('told-late.img'))).blocks * 512).toBeGreaterThanOrEqual(16 * MiB);
    expect(await difference(at('www/late'), at('told-late.img'))).toBeUndefined();
  });
});
