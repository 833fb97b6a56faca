import { type Answer, field } from './exchange.ts';

/** An error document is some hundred bytes; of a longer one this much is looked at. */
const LOOKED_AT = 64 * 1024;
/** Characters of it that are told. */
const TOLD = 300;
/** Characters from which a value may be a secret: less would blot out words. */
const SECRET = 6;
/** Milliseconds that it may take: what it says is a courtesy. */
const PATIENCE = 2000;

/**
 * What the body of a refusal says in words: `<Code>` and `<Message>` of S3, Google Cloud Storage and Azure (in XML),
 * `error.message` or `errors[0].message` of those that answer in JSON. The body is taken, and the answer over.
 * `secrets` are values that were sent, which a server may echo. Never throws.
 */
export async function reasonOf(answer: Answer, secrets: readonly string[]): Promise<string | undefined> {
  const type = field(answer.fields, 'content-type') ?? '';
  if (!/\b(xml|json)\b/i.test(type)) {
    answer.discard();
    return undefined;
  }
  const timer = setTimeout(() => answer.destroy(), PATIENCE);
  const parts: Uint8Array[] = [];
  let length = 0;
  try {
    for (let batch = await answer.next(); batch && length < LOOKED_AT; batch = await answer.next()) {
      for (const chunk of batch) {
        parts.push(chunk);
        length += chunk.length;
      }
    }
  } catch {
    // What came is looked at.
  } finally {
    clearTimeout(timer);
    answer.destroy();
  }
  const text = Buffer.concat(parts).subarray(0, LOOKED_AT).toString('utf8');
  const said = /xml/i.test(type) ? fromXml(text) : fromJson(text);
  return said === undefined ? undefined : clean(said, secrets);
}

function fromXml(text: string): string | undefined {
  const code = /<Code>([^<]{1,100})<\/Code>/.exec(text)?.[1];
  const message = /<Message>([^<]{1,2000})<\/Message>/.exec(text)?.[1]?.split('\n')[0];
  const both = [code, message].filter((part) => part !== undefined);
  return both.length === 0 ? undefined : both.join(': ');
}

function fromJson(text: string): string | undefined {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    return undefined;
  }
  const { error, errors, message } = (parsed ?? {}) as Record<string, unknown>;
  const list = Array.isArray(errors) ? errors[0] : undefined;
  for (const candidate of [error, list, { message }]) {
    if (typeof candidate === 'string') return candidate;
    const { message: said, code } = (candidate ?? {}) as Record<string, unknown>;
    if (typeof said === 'string' && said !== '') return typeof code === 'string' ? `${code}: ${said}` : said;
  }
  return undefined;
}

function clean(text: string, secrets: readonly string[]): string | undefined {
  let shown = text;
  for (const secret of secrets) if (secret.length >= SECRET) shown = shown.replaceAll(secret, '…');
  shown = shown
    .replace(/[\p{Cc}\p{Cf}]+/gu, ' ')
    .replace(/\s+/g, ' ')
    .trim();
  return shown === '' ? undefined : shown.slice(0, TOLD);
}
