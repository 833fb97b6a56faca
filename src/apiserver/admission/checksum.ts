import { type Cause, invalid, quoted } from './cause.ts';

/** Algorithm → hexadecimal digits (CDI, doc of DataVolumes: checksum). */
const DIGITS: Readonly<Record<string, number>> = { md5: 32, sha1: 40, sha256: 64, sha512: 128 };

/** `sha256:…`, whatever the case, and with blanks around both parts. */
export function checkChecksum(checksum: string | undefined, field: string): Cause[] {
  if (!checksum) return [];
  const known = Object.keys(DIGITS).join(', ');
  const [algorithm = '', digits, ...more] = checksum.split(':').map((part) => part.trim());
  if (digits === undefined || more.length > 0) {
    const message = `Invalid checksum ${quoted(checksum)}: write it as sha256: and hexadecimal digits; algorithms are ${known}`;
    return [invalid(field, message)];
  }
  const wanted = Object.hasOwn(DIGITS, algorithm.toLowerCase()) ? DIGITS[algorithm.toLowerCase()] : undefined;
  if (wanted === undefined)
    return [invalid(field, `Invalid checksum: the algorithm ${quoted(algorithm)} is not one of ${known}`)];
  if (/^[0-9a-f]+$/i.test(digits) && digits.length === wanted) return [];
  const message = `Invalid checksum: of ${algorithm.toLowerCase()} it has ${wanted} hexadecimal digits, and ${quoted(digits)} has ${digits.length} characters`;
  return [invalid(field, message)];
}
