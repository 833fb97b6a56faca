import { type Code, FerryError, type Stage } from '../../dataplane/errors.ts';
import { shown } from '../../dataplane/http/failures.ts';

export interface Answered {
  readonly status: number;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly body: string;
}

/** What a server of ours says of a volume that is whole; of others it is empty. */
export interface Made {
  readonly diskDigest?: string;
  readonly sourceDigest?: string;
  readonly size?: number;
  readonly name?: string;
}

/** The object that a body is; empty where it is none. */
export function parsed(text: string): object {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? value : {};
  } catch {
    return {};
  }
}

/** What the server said, as the error that it was there. */
export function refusal({ status, body }: Answered, url: URL): FerryError {
  const { error } = parsed(body) as { error?: { code?: Code; stage?: Stage; message?: string } };
  if (error?.code !== undefined && error.message !== undefined) {
    const retryable = status >= 500 && error.code !== 'NO_SPACE';
    return new FerryError(error.message, { code: error.code, stage: error.stage ?? 'target', retryable });
  }
  const codes: Readonly<Record<number, Code>> = {
    401: 'DENIED',
    403: 'DENIED',
    404: 'NOT_FOUND',
    413: 'TOO_LARGE',
    507: 'NO_SPACE',
  };
  return new FerryError(`${shown(url)} answered ${status}`, {
    code: codes[status] ?? 'IO',
    stage: 'target',
    // 423: a server of tus has not noticed yet that the last sender is gone.
    retryable: [408, 423, 429, 502, 503, 504].includes(status),
  });
}
