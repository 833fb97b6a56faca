import { randomBytes } from 'node:crypto';
import { asFerryError, FerryError } from '../dataplane/errors.ts';
import { hostKey } from '../dataplane/hostkey.ts';
import { fromEngine, native, type Patch } from '../dataplane/native.ts';
import type { Filling, Made } from '../store/filling.ts';

/** A volume that somebody writes ranges into, in any order, until it is said to be whole. */
export class Assembly {
  readonly id = randomBytes(16).toString('hex');
  readonly volume: string;
  /** Bytes of the disk. */
  readonly size: number;
  /** Milliseconds since 1970 when something was last asked of it. */
  active = Date.now();
  /** Bytes of bodies that came. */
  received = 0;
  readonly #filling: Filling;
  readonly #patch: Patch;
  /** Resolved when it is said to be whole, with the disk digest that it must have; rejected when it will not be. */
  readonly #whole: PromiseWithResolvers<string | undefined>;
  readonly #made: Promise<Made>;
  /** Requests that write; undefined once it is said to be whole: then nobody may any more, since it is read for its digest. */
  #writers: number | undefined = 0;

  private constructor(
    filling: Filling,
    size: number,
    patch: Patch,
    whole: PromiseWithResolvers<string | undefined>,
    made: Promise<Made>,
  ) {
    this.volume = filling.name;
    this.#filling = filling;
    filling.received = () => this.received;
    this.size = size;
    this.#patch = patch;
    this.#whole = whole;
    this.#made = made;
  }

  /** A disk of zeros. Throws TOO_LARGE, NO_SPACE. */
  static async begin(filling: Filling, size: number, stateDirectory: string): Promise<Assembly> {
    // What is unfinished cannot be gone on with: nobody but its sender knows what was written.
    filling.lost = true;
    const whole = Promise.withResolvers<string | undefined>();
    const begun = Promise.withResolvers<Patch>();
    const made = filling.fill(async (signal) => {
      const target = await native().openTarget({ path: filling.path, key: await hostKey(stateDirectory) });
      try {
        const identity = JSON.stringify({ name: `pieces of ${filling.name}`, size });
        const patch = await native().beginPatch(target, { identity, size, preallocate: false });
        begun.resolve(patch);
        signal.addEventListener('abort', () => whole.reject(signal.reason), { once: true });
        try {
          const expected = await whole.promise;
          const diskDigest = await patch.finish();
          if (expected !== undefined && expected !== diskDigest) throw otherwise(diskDigest, expected);
          return { diskDigest, virtualSize: size };
        } finally {
          patch.abort();
        }
      } catch (thrown) {
        const error = asFerryError(fromEngine(thrown), 'target');
        begun.reject(error);
        throw error;
      } finally {
        await target.close();
      }
    });
    // Told to who waits for the one or the other.
    whole.promise.catch(() => undefined);
    return new Assembly(filling, size, await begun.promise, whole, made);
  }

  /** It was said to be whole. */
  get finishing(): boolean {
    return this.#writers === undefined;
  }

  /** Runs what writes, all of a request. BUSY when the disk is being finished. */
  async writing<T>(work: () => Promise<T>): Promise<T> {
    if (this.#writers === undefined) throw busy('it was said to be whole: nothing is written into it any more');
    this.#writers += 1;
    try {
      return await work();
    } finally {
      this.#writers -= 1;
    }
  }

  /** As Patch does, with our errors. */
  async act<T>(act: (patch: Patch) => Promise<T>): Promise<T> {
    this.active = Date.now();
    try {
      return await act(this.#patch);
    } catch (thrown) {
      throw asFerryError(fromEngine(thrown), 'target');
    } finally {
      this.active = Date.now();
    }
  }

  async write(at: number, bytes: Uint8Array): Promise<void> {
    await this.act((patch) => patch.write(at, bytes));
    this.#filling.written += bytes.length;
  }

  /**
   * All was written: the volume is whole when this resolves, and the disk of this digest where one is told. May be called again.
   * BUSY while requests write; DIGEST_MISMATCH, and then nothing is left of it.
   */
  async finish(expected?: string): Promise<Made> {
    if (this.#writers) throw busy(`${this.#writers} requests are writing into it: finalize it when all are answered`);
    this.#writers = undefined;
    this.#whole.resolve(expected);
    return await this.#made;
  }

  /** Resolves when it is a volume, or will be none. */
  async over(): Promise<void> {
    await this.#made.catch(() => undefined);
  }

  async giveUp(why: string): Promise<void> {
    this.#whole.reject(new FerryError(why, { code: 'ABORTED', stage: 'source' }));
    await this.over();
  }
}

function otherwise(digest: string, expected: string): FerryError {
  const message = `what was written is the disk ${digest}, ${expected} was demanded: it was made no volume, send it again`;
  return new FerryError(message, { code: 'DIGEST_MISMATCH', stage: 'verify' });
}

function busy(message: string): FerryError {
  return new FerryError(message, { code: 'BUSY', stage: 'target' });
}
