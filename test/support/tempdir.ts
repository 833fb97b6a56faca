import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface TempDir extends AsyncDisposable {
  readonly path: string;
}

/** A directory of its own, gone when disposed. */
export async function tempdir(): Promise<TempDir> {
  const path = await mkdtemp(join(tmpdir(), 'diskferry-test-'));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}
