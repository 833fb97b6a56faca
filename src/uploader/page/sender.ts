import { sha256 } from '@noble/hashes/sha2.js';

/** Bytes of one request: what a cut costs, and what proxies take. */
const PART = 8 * 1024 * 1024;
/** Smaller parts, where something on the way takes none of that size. */
const SMALL = 512 * 1024;
/** Milliseconds between two tries. */
const WAIT = 1000;
/** Bytes that are hashed without a look at what the person does: some milliseconds. */
const STEP = 512 * 1024;

export interface Where {
  readonly volume: string;
  readonly query: string;
}

/** What a server refused, in its words. */
export class Refused extends Error {}

/** What is done: the line takes bytes, it was cut, or what an earlier page sent is read again for its digest. */
export type Doing = 'sending' | 'trying' | 'reading';

/** One file on its way: in parts, gone on with after whatever happens to the line. */
export class Sender {
  readonly file: File;
  readonly where: Where;
  /** Who wants to know how far it is, in bytes. */
  seen: (bytes: number, doing: Doing) => void = () => undefined;
  readonly #hash = sha256.create();
  #hashed = 0;
  /** One reads at a time: a part that was cut is still being hashed when the next one is sent. */
  #hashing: Promise<void> = Promise.resolve();
  #part = PART;
  /** Where the server is, as long as its last answer said. */
  #at: number | undefined;
  #request: XMLHttpRequest | undefined;
  /** Of the run at hand: an earlier one that was paused may still be about to notice. */
  #stop = new AbortController();
  /** Address under which the upload goes on. */
  place: string | undefined;

  constructor(file: File, where: Where, place: string | undefined) {
    this.file = file;
    this.where = where;
    this.place = place;
  }

  get paused(): boolean {
    return this.#stop.signal.aborted;
  }

  /** Until the disk is whole; what the server says of it. Undefined when it was paused: it goes on when it is called again. */
  async run(begun: () => void): Promise<Record<string, unknown> | undefined> {
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    this.#at = undefined;
    while (!signal.aborted) {
      try {
        const offset = this.#at ?? (await this.#offset(begun));
        const answer = await this.#send(offset, signal);
        if (answer) return answer;
      } catch (error) {
        if (signal.aborted) return undefined;
        if (error instanceof Refused) throw error;
        await this.#bytes(0, 1);
        this.#at = undefined;
        this.seen(-1, 'trying');
        await new Promise((resolve) => setTimeout(resolve, WAIT));
      }
    }
    return undefined;
  }

  pause(): void {
    this.#stop.abort();
    this.#request?.abort();
  }

  async giveUp(): Promise<void> {
    this.pause();
    // One that cannot be told is dropped after its time.
    if (this.place) await fetch(this.place, { method: 'DELETE' }).catch(() => undefined);
  }

  async #offset(begun: () => void): Promise<number> {
    if (this.place) {
      const answer = await this.#ask('HEAD', this.place, {});
      if (answer.status < 300) return Number(answer.header('upload-offset'));
      if (answer.status !== 404) throw refused(answer);
      this.place = undefined;
    }
    const { volume, query } = this.where;
    const headers = { 'upload-complete': '?0', 'upload-length': String(this.file.size) };
    const answer = await this.#ask('PUT', `/volumes/${encodeURIComponent(volume)}${query}`, headers);
    if (answer.status !== 201) throw refused(answer);
    this.place = answer.header('location') ?? undefined;
    begun();
    return 0;
  }

  async #send(offset: number, signal: AbortSignal): Promise<Record<string, unknown> | undefined> {
    await this.#hashTo(offset, signal, () => this.seen(this.#hashed, 'reading'));
    if (signal.aborted) return undefined;
    const to = Math.min(offset + this.#part, this.file.size);
    const last = to === this.file.size;
    const headers = {
      'upload-offset': String(offset),
      'upload-complete': last ? '?1' : '?0',
      'content-type': 'application/partial-upload',
    };
    // A slice of the file, which the browser reads by itself: from memory Chromium sends a few MB/s.
    const sending = this.#ask('PATCH', this.place ?? '', headers, this.file.slice(offset, to), offset);
    const [answer] = await Promise.all([sending, this.#hashTo(to, signal)]);
    this.#at = answer.status < 300 ? Number(answer.header('upload-offset')) : undefined;
    if (answer.status === 413 && !answer.text.startsWith('{') && this.#part > SMALL) this.#part = SMALL;
    else if (answer.status >= 300 && answer.status !== 409) throw refused(answer);
    if (answer.status >= 300 || !last) return undefined;
    const made = JSON.parse(answer.text) as Record<string, unknown>;
    const digest = `sha256:${[...this.#hash.digest()].map((byte) => byte.toString(16).padStart(2, '0')).join('')}`;
    if (made.sourceDigest !== undefined && made.sourceDigest !== digest) {
      throw new Refused(`The server has ${String(made.sourceDigest)}, and ${digest} was sent.`);
    }
    return { ...made, sourceDigest: digest };
  }

  /** Hashes what was not yet, up to there. */
  #hashTo(to: number, signal: AbortSignal, step?: () => void): Promise<void> {
    const before = this.#hashing.catch(() => undefined);
    this.#hashing = before.then(async () => {
      while (this.#hashed < to && !signal.aborted) {
        const part = await this.#bytes(this.#hashed, Math.min(this.#hashed + STEP, to));
        this.#hash.update(part);
        this.#hashed += part.length;
        step?.();
      }
    });
    // Told to who waits for it, unless what it waits for besides has failed first.
    this.#hashing.catch(() => undefined);
    return this.#hashing;
  }

  async #bytes(from: number, to: number): Promise<Uint8Array> {
    try {
      return new Uint8Array(await this.file.slice(from, to).arrayBuffer());
    } catch {
      throw new Refused(`${this.file.name} has changed or is gone since it was chosen: choose it again.`);
    }
  }

  /** XMLHttpRequest: fetch does not tell how much was sent. */
  #ask(
    method: string,
    url: string,
    headers: Record<string, string>,
    body?: Blob,
    offset = 0,
  ): Promise<{ status: number; text: string; header: (name: string) => string | null }> {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      this.#request = request;
      request.open(method, url);
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
      request.upload.onprogress = ({ loaded }) => this.seen(offset + loaded, 'sending');
      request.onload = () =>
        resolve({
          status: request.status,
          text: request.responseText,
          header: (name) => request.getResponseHeader(name),
        });
      request.onerror = () => reject(new Error('the line was cut'));
      request.onabort = () => reject(new Error('paused'));
      request.send(body);
    });
  }
}

/** Why a server refused, in its words where it has any. */
export function messageOf(status: number, text: string): string {
  try {
    return (JSON.parse(text) as { error: { message: string } }).error.message;
  } catch {
    return `The server answered ${status}.`;
  }
}

function refused({ status, text }: { status: number; text: string }): Error {
  // Between here and the server something is not there at the moment.
  if (status === 0 || status === 502 || status === 503 || status === 504) return new Error(`answered ${status}`);
  return new Refused(messageOf(status, text));
}
