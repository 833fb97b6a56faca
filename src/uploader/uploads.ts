import { FerryError } from '../dataplane/errors.ts';
import { parseIdentity } from '../dataplane/identity.ts';
import type { Filling } from '../store/filling.ts';
import type { Store } from '../store/store.ts';
import { keptHead } from './kept.ts';
import type { Kind, Metrics } from './metrics.ts';
import { type Declared, Upload, type UploadOptions, uploadOf } from './upload.ts';

interface Options extends Omit<UploadOptions, 'journalKey'> {
  readonly expiry: number;
  readonly store: Store;
  readonly metrics: Metrics;
  /** Uploads that are open at once. */
  readonly transfers: number;
}

/** How often unfinished uploads are looked at, milliseconds. */
const LOOK = 10_000;

/** Milliseconds without a body after which a sender counts as away. */
const AWAY = 30_000;

/** Uploads that can be gone on with, by their ids. */
export class Uploads implements AsyncDisposable {
  readonly #options: Options;
  readonly #known = new Map<string, Upload>();
  /** Of earlier processes, that are being taken up. */
  readonly #reviving = new Map<string, Promise<Upload | undefined>>();
  readonly #timer: NodeJS.Timeout;
  readonly #forOne: UploadOptions;

  constructor(options: Options) {
    this.#options = options;
    this.#forOne = {
      ...options,
      journalKey: { stateDirectory: options.store.stateDirectory },
      resumed: () => options.metrics.resumed(),
    };
    this.#timer = setInterval(() => this.#expire(), Math.min(LOOK, options.expiry));
    this.#timer.unref();
  }

  /**
   * As Store.fill, counted as `kind`; an upload of which nothing has come gives way: its sender may not know of it, where the
   * answer was lost or a proxy took no body of the size that followed, and finds out by NOT_FOUND where it does.
   */
  async claim(kind: Kind, name: string, replace: boolean): Promise<Filling> {
    const empty = [...this.#known.values()].find(
      (upload) => upload.volume === name && upload.open && !upload.sending && upload.offset === 0,
    );
    if (empty) await this.drop(empty, 'nothing was sent, and another upload took its place');
    const { store, metrics } = this.#options;
    return metrics.follow(kind, await store.fill(name, replace));
  }

  /** BUSY where as many as may be are being sent; one whose sender is away makes room, and can be gone on with. */
  async begin(filling: Filling, declared: Declared): Promise<Upload> {
    try {
      await this.#makeRoom();
    } catch (thrown) {
      filling.release();
      throw thrown;
    }
    const upload = new Upload(filling, declared, this.#forOne);
    this.#known.set(upload.id, upload);
    return upload;
  }

  /** One that this process knows, or an earlier one began; it goes on as `kind`. NOT_FOUND when there is none, or no longer. */
  async find(id: string, kind: Kind): Promise<Upload> {
    const upload = this.#known.get(id) ?? (await this.#revive(id, kind));
    if (upload) return upload;
    throw new FerryError('there is no such upload, or it has expired: begin anew', {
      code: 'NOT_FOUND',
      stage: 'source',
    });
  }

  async #makeRoom(): Promise<void> {
    const open = [...this.#known.values()].filter((upload) => upload.open);
    if (open.length < this.#options.transfers) return;
    const away = open.filter((one) => !one.sending && !one.complete && Date.now() - one.active > AWAY);
    const [longest] = away.sort((one, other) => one.active - other.active);
    if (!longest) {
      const message = `${open.length} uploads are under way, which is as many as may be: try again`;
      throw new FerryError(message, { code: 'BUSY', stage: 'plan', retryable: true, retryAfter: 5 });
    }
    this.#known.delete(longest.id);
    await longest.abandon('it made room for another upload: it can be gone on with', false);
  }

  #revive(id: string, kind: Kind): Promise<Upload | undefined> {
    const reviving = this.#reviving.get(id) ?? this.#revived(id, kind).finally(() => this.#reviving.delete(id));
    this.#reviving.set(id, reviving);
    return reviving;
  }

  async #revived(id: string, kind: Kind): Promise<Upload | undefined> {
    const { store, metrics } = this.#options;
    for (const { name, recovered, kept } of await store.unfinished()) {
      if (recovered.kind !== 'checkpoint' && recovered.kind !== 'finishing') continue;
      const found = uploadOf(parseIdentity(recovered.identity));
      if (found?.id !== id) continue;
      const head = await keptHead(kept);
      if (!head) continue;
      const { declared } = found;
      const offset = recovered.kind === 'finishing' ? (declared.length ?? 0) : recovered.watermark;
      await this.#makeRoom();
      // It was allowed to when it began.
      const filling = metrics.follow(kind, await store.fill(name, true));
      const upload = new Upload(filling, declared, this.#forOne, { id, offset, head });
      this.#known.set(id, upload);
      // Only the last steps are left: nothing more is wanted of its sender.
      if (recovered.kind === 'finishing') void upload.finish();
      return upload;
    }
    return undefined;
  }

  /** Milliseconds since 1970 when it will be dropped. */
  expires(upload: Upload): number {
    return upload.active + this.#options.expiry;
  }

  /** Nobody will go on with it: what came of it goes, unless it is whole. */
  async drop(upload: Upload, why: string): Promise<void> {
    this.#known.delete(upload.id);
    await upload.abandon(why, true);
  }

  /** What earlier processes left too. Finished ones are told about for as long as unfinished ones are waited for. */
  #expire(): void {
    const { store, metrics, log, expiry } = this.#options;
    store.tidy(expiry).then(
      (dropped) => metrics.expired(dropped),
      (thrown: Error) => log.warn(`what is unfinished could not be looked at: ${thrown.message}`),
    );
    for (const upload of this.#known.values()) {
      if (upload.sending || this.expires(upload) > Date.now()) continue;
      const why = `nobody went on with it for ${expiry / 1000} s`;
      if (upload.open && !upload.complete) {
        log.warn(`the upload into ${upload.volume} was dropped: ${why}`);
        metrics.expired(1);
      }
      void this.drop(upload, why);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all([...this.#known.values()].map((upload) => upload.abandon('the server was stopped', false)));
  }
}
