import { FerryError } from '../../dataplane/errors.ts';
import { type Answered, type Made, parsed, refusal } from './answers.ts';
import type { Content } from './content.ts';
import type { Dialect } from './dialects.ts';
import type { Line, Request } from './line.ts';
import type { Memory } from './memory.ts';

/** Sizes of the parts that are tried where something between here and the server takes no larger body. Bytes. */
const PARTS = [Number.POSITIVE_INFINITY, 64 << 20, 8 << 20, 1 << 19];

/** Told of the bytes that are on the way or there. */
type Came = (offset: number) => void;

/** Whose bytes they are, for the memory. */
export interface Origin {
  readonly name: string;
  readonly of: string;
  readonly memory: Memory;
}

/** To a server that cannot be gone on with: all of it, each time. */
export function sendAtOnce(line: Line, content: Content, came: Came): Promise<Made> {
  const { url } = line.options;
  return line.persistently(async () => {
    const answer = await line.ask('PUT', url, bodyOf(line, content, 0, content.length, came));
    if (answer.status >= 300) throw refusal(answer, url);
    return compared(content, answer);
  });
}

/** To one that takes it from where it is; from the place that the memory has, else from the beginning. */
export async function goOn(
  line: Line,
  content: Content,
  dialect: Dialect,
  from: Origin,
  came: Came,
): Promise<Made & { readonly resumedAt: number }> {
  const serial = new Serial(line, content, dialect, from, came);
  const resumedAt = from.memory.known === undefined ? 0 : await line.persistently(() => serial.offset());
  return { ...(await line.persistently(() => serial.goOn())), resumedAt };
}

class Serial {
  readonly #line: Line;
  readonly #content: Content;
  readonly #dialect: Dialect;
  readonly #from: Origin;
  readonly #came: Came;
  #place: URL | undefined;
  #part = 0;

  constructor(line: Line, content: Content, dialect: Dialect, from: Origin, came: Came) {
    this.#line = line;
    this.#content = content;
    this.#dialect = dialect;
    this.#from = from;
    this.#came = came;
    const { known } = from.memory;
    if (known !== undefined) this.#place = new URL(known.place, line.options.url);
  }

  /** Where the server wants it to go on; begins an upload where there is none any more. */
  async offset(): Promise<number> {
    const { url } = this.#line.options;
    if (this.#place !== undefined) {
      const answer = await this.#line.ask('HEAD', this.#place, { headers: this.#dialect.asking });
      if (answer.status < 300) return this.#offsetIn(answer);
      if (answer.status !== 404 && answer.status !== 410) throw refusal(answer, this.#place);
      this.#place = undefined;
    }
    const headers = this.#dialect.beginning(this.#content.length, this.#from.name);
    const answer = await this.#line.ask(this.#dialect.begin, url, { headers, length: 0 });
    const { location } = answer.headers;
    if (answer.status !== 201 || typeof location !== 'string') throw refusal(answer, url);
    this.#place = new URL(location, url);
    const { memory, of } = this.#from;
    await memory.keep({ way: this.#dialect.name, place: location, of });
    return 0;
  }

  /** From where the server is to the end, in parts of the size that passes. */
  async goOn(): Promise<Made> {
    for (;;) {
      const offset = await this.offset();
      const place = this.#place ?? this.#line.options.url;
      const { length } = this.#content;
      this.#reached(offset);
      await this.#content.catchUp(offset, this.#line.signal);
      if (offset === length && this.#dialect.endsByItself) return compared(this.#content);
      const to = Math.min(offset + (PARTS[this.#part] ?? 1), length);
      const last = to === length;
      const answer = await this.#line.ask('PATCH', place, {
        ...bodyOf(this.#line, this.#content, offset, to, this.#came),
        headers: this.#dialect.part(offset, last),
      });
      if (answer.status < 300 && last && !this.#dialect.endsByItself) return compared(this.#content, answer);
      if (answer.status < 300) {
        const taken = this.#offsetIn(answer);
        // Asked again, some servers would have forgotten it.
        if (taken === length) return compared(this.#content);
        if (taken <= offset) throw stuck(offset, taken);
        this.#reached(taken);
        continue;
      }
      // Not the server itself, which says what it says in JSON.
      const between = answer.status === 413 && !answer.body.startsWith('{');
      if (between && this.#part < PARTS.length - 1) {
        this.#part += 1;
        this.#line.options.log.info(
          `something on the way takes no body of ${to - offset} bytes: sending smaller parts`,
        );
        continue;
      }
      // It knows of more or less than we thought: asked again.
      if (answer.status === 409 && /offset/i.test(answer.body)) throw stuck(offset, answer.headers['upload-offset']);
      throw refusal(answer, place);
    }
  }

  #reached(offset: number): void {
    this.#line.reached = Math.max(this.#line.reached, offset);
    this.#came(offset);
  }

  #offsetIn({ headers }: Answered): number {
    const offset = Number(headers['upload-offset'] ?? Number.NaN);
    if (Number.isInteger(offset) && offset >= 0 && offset <= this.#content.length) return offset;
    const message = `the server goes on at '${headers['upload-offset']}', which is no byte of the ${this.#content.length} that are sent`;
    throw new FerryError(message, { code: 'IO', stage: 'target' });
  }
}

function bodyOf(line: Line, content: Content, from: number, to: number, came: Came): Request {
  return {
    length: to - from,
    async *bytes(stop) {
      let at = from;
      for await (const chunk of content.read(from, to, stop)) {
        yield chunk;
        at += chunk.length;
        line.reached = Math.max(line.reached, at);
        came(at);
      }
    },
  };
}

/** The server has what was sent, where it says what it has. DIGEST_MISMATCH. */
function compared(content: Content, answered?: Answered): Made {
  const digest = content.digest();
  const answer = parsed(answered?.body ?? '') as Made;
  const { sourceDigest = digest } = answer;
  if (sourceDigest === digest) return { ...answer, sourceDigest: digest };
  const message = `the server has ${sourceDigest} where ${digest} was sent`;
  throw new FerryError(message, { code: 'DIGEST_MISMATCH', stage: 'verify' });
}

function stuck(offset: number, answered: unknown): FerryError {
  const message = `a part was sent from byte ${offset} on, and the server is at ${answered} after it`;
  return new FerryError(message, { code: 'IO', stage: 'target', retryable: true });
}
