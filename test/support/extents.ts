import { randomBytes } from 'node:crypto';
import { open } from 'node:fs/promises';

/** Makes a sparse file of `size` bytes with random data at each [offset, length]. */
export async function pattern(
  path: string,
  size: number,
  data: readonly (readonly [offset: number, length: number])[],
): Promise<void> {
  const file = await open(path, 'w');
  try {
    await file.truncate(size);
    for (const [offset, length] of data) await file.write(randomBytes(length), 0, length, offset);
  } finally {
    await file.close();
  }
}
