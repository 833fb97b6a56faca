import { randomBytes } from 'node:crypto';
import type { Readable } from 'node:stream';
import type { Log } from '../dataplane/context.ts';
import { formatDigest } from '../dataplane/digests.ts';
import { asFerryError, FerryError } from '../dataplane/errors.ts';
import type { Digest } from '../dataplane/source.ts';
import type { TransferReport } from '../dataplane/transfer.ts';
import type { Filling } from '../store/filling.ts';
import { Pipe } from './pipe.ts';

/** What a sender says of an image before it comes. */
export interface Declared {
  /** Bytes of all of it. */
  readonly length?: number;
  readonly digest?: Digest;
  /** Exact bytes that the disk is to have. */
  readonly size?: number;
  /** Of the image; by its header where it is not told. */
  readonly format?: string;
  /** File name or whatever the sender calls it. */
  readonly label?: string;
}

export interface UploadOptions {
  readonly log: Log;
  /** See TransferOptions. */
  readonly memory?: number;
  /** Milliseconds of silence after which a body is given up. */
  readonly stall: number;
}

/** An image on its way from a sender into a volume: begun at its first byte, whole when the volume is. */
export class Upload {
  /** Who knows it may go on with the upload. */
  readonly id = randomBytes(16).toString('hex');
  readonly volume: string;
  readonly declared: Declared;
  /** Milliseconds since 1970 when something was last sent. */
  active = Date.now();
  readonly #pipe: Pipe;
  readonly #result: Promise<TransferReport>;
  readonly #over = new AbortController();
  readonly #stall: number;
  #failure: FerryError | undefined;
  #report: TransferReport | undefined;
  #sending = false;
  #complete = false;

  constructor(filling: Filling, declared: Declared, { log, memory, stall }: UploadOptions) {
    this.#stall = stall;
    const { length, digest, size, format, label } = declared;
    this.volume = filling.name;
    this.declared = declared;
    const name = `upload of ${label ?? filling.name}`;
    this.#pipe = new Pipe(name, length);
    filling.watch = ({ phase }) => {
      if (phase === 'moving') this.#pipe.admit();
    };
    this.#result = filling.carry(
      {
        source: name,
        opened: {
          open: async () => this.#pipe,
          identity: {
            name,
            ...(length === undefined ? {} : { length }),
            ...(digest === undefined ? {} : { digest: formatDigest(digest) }),
          },
        },
        sourceOptions: format === undefined ? {} : { format },
        connections: 1,
        fresh: true,
        force: true,
        preallocate: false,
        // What cannot be gone on with needs no key that lasts.
        journalKey: randomBytes(32),
        ...(digest === undefined ? {} : { digest }),
        ...(size === undefined ? {} : { size }),
        ...(memory === undefined ? {} : { memory }),
      },
      log,
    );
    this.#result.then(
      (report) => {
        this.#report = report;
      },
      (thrown: unknown) => {
        this.#failure = asFerryError(thrown, 'source');
        this.#over.abort(this.#failure);
      },
    );
  }

  /** Bytes that were taken. */
  get offset(): number {
    return this.#pipe.taken;
  }

  get complete(): boolean {
    return this.#complete;
  }

  get sending(): boolean {
    return this.#sending;
  }

  get failure(): FerryError | undefined {
    return this.#failure;
  }

  get report(): TransferReport | undefined {
    return this.#report;
  }

  /**
   * Takes a body that begins at `offset`; whether it came to its end. Throws CHANGED where something else is wanted next,
   * BUSY while another body comes, and whatever became of the image.
   */
  async take(body: Readable, offset = this.offset): Promise<boolean> {
    if (this.#failure) throw this.#failure;
    if (this.#sending) {
      throw new FerryError('another body of this upload is being sent', { code: 'BUSY', stage: 'source' });
    }
    if (offset !== this.offset) {
      const message = `the upload goes on at byte ${this.offset}, not at ${offset}`;
      throw new FerryError(message, { code: 'CHANGED', stage: 'source' });
    }
    this.#sending = true;
    this.active = Date.now();
    try {
      return await this.#pipe.take(body, this.#stall, this.#over.signal);
    } finally {
      this.#sending = false;
      this.active = Date.now();
    }
  }

  /** All was sent: the disk is whole and verified when this resolves. Throws what is wrong with it. May be called again. */
  finish(): Promise<TransferReport> {
    this.#complete = true;
    this.#pipe.end();
    return this.#result;
  }

  /** The rest will not be sent. */
  async abandon(why: string): Promise<void> {
    this.#pipe.fail(new FerryError(why, { code: 'TRUNCATED', stage: 'source' }));
    await this.#result.catch(() => undefined);
  }
}
