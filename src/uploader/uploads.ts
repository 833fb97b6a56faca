import { FerryError } from '../dataplane/errors.ts';
import type { Filling } from '../store/filling.ts';
import { type Declared, Upload, type UploadOptions } from './upload.ts';

interface Options extends UploadOptions {
  readonly expiry: number;
}

/** How often unfinished uploads are looked at, milliseconds. */
const LOOK = 10_000;

/** Uploads that can be gone on with, by their ids. */
export class Uploads implements AsyncDisposable {
  readonly #options: Options;
  readonly #known = new Map<string, Upload>();
  readonly #timer: NodeJS.Timeout;

  constructor(options: Options) {
    this.#options = options;
    this.#timer = setInterval(() => this.#expire(), Math.min(LOOK, options.expiry));
    this.#timer.unref();
  }

  begin(filling: Filling, declared: Declared): Upload {
    const upload = new Upload(filling, declared, this.#options);
    this.#known.set(upload.id, upload);
    return upload;
  }

  /** NOT_FOUND when there is none, or no longer. */
  find(id: string): Upload {
    const upload = this.#known.get(id);
    if (upload) return upload;
    throw new FerryError('there is no such upload, or it has expired: begin anew', {
      code: 'NOT_FOUND',
      stage: 'source',
    });
  }

  /** Milliseconds since 1970 when it will be dropped. */
  expires(upload: Upload): number {
    return upload.active + this.#options.expiry;
  }

  async drop(upload: Upload, why: string): Promise<void> {
    this.#known.delete(upload.id);
    await upload.abandon(why);
  }

  /** Finished ones are told about for as long as unfinished ones are waited for. */
  #expire(): void {
    for (const upload of this.#known.values()) {
      if (upload.sending || this.expires(upload) > Date.now()) continue;
      const why = `nobody went on with it for ${this.#options.expiry / 1000} s`;
      if (!upload.complete) this.#options.log.warn(`the upload into ${upload.volume} was dropped: ${why}`);
      void this.drop(upload, why);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all([...this.#known.values()].map((upload) => this.drop(upload, 'the server was stopped')));
  }
}
