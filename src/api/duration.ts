/** Milliseconds of each unit of Go's (package time, ParseDuration). */
const UNITS: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  μs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
};
const PART = /(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)/y;
/** Characters; no duration that means something has more. */
const LONGEST = 64;

/** Milliseconds of a duration as Go writes it: `48h0m0s`, `1.5h`, `-3s`. Undefined for what is none. */
export function parseDuration(text: string): number | undefined {
  if (text.length > LONGEST) return undefined;
  const sign = text.startsWith('-') ? -1 : 1;
  const rest = text.replace(/^[+-]/, '');
  if (rest === '0') return 0;
  let [sum, at] = [0, 0];
  while (at < rest.length) {
    PART.lastIndex = at;
    const match = PART.exec(rest);
    if (!match) return undefined;
    sum += Number(match[1]) * (UNITS[match[2] ?? ''] ?? Number.NaN);
    at = PART.lastIndex;
  }
  return at === 0 ? undefined : sign * sum;
}
