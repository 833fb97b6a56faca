import { basename } from 'node:path';
import type { Dispatcher } from 'undici';

/** How a protocol of uploads that go on says what both mean: begin, where is it, here is more. */
export interface Dialect {
  readonly name: 'ietf' | 'tus';
  /** Of the request that begins an upload of `length` bytes and sends none of them. */
  readonly begin: Dispatcher.HttpMethod;
  readonly beginning: (length: number, name: string) => Readonly<Record<string, string>>;
  /** Of the request for where it is. */
  readonly asking: Readonly<Record<string, string>>;
  /** Of a part from `offset` on. */
  readonly part: (offset: number, last: boolean) => Readonly<Record<string, string>>;
  /** When all bytes are there it is over: no request says so. */
  readonly endsByItself: boolean;
}

/** https://datatracker.ietf.org/doc/draft-ietf-httpbis-resumable-upload/ */
export const IETF: Dialect = {
  name: 'ietf',
  begin: 'PUT',
  beginning: (length) => ({ 'upload-complete': '?0', 'upload-length': String(length) }),
  asking: {},
  part: (offset, last) => ({
    'upload-offset': String(offset),
    'upload-complete': last ? '?1' : '?0',
    'content-type': 'application/partial-upload',
  }),
  endsByItself: false,
};

const SPOKEN = { 'tus-resumable': '1.0.0' };

/** https://tus.io/protocols/resumable-upload, version 1.0.0, with the extension "creation". */
export const TUS: Dialect = {
  name: 'tus',
  begin: 'POST',
  beginning: (length, name) => ({
    ...SPOKEN,
    'upload-length': String(length),
    'upload-metadata': `filename ${Buffer.from(basename(name)).toString('base64')}`,
  }),
  asking: SPOKEN,
  part: (offset) => ({
    ...SPOKEN,
    'upload-offset': String(offset),
    'content-type': 'application/offset+octet-stream',
  }),
  endsByItself: true,
};
