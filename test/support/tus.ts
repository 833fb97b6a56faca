// The tus clients that people use, unmodified.
import { execFile } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { promisify } from 'node:util';
import { Upload } from 'tus-js-client';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { serverPath } from '../../scripts/toolchain.mjs';

export type Protocol = 'tus-v1' | 'ietf-draft-03' | 'ietf-draft-05';
export const PROTOCOLS: readonly Protocol[] = ['tus-v1', 'ietf-draft-03', 'ietf-draft-05'];

/** Uploads as tus-js-client does, in requests of `chunkSize` bytes; by itself it sends all in one. */
export async function tusJs(
  url: string,
  protocol: Protocol,
  path: string,
  volume: string,
  chunkSize = Number.POSITIVE_INFINITY,
): Promise<void> {
  const { size } = await stat(path);
  const endpoint = protocol === 'tus-v1' ? `${url}/tus` : `${url}/volumes/${volume}`;
  await new Promise<void>((resolve, reject) => {
    const options = {
      endpoint,
      // Not in its types.
      protocol,
      retryDelays: Array.from({ length: 60 }, () => 200),
      chunkSize,
      uploadSize: size,
      metadata: { volume, filename: 'disk.qcow2' },
      onSuccess: () => resolve(),
      onError: reject,
    };
    new Upload(createReadStream(path), options).start();
  });
}

/** tuspy retries a part by itself, and asks the server where to go on. */
const TUSPY = `
import sys
from tusclient import client
url, path, volume, chunk, checksum = sys.argv[1:]
upload = client.TusClient(url).uploader(path, chunk_size=int(chunk), metadata={'volume': volume}, retries=40, retry_delay=1,
                                        upload_checksum=checksum == 'checksum')
upload.upload()
`;

/** Uploads as tuspy does, in parts of `chunkSize` bytes. */
export async function tuspy(
  url: string,
  path: string,
  volume: string,
  chunkSize: number,
  checksum = 'plain',
): Promise<void> {
  const args = ['-c', TUSPY, `${url}/tus`, path, volume, String(chunkSize), checksum];
  await promisify(execFile)(serverPath('tuspy'), args);
}
