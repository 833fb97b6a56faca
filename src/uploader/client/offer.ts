import { refusal } from './answers.ts';
import type { Line } from './line.ts';

/** What a server says that it takes. */
export interface Offer {
  /** How it goes on with an upload that was cut: not at all, where it is told of a PUT alone. */
  readonly way: 'ietf' | 'tus' | 'plain';
  /** It decodes qcow2: a disk need not come as it lies. */
  readonly qcow2: boolean;
  /** Most bytes of an upload. */
  readonly most?: number;
}

/** Asks with OPTIONS, which no other server takes ill. */
export async function offerOf(line: Line): Promise<Offer> {
  const { url } = line.options;
  const answer = await line.ask('OPTIONS', url);
  // Something on the way, or a server that is about to be there.
  if ([502, 503, 504].includes(answer.status)) throw refusal(answer, url);
  const tokens = (name: string): string[] =>
    String(answer.headers[name] ?? '')
      .split(',')
      .map((token) => token.trim());
  const most = Number(answer.headers['tus-max-size'] ?? Number.NaN);
  const tus = tokens('tus-version').includes('1.0.0') && tokens('tus-extension').includes('creation');
  return {
    way: answer.headers['upload-limit'] !== undefined ? 'ietf' : tus ? 'tus' : 'plain',
    // RFC 9110 section 12.5.1: what is wanted of the next request.
    qcow2: tokens('accept').includes('application/x-qemu-disk'),
    ...(Number.isSafeInteger(most) ? { most } : {}),
  };
}
