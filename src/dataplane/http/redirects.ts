import { FerryError } from '../errors.ts';
import { type Answer, field } from './exchange.ts';
import { shown } from './failures.ts';

/** As curl and browsers: enough for any chain of mirrors, few enough that a loop is found at once. */
const MOST = 10;
const REDIRECTS = new Set([301, 302, 303, 307, 308]);

export interface Arrival {
  readonly answer: Answer;
  readonly url: URL;
  /** Origins on the way, the first not counted. */
  readonly hops: readonly string[];
}

/**
 * Asks at `start` and follows redirects to the answer that is none. `ask` decides what each origin may be told.
 * Throws UNSUPPORTED on a loop or after ten, UNSAFE on a step from https to http unless `insecure`.
 */
export async function follow(start: URL, insecure: boolean, ask: (url: URL) => Promise<Answer>): Promise<Arrival> {
  const refuse = (message: string, code: 'UNSUPPORTED' | 'UNSAFE'): FerryError =>
    new FerryError(message, { code, stage: 'source' });
  const seen = new Set<string>();
  const hops: string[] = [];
  let url = start;
  for (;;) {
    seen.add(url.href);
    const answer = await ask(url);
    if (!REDIRECTS.has(answer.status)) return { answer, url, hops };
    answer.discard();
    const location = field(answer.fields, 'location');
    const next = location === undefined ? null : URL.parse(location, url.href);
    if (!next)
      throw refuse(`${shown(url)} answered ${answer.status} without a Location that can be followed`, 'UNSUPPORTED');
    next.hash = '';
    // Userinfo in a Location is somebody else's choice of what we log in with.
    next.username = '';
    next.password = '';
    if (next.protocol !== 'http:' && next.protocol !== 'https:') {
      throw refuse(`${shown(url)} redirects to a ${next.protocol}// address, which cannot be followed`, 'UNSUPPORTED');
    }
    if (url.protocol === 'https:' && next.protocol === 'http:' && !insecure) {
      throw refuse(
        `${shown(url)} redirects from https to ${shown(next)}, where nobody vouches for the bytes`,
        'UNSAFE',
      );
    }
    if (seen.has(next.href))
      throw refuse(`${shown(start)} redirects in a loop: ${shown(next)} comes twice`, 'UNSUPPORTED');
    if (seen.size > MOST)
      throw refuse(`${shown(start)} redirects more than ${MOST} times, last to ${shown(next)}`, 'UNSUPPORTED');
    hops.push(next.origin);
    url = next;
  }
}
