import { parseQuantity, type Quantity } from '../../api/quantity.ts';

/** Fields whose empty value is another one than none: the class without a name, and what overrides the configuration. */
const TELLING = ['storageClassName', 'preallocation'];
/** Objects that say the same when they are empty: those that clients written in Go write whether they hold anything or not. */
const HOLLOW = ['metadata', 'status', 'resources', 'requests', 'limits', 'annotations', 'labels', 'matchLabels'];
const QUANTITIES = ['requests', 'limits'];
/** A value within a value, and no deeper: of what is there the schema says how deep it is. */
const DEEPEST = 32;

/**
 * Where two values of a field first differ in what they say, as `spec.source.http.url`; undefined where they do not. Clients
 * write the same in several ways, and a change of those is none: a field left out, null or empty; `1024Mi` or `1Gi`.
 */
export function differenceOf(before: unknown, after: unknown, field: string, depth = 0): string | undefined {
  const key = field.slice(field.lastIndexOf('.') + 1);
  if (isNothing(before, key) && isNothing(after, key)) return undefined;
  if (isNothing(before, key) || isNothing(after, key) || depth > DEEPEST) return field;
  if (Array.isArray(before) && Array.isArray(after)) {
    for (let n = 0; n < Math.max(before.length, after.length); n += 1) {
      const found = differenceOf(before[n], after[n], `${field}[${n}]`, depth + 1);
      if (found !== undefined) return found;
    }
    return before.length === after.length ? undefined : field;
  }
  if (!isObject(before) || !isObject(after)) return isSame(before, after, field) ? undefined : field;
  for (const name of new Set([...Object.keys(before), ...Object.keys(after)])) {
    const found = differenceOf(before[name], after[name], `${field}.${name}`, depth + 1);
    if (found !== undefined) return found;
  }
  return undefined;
}

function isNothing(value: unknown, key: string): boolean {
  if (value === undefined || value === null) return true;
  if (Array.isArray(value)) return value.length === 0;
  if (isObject(value))
    return HOLLOW.includes(key) && Object.entries(value).every(([name, one]) => isNothing(one, name));
  return (value === '' || value === false) && !TELLING.includes(key);
}

function isSame(before: unknown, after: unknown, field: string): boolean {
  if (before === after) return true;
  const parent = field.split('.').at(-2) ?? '';
  if (!QUANTITIES.includes(parent)) return false;
  const size = parseQuantity(before as Quantity);
  return size !== undefined && size === parseQuantity(after as Quantity);
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
