import { type Cause, invalid } from './cause.ts';

/** A value within a value, and no deeper. */
const DEEPEST = 5;

/** Where the first character is that ends lines or is not to be seen, counted from 0; -1 where there is none. */
export function controlCharacterIn(text: string, tabs: 'tabs' | 'no tabs'): number {
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if ((code < 0x20 && !(code === 0x09 && tabs === 'tabs')) || code === 0x7f) return at;
  }
  return -1;
}

/**
 * What has control characters in a source: it becomes headers, addresses and arguments, in which a line more would be another
 * one. A checksum is trimmed, and of URLs their own rule tells.
 */
export function checkControlCharacters(value: unknown, field: string, depth = 0): Cause[] {
  if (typeof value === 'string') {
    const at = controlCharacterIn(value, 'tabs');
    if (at < 0) return [];
    const code = value.charCodeAt(at).toString(16).padStart(2, '0');
    return [
      invalid(
        field,
        `${field} has the control character 0x${code} at place ${at + 1} of ${value.length}: write it in one line; YAML's | and > end with a line break, |- and >- do not`,
      ),
    ];
  }
  if (typeof value !== 'object' || value === null || depth > DEEPEST) return [];
  if (Array.isArray(value)) return value.flatMap((one, n) => checkControlCharacters(one, `${field}[${n}]`, depth + 1));
  return Object.entries(value)
    .filter(([key]) => key !== 'checksum' && key !== 'url')
    .flatMap(([key, one]) => checkControlCharacters(one, `${field}.${key}`, depth + 1));
}
