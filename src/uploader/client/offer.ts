import { refusal } from './answers.ts';
import type { Line } from './line.ts';

/** What a server says that it takes. */
export interface Offer {
  /** How it goes on with an upload that was cut: not at all, where it is told of a PUT alone. */
  readonly way: 'ietf' | 'tus' | 'plain';
  /** It decodes qcow2: a disk need not come as it lies. */
  readonly qcow2: boolean;
  /** Where a raw disk may be written in ranges. */
  readonly images?: URL;
  /** Most bytes of an upload. */
  readonly most?: number;
}

/** Relation of a link (RFC 8288) to where images are begun that take what this describes. */
const IMAGES = 'https://ovirt.github.io/ovirt-imageio/images.html';

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
  const link = tokens('link').find((one) => one.includes(`rel="${IMAGES}"`));
  const images = URL.parse(/^<([^>]*)>/.exec(link ?? '')?.[1] ?? '', url.href);
  return {
    way: answer.headers['upload-limit'] !== undefined ? 'ietf' : tus ? 'tus' : 'plain',
    // RFC 9110 section 12.5.1: what is wanted of the next request.
    qcow2: tokens('accept').includes('application/x-qemu-disk'),
    ...(link !== undefined && images?.origin === url.origin ? { images } : {}),
    ...(Number.isSafeInteger(most) ? { most } : {}),
  };
}
