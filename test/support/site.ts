import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import { type Cli, cli } from './cli.ts';
import { CountingServer } from './counting-server.ts';
import { bootableDisk, qcow2 } from './images.ts';
import { tempdir } from './tempdir.ts';

/** Where a test of the whole program takes place. */
export interface Site {
  /** A directory of its own, gone after the tests of the file. */
  readonly path: string;
  readonly program: Cli;
  /** Serves `www` below the directory. */
  readonly server: CountingServer;
}

/** The path of what lies below the site's directory; '' is the directory itself. Not before the first test's set-up. */
export type At = (name: string) => string;

/**
 * Opens a site before the first test of a file, with `prepare` as the rest of the set-up, and closes it after the last.
 * Gives at once what names its files.
 */
export function site(prepare: (opened: Site) => void | Promise<void>): At {
  const stack = new AsyncDisposableStack();
  let path: string | undefined;
  beforeAll(async () => {
    ({ path } = stack.use(await tempdir()));
    const www = join(path, 'www');
    await mkdir(www);
    const server = stack.use(await CountingServer.start(www));
    await prepare({ path, program: await cli(path), server });
  });
  afterAll(() => stack.disposeAsync());
  return (name) => {
    if (path === undefined) throw new Error(`the site of ${name} is not open yet`);
    return join(path, name);
  };
}

/** One bootable disk of `size` bytes twice in a directory: as `raw` and as `qcow2`. */
export async function rawAndQcow2(directory: string, size: number): Promise<void> {
  await bootableDisk(join(directory, 'raw'), size);
  await qcow2(join(directory, 'raw'), join(directory, 'qcow2'));
}
