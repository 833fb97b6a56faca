import { sha256 } from '@noble/hashes/sha2.js';

/** Bytes of one request: what a cut costs, and what proxies take. */
const PART = 8 * 1024 * 1024;
/** Smaller parts, where something on the way takes none of that size. */
const SMALL = 512 * 1024;
/** Milliseconds between two tries. */
const WAIT = 1000;

export interface Where {
  readonly volume: string;
  readonly query: string;
}

/** What a server refused, in its words. */
export class Refused extends Error {}

/** One file on its way: in parts, gone on with after whatever happens to the line. */
export class Sender {
  readonly file: File;
  readonly #where: Where;
  readonly #seen: (sent: number, trying: boolean) => void;
  readonly #hash = sha256.create();
  #hashed = 0;
  #part = PART;
  #request: XMLHttpRequest | undefined;
  #stopped = false;
  /** Address under which the upload goes on. */
  place: string | undefined;

  constructor(file: File, where: Where, place: string | undefined, seen: (sent: number, trying: boolean) => void) {
    this.file = file;
    this.#where = where;
    this.place = place;
    this.#seen = seen;
  }

  /** Until the disk is whole; what the server says of it. Undefined when it was paused. */
  async run(begun: () => void): Promise<Record<string, unknown> | undefined> {
    this.#stopped = false;
    while (!this.#stopped) {
      try {
        const offset = await this.#offset(begun);
        const answer = await this.#send(offset);
        if (answer) return answer;
      } catch (error) {
        if (this.#stopped) return undefined;
        if (error instanceof Refused) throw error;
        this.#seen(-1, true);
        await new Promise((resolve) => setTimeout(resolve, WAIT));
      }
    }
    return undefined;
  }

  pause(): void {
    this.#stopped = true;
    this.#request?.abort();
  }

  async giveUp(): Promise<void> {
    this.pause();
    if (this.place) await fetch(this.place, { method: 'DELETE' });
  }

  async #offset(begun: () => void): Promise<number> {
    if (this.place) {
      const answer = await this.#ask('HEAD', this.place, {});
      if (answer.status < 300) return Number(answer.header('upload-offset'));
      if (answer.status !== 404) throw refused(answer);
      this.place = undefined;
    }
    const { volume, query } = this.#where;
    const headers = { 'upload-complete': '?0', 'upload-length': String(this.file.size) };
    const answer = await this.#ask('PUT', `/volumes/${encodeURIComponent(volume)}${query}`, headers);
    if (answer.status !== 201) throw refused(answer);
    this.place = answer.header('location') ?? undefined;
    begun();
    return 0;
  }

  async #send(offset: number): Promise<Record<string, unknown> | undefined> {
    // What an earlier page sent is hashed again.
    while (this.#hashed < offset)
      this.#note(this.#hashed, await bytes(this.file, this.#hashed, Math.min(this.#hashed + PART, offset)));
    const to = Math.min(offset + this.#part, this.file.size);
    const part = await bytes(this.file, offset, to);
    this.#note(offset, part);
    const last = to === this.file.size;
    const headers = {
      'upload-offset': String(offset),
      'upload-complete': last ? '?1' : '?0',
      'content-type': 'application/partial-upload',
    };
    const answer = await this.#ask('PATCH', this.place ?? '', headers, part, offset);
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

  #note(at: number, part: Uint8Array): void {
    const known = this.#hashed - at;
    if (known >= part.length) return;
    this.#hash.update(part.subarray(Math.max(0, known)));
    this.#hashed = at + part.length;
  }

  /** XMLHttpRequest: fetch does not tell how much was sent. */
  #ask(
    method: string,
    url: string,
    headers: Record<string, string>,
    body?: Uint8Array<ArrayBuffer>,
    offset = 0,
  ): Promise<{ status: number; text: string; header: (name: string) => string | null }> {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      this.#request = request;
      request.open(method, url);
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
      request.upload.onprogress = ({ loaded }) => this.#seen(offset + loaded, false);
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

async function bytes(file: File, from: number, to: number): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await file.slice(from, to).arrayBuffer());
}

function refused({ status, text }: { status: number; text: string }): Error {
  // Between here and the server something is not there at the moment.
  if (status === 0 || status === 502 || status === 503 || status === 504) return new Error(`answered ${status}`);
  try {
    return new Refused((JSON.parse(text) as { error: { message: string } }).error.message);
  } catch {
    return new Refused(`The server answered ${status}.`);
  }
}
