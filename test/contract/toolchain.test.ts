// What tests run is what `npm test` installs: one list, in scripts/toolchain.mjs.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { TOOLS } from '../../scripts/toolchain.mjs';

const tests = new URL('..', import.meta.url).pathname;

test('every program of the tests is installed by its package', async () => {
  const files = (await readdir(tests, { recursive: true })).filter((name) => name.endsWith('.ts'));
  const wanted = new Map<string, string>();
  for (const file of files) {
    const text = await readFile(join(tests, file), 'utf8');
    const calls = text.matchAll(/(?:\b(?:tool|run)\(\s*|name: )'([\w.-]+)',\s*(?:package: )?'([\w.-]+)'/g);
    for (const [, program, name] of calls) if (program && name) wanted.set(program, name);
  }
  expect(wanted.size).toBeGreaterThan(15);
  const listed = Object.fromEntries([...wanted.keys()].map((program) => [program, TOOLS[program]]));
  expect(listed).toEqual(Object.fromEntries(wanted));
});

test("every program of the engine's tests too", async () => {
  const native = join(tests, '../native');
  const files = (await readdir(native, { recursive: true })).filter((name) => /^\w+\/tests\/.*\.rs$/.test(name));
  const wanted = new Set<string>();
  for (const file of files) {
    const text = await readFile(join(native, file), 'utf8');
    const calls = text.matchAll(/(?:\b(?:run|Command::new)\(\s*"([\w.-]+)"|"(mkfs\.\w+|mkswap|s[fg]disk)")/g);
    for (const [, program, made] of calls) wanted.add(program ?? made ?? '');
  }
  expect(wanted.size).toBeGreaterThan(10);
  // Every system has these (coreutils, dash, gzip, tar), or none could run npm.
  const everywhere = ['sh', 'mkfifo', 'gzip', 'tar'];
  expect([...wanted].filter((program) => !everywhere.includes(program) && !(program in TOOLS))).toEqual([]);
});
