import { type Context, type Counters, DEFAULT_LIMITS, type TransportLimits } from '../../src/dataplane/context.ts';
import type { ByteStream } from '../../src/dataplane/source.ts';

export interface TestContext extends Context {
  readonly abort: AbortController;
  /** Lines that were logged. */
  readonly lines: string[];
}

/** A context whose limits are short enough for tests. */
export function testContext(limits: Partial<TransportLimits> = {}): TestContext {
  const abort = new AbortController();
  const lines: string[] = [];
  const counters: Counters = { received: 0, retries: 0, opened: 0 };
  const add = (message: string): void => {
    lines.push(message);
  };
  return {
    abort,
    signal: abort.signal,
    lines,
    log: { info: add, warn: add },
    limits: { ...DEFAULT_LIMITS, stall: 5000, patience: 5000, ...limits },
    counters,
  };
}

/** All bytes of a stream. */
export async function collect(bytes: ByteStream): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  // Copied, because a filter may use the memory again.
  for await (const batch of bytes) for (const chunk of batch) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks);
}

/** What a promise throws, or a failure of the test when it does not. */
export async function thrown(
  promise: Promise<unknown>,
): Promise<Error & { code?: string; retryable?: boolean; retryAfter?: number }> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error('nothing was thrown');
}
