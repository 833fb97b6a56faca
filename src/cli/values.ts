import { InvalidArgumentError } from 'commander';
import { parseRate, parseSize } from '../dataplane/sizes.ts';

/** What a parser of the data plane refuses becomes a usage error that names the option. */
function readable<T>(parse: (text: string) => T): (text: string) => T {
  return (text) => {
    try {
      return parse(text);
    } catch (thrown) {
      throw new InvalidArgumentError(thrown instanceof Error ? thrown.message : String(thrown));
    }
  };
}

/** `20Gi`, `500MB`, `1048576` → bytes. */
export const size = readable(parseSize);
/** `50MB/s` → bytes a second. */
export const rate = readable(parseRate);

/** A whole number of things, at least 1 and at most `most`. */
export function count(most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^[0-9]+$/.test(text) || value < 1 || value > most) {
      throw new InvalidArgumentError(`It must be a whole number from 1 to ${most}.`);
    }
    return value;
  };
}

/** Seconds, also fractions → milliseconds. At most a day, which setTimeout can still hold. */
export function seconds(text: string): number {
  const value = Number(text);
  if (!/^[0-9]+(\.[0-9]+)?$/.test(text) || value <= 0 || value > 86_400) {
    throw new InvalidArgumentError('It must be a number of seconds above 0 and up to 86400.');
  }
  return Math.ceil(value * 1000);
}

/** `dd1:` and 64 hexadecimal digits, see docs/disk-digest.md. */
export function diskDigest(text: string): string {
  if (!/^dd1:[0-9a-f]{64}$/i.test(text)) {
    throw new InvalidArgumentError(
      'It must be dd1: followed by 64 hexadecimal digits, as the report of an import has it.',
    );
  }
  return text.toLowerCase();
}
