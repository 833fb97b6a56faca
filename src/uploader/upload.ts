import { randomBytes } from 'node:crypto';
import type { Readable } from 'node:stream';
import type { Claim } from '../dataplane/claim.ts';
import type { Log } from '../dataplane/context.ts';
import { formatDigest, parseDigest } from '../dataplane/digests.ts';
import { asFerryError, FerryError } from '../dataplane/errors.ts';
import type { Identity } from '../dataplane/identity.ts';
import type { Digest } from '../dataplane/source.ts';
import type { TransferOptions, TransferReport } from '../dataplane/transfer.ts';
import type { Filling } from '../store/filling.ts';
import { type Before, type Content, Pipe } from './pipe.ts';

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
  readonly memory?: TransferOptions['memory'];
  readonly rate?: TransferOptions['rate'];
  /** Milliseconds of silence after which a body is given up. */
  readonly stall: number;
  /** What authenticates the journals: see TransferOptions. */
  readonly journalKey: TransferOptions['journalKey'];
  /** Of a volume that is a claim's: see TransferOptions. */
  readonly claim?: Claim;
  readonly preallocate?: boolean;
  /** Told when it goes on that had been cut. */
  readonly resumed?: () => void;
  readonly content?: Content;
}

/** Of an upload that an earlier process began. */
export interface Past extends Before {
  readonly id: string;
}

const NAME = 'upload of ';
/** Characters of a label that are kept: it is part of a journal's identity. */
const LONGEST_LABEL = 200;

/** The id of an upload whose journal has this identity, and what was declared of it; undefined for what is none. */
export function uploadOf(identity: Identity | undefined): { id: string; declared: Declared } | undefined {
  if (!identity?.name.startsWith(NAME) || identity.validator === undefined) return undefined;
  const { validator: id, length, digest, size, format, name } = identity;
  return {
    id,
    declared: {
      label: name.slice(NAME.length),
      ...(length === undefined ? {} : { length }),
      ...(digest === undefined ? {} : { digest: parseDigest(digest) }),
      ...(size === undefined ? {} : { size }),
      ...(format === undefined ? {} : { format }),
    },
  };
}

/** An image on its way from a sender into a volume: begun at its first byte, whole when the volume is. */
export class Upload {
  /** Who knows it may go on with the upload. */
  readonly id: string;
  readonly volume: string;
  readonly declared: Declared;
  /** Milliseconds since 1970 when something was last sent. */
  active = Date.now();
  readonly #pipe: Pipe;
  readonly #filling: Filling;
  readonly #result: Promise<TransferReport>;
  readonly #over = new AbortController();
  readonly #stall: number;
  #failure: FerryError | undefined;
  #report: TransferReport | undefined;
  /** What is being taken: a sender that came back may have left an earlier one, whose end is still to be noticed. */
  #body: Readable | undefined;
  #complete = false;
  /** What was taken last ended before its end. */
  #cut: boolean;
  readonly #resumed: () => void;

  constructor(
    filling: Filling,
    declared: Declared,
    {
      log,
      memory,
      rate,
      stall,
      journalKey,
      claim,
      preallocate = false,
      resumed = () => undefined,
      content,
    }: UploadOptions,
    past?: Past,
  ) {
    this.id = past?.id ?? randomBytes(16).toString('hex');
    this.#stall = stall;
    this.#resumed = resumed;
    this.#cut = past !== undefined;
    const { length, digest, size, format, label } = declared;
    this.volume = filling.name;
    this.#filling = filling;
    this.declared = declared;
    const name = NAME + (label ?? filling.name).slice(0, LONGEST_LABEL);
    this.#pipe = new Pipe(name, length, past, content);
    filling.received = () => this.offset - (past?.offset ?? 0);
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
            validator: this.id,
            ...(length === undefined ? {} : { length }),
            ...(digest === undefined ? {} : { digest: formatDigest(digest) }),
            ...(size === undefined ? {} : { size }),
            ...(format === undefined ? {} : { format }),
          },
          ...(filling.kept === undefined ? {} : { kept: filling.kept }),
        },
        sourceOptions: format === undefined ? {} : { format },
        connections: 1,
        fresh: past === undefined,
        force: past === undefined,
        preallocate,
        journalKey,
        ...(claim === undefined ? {} : { claim }),
        ...(digest === undefined ? {} : { digest }),
        ...(size === undefined ? {} : { size }),
        ...(memory === undefined ? {} : { memory }),
        ...(rate === undefined ? {} : { rate }),
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

  /** Nothing is decided yet: it takes memory and threads. */
  get open(): boolean {
    return this.#report === undefined && this.#failure === undefined;
  }

  get complete(): boolean {
    return this.#complete;
  }

  get sending(): boolean {
    return this.#body !== undefined;
  }

  get failure(): FerryError | undefined {
    return this.#failure;
  }

  get report(): TransferReport | undefined {
    return this.#report;
  }

  /** A sender comes back: a body of which it does not know that it is still taken is left. Where the upload goes on then. */
  settle(): number {
    if (this.#failure) throw this.#failure;
    this.#pipe.leave();
    return this.offset;
  }

  /**
   * Takes a body that begins at `offset`; whether it came to its end. Throws CHANGED where something else is wanted next, and
   * whatever became of the image.
   */
  async take(body: Readable, offset = this.offset): Promise<boolean> {
    this.settle();
    if (offset !== this.offset) {
      const message = `the upload goes on at byte ${this.offset}, not at ${offset}`;
      throw new FerryError(message, { code: 'CHANGED', stage: 'source' });
    }
    if (this.#cut) this.#resumed();
    this.#cut = true;
    this.#body = body;
    this.active = Date.now();
    try {
      const ended = await this.#pipe.take(body, this.#stall, this.#over.signal);
      this.#cut = !ended;
      // Of a body that was cut right at the end of the image nothing is missing.
      if (this.offset !== this.declared.length) return ended;
      void this.finish();
      return true;
    } finally {
      if (this.#body === body) this.#body = undefined;
      this.active = Date.now();
    }
  }

  /** All was sent: the disk is whole and verified when this resolves. Throws what is wrong with it. May be called again. */
  finish(): Promise<TransferReport> {
    this.#complete = true;
    this.#pipe.end();
    return this.#result;
  }

  /** The rest will not be sent to this process; where it is `lost`, to none. */
  async abandon(why: string, lost: boolean): Promise<void> {
    if (lost) this.#filling.lost = true;
    this.#pipe.fail(new FerryError(why, { code: 'TRUNCATED', stage: 'source' }));
    await this.#result.catch(() => undefined);
  }
}
