const NEWLINE = 10;

/** Lines of UTF-8 without their ends, the last one too when it has none; empty ones are left out. Throws what `tooLong` makes of one of more than `longest` bytes. */
export async function* lines(
  chunks: AsyncIterable<Buffer>,
  longest: number,
  tooLong: () => Error,
): AsyncGenerator<string> {
  let begun: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of chunks) {
    let from = 0;
    for (let to = chunk.indexOf(NEWLINE); ; to = chunk.indexOf(NEWLINE, from)) {
      const part = chunk.subarray(from, to === -1 ? chunk.length : to);
      bytes += part.length;
      if (bytes > longest) throw tooLong();
      if (part.length > 0) begun.push(part);
      if (to === -1) break;
      from = to + 1;
      if (bytes > 0) yield textOf(begun);
      begun = [];
      bytes = 0;
    }
  }
  if (bytes > 0) yield textOf(begun);
}

function textOf(parts: readonly Buffer[]): string {
  const [only, second] = parts;
  return (only && !second ? only : Buffer.concat(parts)).toString('utf8');
}
