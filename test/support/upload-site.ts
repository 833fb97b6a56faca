// A site with `diskferry serve`, and a line to it that can be made bad: where the tests of uploads take place.
import { afterAll, beforeAll, beforeEach } from 'vitest';
import { FaultProxy } from '../faults/proxy.ts';
import type { Cli } from './cli.ts';
import { freePort } from './nginx.ts';
import { Served } from './served.ts';
import { type At, type Site, site } from './site.ts';

/** Not before the first test's set-up. */
export interface UploadSite {
  readonly program: Cli;
  readonly server: Served;
  /** Before the server; without faults, and at 0 bytes, when a test begins. */
  readonly proxy: FaultProxy;
  readonly at: At;
  /** The disk of a volume. */
  file(volume: string): string;
  /** Kills the server and starts another one at the same place. */
  restart(): Promise<void>;
}

export function uploadSite(prepare: (at: At, opened: Site) => Promise<void>): UploadSite {
  let program: Cli;
  let server: Served;
  let proxy: FaultProxy;
  let port: number;
  const at = site(async (opened) => {
    ({ program } = opened);
    await prepare(at, opened);
  });
  const start = (): Promise<Served> => Served.start(program, at('data'), ['--open'], port);
  beforeAll(async () => {
    port = await freePort();
    server = await start();
    proxy = await FaultProxy.start({ port });
  }, 60_000);
  afterAll(async () => {
    await proxy?.[Symbol.asyncDispose]();
    await server?.[Symbol.asyncDispose]();
  });
  beforeEach(() => {
    proxy.faults = {};
    proxy.sent = 0;
  });
  return {
    at,
    file: (volume) => at(`data/${volume}.img`),
    get program() {
      return program;
    },
    get server() {
      return server;
    },
    get proxy() {
      return proxy;
    },
    async restart() {
      await server.kill();
      server = await start();
    },
  };
}
