import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Known, Memory } from '../uploader/client/memory.ts';
import { stateDirectory } from './state.ts';

/** An upload of this user's that another run can go on with: a file in the state directory. */
export class Unfinished implements Memory {
  readonly #path: string;
  known: Known | undefined;

  private constructor(path: string, known: Known | undefined) {
    this.#path = path;
    this.known = known;
  }

  /** The one of a file to an address. */
  static async of(file: string, url: URL): Promise<Unfinished> {
    const key = createHash('sha256').update(`${url.href}\n${file}`).digest('hex').slice(0, 32);
    const path = join(stateDirectory(), 'uploads', key);
    return new Unfinished(path, knownIn(await readFile(path, 'utf8').catch(() => '')));
  }

  async keep(known: Known): Promise<void> {
    this.known = known;
    await mkdir(dirname(this.#path), { recursive: true, mode: 0o700 });
    // Never half of it: a process may be killed at any moment.
    await writeFile(`${this.#path}.new`, JSON.stringify(known), { mode: 0o600 });
    await rename(`${this.#path}.new`, this.#path);
  }

  async forget(): Promise<void> {
    this.known = undefined;
    await rm(this.#path, { force: true });
  }
}

function knownIn(text: string): Known | undefined {
  try {
    const { way, place, of, sent } = JSON.parse(text) as Partial<Known>;
    if (way === undefined || typeof place !== 'string' || typeof of !== 'string') return undefined;
    return { way, place, of, ...(Number.isSafeInteger(sent) ? { sent: sent as number } : {}) };
  } catch {
    return undefined;
  }
}
