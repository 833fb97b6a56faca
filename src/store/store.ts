import type { Stats } from 'node:fs';
import { lstat, mkdir, open, readdir, rename, rm, stat, statfs } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Log } from '../dataplane/context.ts';
import { asFerryError, FerryError } from '../dataplane/errors.ts';
import { hostKey } from '../dataplane/hostkey.ts';
import { parseIdentity } from '../dataplane/identity.ts';
import { inspectTarget } from '../dataplane/inspect.ts';
import { type NativeTarget, native, type Recovered } from '../dataplane/native.ts';
import { Filling, type Made, type Places } from './filling.ts';
import { type Failure, isVolumeName, type Volume, volumeName } from './volume.ts';

/** What was on its way into a volume. */
export interface Unfinished {
  readonly name: string;
  readonly recovered: Recovered;
  /** Milliseconds since 1970 when something last came. */
  readonly changed: number;
  /** See Filling. */
  readonly kept: string;
}

const SUFFIX = '.img';
/** Of names into which nothing came, that are remembered. */
const MOST_FAILURES = 1000;
/** What is ours and no volume. */
const OWN = '.diskferry';

/**
 * A directory of disks, `NAME.img` each, all of them whole and verified: what is on its way lies in a directory of its own,
 * and comes over by a rename. Nothing else is kept: a volume says by itself what it is (its mark, docs/journal.md). One
 * process at a time has it.
 */
export class Store implements AsyncDisposable {
  readonly #directory: string;
  readonly #own: NativeTarget;
  readonly #log: Log;
  /** Volumes that something is done with. */
  readonly #fillings = new Map<string, Filling>();
  readonly #held = new Set<string>();
  /** What files were when they were last opened. */
  readonly #seen = new Map<string, { readonly version: string; readonly volume: Volume }>();
  readonly #failures = new Map<string, Failure>();

  private constructor(directory: string, own: NativeTarget, log: Log) {
    this.#directory = directory;
    this.#own = own;
    this.#log = log;
  }

  /** Makes the directory where it does not exist. BUSY when another process has it. */
  static async open(directory: string, log: Log): Promise<Store> {
    const at = resolve(directory);
    await mkdir(join(at, OWN, 'incoming'), { recursive: true });
    const lock = join(at, OWN, 'lock');
    await (await open(lock, 'a')).close();
    const key = await hostKey(join(at, OWN));
    const own = await native()
      .openTarget({ path: lock, key })
      .catch((thrown: unknown) => {
        throw new FerryError(`${at} is served by another process already`, {
          code: 'BUSY',
          stage: 'target',
          cause: thrown,
        });
      });
    return new Store(at, own, log);
  }

  get directory(): string {
    return this.#directory;
  }

