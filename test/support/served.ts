// `diskferry serve` over a directory, and curl, which asks it.
import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Volume } from '../../src/store/volume.ts';
import type { Cli, Run } from './cli.ts';
import { freePort } from './nginx.ts';
import { tool } from './tools.ts';

export interface Answer {
  /** Exit code of curl. */
  readonly code: number;
  readonly status: number;
  readonly body: string;
  /** Bytes of the body that curl sent. */
  readonly sent: number;
}

export class Served implements AsyncDisposable {
  readonly url: string;
  readonly running: Run;

  private constructor(url: string, running: Run) {
    this.url = url;
    this.running = running;
  }

  static async start(program: Cli, data: string, args: readonly string[] = ['--open'], port?: number): Promise<Served> {
    const listen = `127.0.0.1:${port ?? (await freePort())}`;
    const running = program.start(['serve', '--data', data, '--listen', listen, '-v', ...args], { longest: 600_000 });
    const served = new Served(`http://${listen}`, running);
    for (let tries = 0; tries < 300; tries += 1) {
      if (running.child.exitCode !== null) break;
      const { status } = await curl([`${served.url}/healthz`]).catch(() => ({ status: 0 }));
      if (status === 200) return served;
      await sleep(50);
    }
    throw new Error(`the server did not start: ${running.said()}`);
  }

  async volumes(): Promise<readonly Volume[]> {
    const { body } = await curl([`${this.url}/volumes`]);
    return (JSON.parse(body) as { volumes: Volume[] }).volumes;
  }

  async volume(name: string): Promise<Volume> {
    return JSON.parse((await curl([`${this.url}/volumes/${name}`])).body) as Volume;
  }

  /** Waits until nothing is on its way into a volume. */
  async settled(name: string): Promise<Volume> {
    for (let tries = 0; tries < 600; tries += 1) {
      const volume = await this.volume(name);
      if (volume.state !== 'receiving') return volume;
      await sleep(50);
    }
    throw new Error(`${name} does not come to an end`);
  }

  /** What it read of the body of the last request that was refused, bytes; as its log says. */
  async readOfRefused(): Promise<number> {
    for (let tries = 0; tries < 200; tries += 1) {
      const read = [...this.running.said().matchAll(/ read=(\d+).* outcome=/g)].at(-1)?.[1];
      if (read !== undefined) return Number(read);
      await sleep(50);
    }
    throw new Error(`no request was refused: ${this.running.said()}`);
  }

  async kill(): Promise<void> {
    this.running.child.kill('SIGKILL');
    await this.running.ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.running.child.kill('SIGTERM');
    await this.running.ended;
  }
}

/** Asks until it is true. */
export async function until(what: () => boolean | Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 400; tries += 1) {
    if (await what()) return;
    await sleep(50);
  }
  throw new Error(`it does not become true: ${what}`);
}

const TUS = { 'tus-resumable': '1.0.0' };

/** Begins an upload by tus; its address. */
export async function beginTus(server: Served, volume: string, length: number): Promise<string> {
  const told = `volume ${Buffer.from(volume).toString('base64')}`;
  const headers = { ...TUS, 'upload-length': String(length), 'upload-metadata': told };
  const answer = await fetch(`${server.url}/tus`, { method: 'POST', headers });
  return server.url + answer.headers.get('location');
}

/** Where an upload by tus goes on, bytes. */
export async function tusOffset(place: string): Promise<number> {
  const { headers } = await fetch(place, { method: 'HEAD', headers: TUS });
  return Number(headers.get('upload-offset'));
}

/** Runs curl; its exit code, the status, the body. */
export function curl(args: readonly string[]): Promise<Answer> {
  return new Promise((resolve) => {
    const all = ['-sS', '--max-time', '120', '-w', '\n%{http_code} %{size_upload}', ...args];
    const options = { maxBuffer: 64 << 20 };
    execFile(tool('curl', 'curl'), all, options, (error, stdout) => {
      const end = stdout.lastIndexOf('\n');
      const [status = 0, sent = 0] = stdout
        .slice(end + 1)
        .split(' ')
        .map(Number);
      const code = typeof error?.code === 'number' ? error.code : 0;
      resolve({ code, status, body: stdout.slice(0, Math.max(end, 0)), sent });
    });
  });
}
