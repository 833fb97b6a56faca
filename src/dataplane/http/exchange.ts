import { setImmediate } from 'node:timers/promises';
import type { Dispatcher } from 'undici';
import { Batcher } from '../batch.ts';

/** Header fields of an answer, names in lower case. */
export type Fields = Readonly<Record<string, string | string[] | undefined>>;

/** One field's value; several of the same name as one list (RFC 9110 section 5.2). */
export function field(fields: Fields, name: string): string | undefined {
  const value = fields[name];
  return Array.isArray(value) ? value.join(', ') : value;
}

/**
 * An answer whose head has come and whose body is taken in batches. It holds a connection until its body has ended or
 * `destroy` was called: every answer is either read to its end, discarded or destroyed.
 */
export interface Answer {
  readonly status: number;
  readonly fields: Fields;
  /** The next batch of the body, undefined at its end. Throws the transport's error. */
  next(): Promise<readonly Uint8Array[] | undefined>;
  /** Drops the connection with what is left of the body. May be called any number of times. */
  destroy(): void;
  /** Lets a body of at most 64 KiB run out so that the connection can be used again; drops larger ones. */
  discard(): void;
}

export interface Request {
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  /** Milliseconds until the head of the answer must have come. */
  readonly headersTimeout: number;
  /** Default: GET without a body. */
  readonly method?: 'GET' | 'POST';
  readonly body?: string;
}

const DISCARD = 64 * 1024;

/** Sends a request and waits for the head of its answer. */
export async function send(dispatcher: Dispatcher, request: Request, signal: AbortSignal): Promise<Answer> {
  // undici gives a connection back one turn of the event loop after the end of a body; without this wait a read that
  // follows another would open a new one.
  await setImmediate();
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      reject(signal.reason);
      return;
    }
    let control: Dispatcher.DispatchController | undefined;
    const batcher = new Batcher(() => control?.resume());
    let discarded: number | undefined;
    const abort = (reason: unknown): void => {
      batcher.fail(reason);
      reject(reason);
      control?.abort(reason instanceof Error ? reason : new Error(String(reason)));
    };
    const onAbort = (): void => abort(signal.reason);
    const over = (): void => signal.removeEventListener('abort', onAbort);
    signal.addEventListener('abort', onAbort, { once: true });

    dispatcher.dispatch(
      {
        origin: request.url.origin,
        path: request.url.pathname + request.url.search,
        method: request.method ?? 'GET',
        ...(request.body === undefined ? {} : { body: request.body }),
        headers: request.headers,
        headersTimeout: request.headersTimeout,
        // undici's own limit does not run while we hold back (nodejs/undici#5393): the watchdog filter does this.
        bodyTimeout: 0,
      },
      {
        onRequestStart(controller) {
          control = controller;
          if (signal.aborted) onAbort();
        },
        onResponseStart(controller, status, fields) {
          if (status < 200) return;
          resolve({
            status,
            fields,
            next: () => batcher.next(),
            destroy: () => {
              batcher.clear();
              abort(new Error('the answer was left before its end'));
            },
            discard: () => {
              discarded = 0;
              batcher.clear();
              controller.resume();
            },
          });
        },
        onResponseData(controller, chunk) {
          if (discarded !== undefined) {
            discarded += chunk.length;
            if (discarded > DISCARD) abort(new Error('the answer was discarded'));
          } else if (!batcher.push(chunk)) controller.pause();
        },
        onResponseEnd() {
          over();
          batcher.end();
        },
        onResponseError(_controller, error) {
          over();
          batcher.fail(error);
          reject(error);
        },
      },
    );
  });
}