  /** Bytes that the directory has room for. */
  async free(): Promise<number> {
    const { bavail, bsize } = await statfs(this.#directory);
    return bavail * bsize;
  }

  /** Where the key is that authenticates journals. */
  get stateDirectory(): string {
    return join(this.#directory, OWN);
  }

  #places(name: string): Places {
    return { spill: join(this.#directory, OWN, 'incoming'), kept: `${this.#incoming(name)}.kept` };
  }

  /** The file of a volume, which may not exist. */
  path(name: string): string {
    return join(this.#directory, volumeName(name) + SUFFIX);
  }

  /** Tells a volume from every other one that has had, or will have, its name. */
  async incarnation(name: string): Promise<string> {
    const found = await lstat(this.path(name)).catch(() => undefined);
    return found ? `${found.ino} ${found.birthtimeMs}` : 'none';
  }

  #incoming(name: string): string {
    return join(this.#directory, OWN, 'incoming', name + SUFFIX);
  }

  async list(): Promise<Volume[]> {
    const found = await readdir(this.#directory, { withFileTypes: true });
    const coming = await readdir(join(this.#directory, OWN, 'incoming'));
    const files = found.filter((one) => one.isFile() && one.name.endsWith(SUFFIX)).map((one) => one.name);
    const unfinished = coming.filter((file) => file.endsWith(SUFFIX));
    const names = new Set([...files, ...unfinished].map((file) => file.slice(0, -SUFFIX.length)));
    for (const name of [...this.#fillings.keys(), ...this.#failures.keys()]) names.add(name);
    // Files that people put there may have names that no address has.
    const volumes = await Promise.all(
      [...names]
        .filter(isVolumeName)
        .sort()
        .map((name) => this.#look(name)),
    );
    return volumes.filter((volume) => volume !== undefined);
  }

  /** NOT_FOUND when there is none. */
  async show(name: string): Promise<Volume> {
    const volume = await this.#look(volumeName(name));
    if (volume) return volume;
    throw missing(name);
  }

  async #look(name: string): Promise<Volume | undefined> {
    const filling = this.#fillings.get(name);
    if (filling) return filling.volume;
    const last = this.#failures.get(name);
    const failure = last === undefined ? {} : { failure: last };
    const whole = await this.#inspect(name, this.path(name));
    if (whole) return { ...whole, ...failure };
    const coming = await this.#inspect(name, this.#incoming(name));
    if (coming) return { ...coming, state: 'unfinished', ...failure };
    return last && { name, state: 'failed', failure: last };
  }

  /**
   * What a file is. It is opened, and locked for that moment, only when it has changed since it was looked at: who starts a
   * machine from it must not find it locked because somebody watches. `now`: also whether another program has it.
   */
  async #inspect(name: string, path: string, now = false): Promise<Volume | undefined> {
    // A link leads wherever whoever made it likes.
    const found = await lstat(path).catch(() => undefined);
    if (!found?.isFile()) {
      this.#seen.delete(path);
      return undefined;
    }
    const version = `${found.ino} ${found.size} ${found.mtimeMs} ${found.ctimeMs}`;
    const before = this.#seen.get(path);
    if (!now && before?.version === version) return before.volume;
    const volume = await this.#open(name, path, found);
    if (volume.state === 'busy') this.#seen.delete(path);
    else this.#seen.set(path, { version, volume });
    return volume;
  }

  async #open(name: string, path: string, found: Stats): Promise<Volume> {
    // stat(2): st_blocks counts units of 512 bytes whatever the file system's block is.
    const facts = { name, size: found.size, allocated: found.blocks * 512, changed: found.mtime.toISOString() };
    try {
      const { recovered } = await inspectTarget(path, this.stateDirectory);
      if (recovered.kind !== 'finished') return { ...facts, state: 'ready' };
      const source = parseIdentity(recovered.identity)?.name;
      const { diskDigest } = recovered;
      const state = source?.startsWith('blank:') ? 'blank' : 'ready';
      return { ...facts, state, diskDigest, ...(source === undefined ? {} : { source }) };
    } catch (thrown) {
      const { code, message } = asFerryError(thrown, 'target');
      if (code === 'BUSY') return { ...facts, state: 'busy' };
      return { ...facts, state: 'failed', failure: { code, message, at: new Date().toISOString() } };
    }
  }

  /**
   * Claims a volume to be filled: one that does not exist, a blank one, or any other with `replace`, which stays what it is
   * until the new disk is whole. BUSY while another transfer or program has it, CHANGED where it holds a disk.
   */
  async fill(name: string, replace: boolean): Promise<Filling> {
    volumeName(name);
    if (this.#fillings.has(name) || this.#held.has(name)) {
      const message = `another transfer into ${name} is under way: wait for it, go on with it, or delete ${name} to stop it`;
      throw new FerryError(message, { code: 'BUSY', stage: 'target' });
    }
    this.#held.add(name);
    try {
      const before = await this.#inspect(name, this.path(name), true);
      if (before?.state === 'busy') {
        throw new FerryError(`${name} is in use by another program`, { code: 'BUSY', stage: 'target' });
      }
      if (before && before.state !== 'blank' && !replace) {
        throw new FerryError(
          `${name} holds a disk already: take another name, delete it, or ask for its place (replace=true)`,
          {
            code: 'CHANGED',
            stage: 'target',
          },
        );
      }
      const filling = new Filling(
        name,
        this.#incoming(name),
        this.#places(name),
        before?.state === 'blank' ? before.size : undefined,
        {
          publish: (report) => this.#publish(name, report),
          discard: () => this.#discard(name),
          over: () => this.#fillings.delete(name),
          failed: ({ code, message }) => {
            const [oldest] = this.#failures.size < MOST_FAILURES ? [] : this.#failures.keys();
            if (oldest !== undefined) this.#failures.delete(oldest);
            this.#failures.set(name, { code, message, at: new Date().toISOString() });
            this.#log.warn(`nothing came into ${name}: ${message}`, { code });
          },
        },
      );
      this.#fillings.set(name, filling);
      this.#failures.delete(name);
      return filling;
    } finally {
      this.#held.delete(name);
    }
  }

  async #publish(name: string, { diskDigest, virtualSize }: Made): Promise<void> {
    await rename(this.#incoming(name), this.path(name));
    await this.#discard(name);
    await this.#settle();
    this.#log.info(`${name} is whole`, { diskDigest, virtualSize });
  }

  async #discard(name: string): Promise<void> {
    for (const path of [this.#incoming(name), `${this.#incoming(name)}.kept`]) await rm(path, { force: true });
  }

  /** Volumes that something was on its way into, and what the journal says of it. */
  async unfinished(): Promise<Unfinished[]> {
    const found: Unfinished[] = [];
    for (const file of await readdir(join(this.#directory, OWN, 'incoming'))) {
      if (!file.endsWith(SUFFIX)) continue;
      const name = file.slice(0, -SUFFIX.length);
      if (this.#fillings.has(name)) continue;
      const path = this.#incoming(name);
      try {
        const { mtimeMs } = await stat(path);
        const { recovered } = await inspectTarget(path, this.stateDirectory);
        found.push({ name, recovered, changed: mtimeMs, kept: `${path}.kept` });
      } catch (thrown) {
        // One that cannot be read, or has just gone, is no reason to leave the others.
        this.#log.warn(`what came into ${name} cannot be looked at: ${(thrown as Error).message}`);
      }
    }
    return found;
  }

  /**
   * Brings over what was whole when an earlier process ended, and drops what nobody went on with for `expiry` milliseconds: so
   * many.
   */
  async tidy(expiry: number): Promise<number> {
    let dropped = 0;
    for (const { name, recovered, changed } of await this.unfinished()) {
      // Its sender may have come back since it was looked at; who comes back now is told to try again.
      if (this.#fillings.has(name) || this.#held.has(name)) continue;
      this.#held.add(name);
      try {
        if (recovered.kind === 'finished') await this.#publish(name, recovered);
        else if (Date.now() - changed > expiry) {
          this.#log.warn(`what had come into ${name} was dropped: nobody went on with it for ${expiry / 1000} s`);
          await this.#discard(name);
          dropped += 1;
        }
      } finally {
        this.#held.delete(name);
      }
    }
    return dropped;
  }

  /** NOT_FOUND, BUSY. What is on its way into it is stopped and goes too. */
  async remove(name: string): Promise<void> {
    await this.show(name);
    const filling = this.#fillings.get(name);
    this.#failures.delete(name);
    if (filling) {
      await filling.stop(`${name} was deleted`);
      await this.#discard(name);
      this.#failures.delete(name);
      if (!(await this.#inspect(name, this.path(name)))) return;
    }
    if ((await this.#inspect(name, this.path(name), true))?.state === 'busy') {
      throw new FerryError(`${name} is in use by another program`, { code: 'BUSY', stage: 'target' });
    }
    await rm(this.path(name), { force: true });
    await this.#discard(name);
    await this.#settle();
  }

  /** NOT_FOUND, BUSY while something has it, CHANGED where the other name is taken. */
  async rename(name: string, other: string): Promise<Volume> {
    const volume = await this.show(name);
    const to = this.path(other);
    if (volume.state !== 'ready' && volume.state !== 'blank') {
      throw new FerryError(`${name} is ${volume.state}: it can be renamed when it is whole`, {
        code: 'BUSY',
        stage: 'target',
      });
    }
    if (this.#held.has(other) || (await this.#look(other))) {
      throw new FerryError(`there is a volume ${other} already`, { code: 'CHANGED', stage: 'target' });
    }
    await rename(this.path(name), to);
    await this.#settle();
    return this.show(other);
  }

  /** Entries of a directory have a flush of their own (fsync(2)). */
  async #settle(): Promise<void> {
    await using directory = await open(this.#directory, 'r');
    await directory.sync();
  }

  /** Stops what is under way. What can go on stays for that. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#fillings.values()].map((filling) => filling.stop('the server was stopped')));
    await this.#own.close();
  }
}

function missing(name: string): FerryError {
  return new FerryError(`there is no volume ${name}`, { code: 'NOT_FOUND', stage: 'target' });
}
