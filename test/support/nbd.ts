// NBD servers on loopback: qemu-nbd and nbdkit, ended by their pids.
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort, listening, stop } from './nginx.ts';
import { tool } from './tools.ts';

export interface NbdServer extends AsyncDisposable {
  readonly port: number;
}

/** qemu-nbd with an export `disk` of a raw image, or what `more` says, for several clients; on a Unix socket where given. */
export async function qemuNbd(image: string, more: readonly string[] = [], socket?: string): Promise<NbdServer> {
  const port = await freePort();
  const place = socket === undefined ? ['--bind=127.0.0.1', `--port=${port}`] : [`--socket=${socket}`];
  const format = more.some((one) => /^--(format|image-opts)/.test(one)) ? [] : ['--format=raw'];
  const fixed = ['--read-only', '--persistent', '--shared=8', '--export-name=disk', ...format];
  return served(tool('qemu-nbd', 'qemu-utils'), [...fixed, ...place, ...more, image], port, socket);
}

/** nbdkit with whatever plugin; serves any export name. */
export async function nbdkit(args: readonly string[]): Promise<NbdServer> {
  const port = await freePort();
  const fixed = ['--foreground', '--exit-with-parent', '--readonly', '--ipaddr=127.0.0.1', `--port=${port}`];
  return served(tool('nbdkit', 'nbdkit'), [...fixed, ...args], port);
}

async function served(program: string, args: readonly string[], port: number, socket?: string): Promise<NbdServer> {
  let said = '';
  let over = false;
  const start = (): ChildProcess => {
    const started = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    started.stderr.on('data', (text: Buffer) => {
      said += text.toString();
    });
    // nbdkit 1.32 fails an assertion, rarely, when a connection is reset under it; whoever runs it starts it again.
    started.once('exit', (_, signal) => {
      if (signal === 'SIGABRT' && !over) child = start();
    });
    return started;
  };
  let child = start();
  if (socket === undefined) await listening(port, child, () => said);
  for (let tries = 0; socket !== undefined && !existsSync(socket); tries += 1) {
    if (tries > 300 || child.exitCode !== null) throw new Error(`${program} does not serve ${socket}: ${said}`);
    await sleep(100);
  }
  return {
    port,
    [Symbol.asyncDispose]: () => {
      over = true;
      return stop(child);
    },
  };
}
