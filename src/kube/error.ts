/** What a Status (apimachinery, meta/v1) says of why. */
interface Status {
  readonly message?: unknown;
  readonly reason?: unknown;
  readonly code?: unknown;
  readonly details?: { readonly retryAfterSeconds?: unknown };
}

/** Characters of a message: those of objects that are invalid repeat all of them. */
const LONGEST = 1000;

interface Why {
  readonly status?: number;
  readonly reason?: string | undefined;
  readonly retryAfter?: number | undefined;
  readonly cause?: unknown;
}

/** What the API server answered, in its own words; or that it did not answer. */
export class KubeError extends Error {
  override readonly name = 'KubeError';
  /** Of HTTP; 0 where there was no answer, or none that can be read. */
  readonly status: number;
  /** Of the Status: AlreadyExists, Conflict, Expired …; '' where there is none. */
  readonly reason: string;
  /** Seconds that the API server wants to be left alone. */
  readonly retryAfter?: number;

  constructor(message: string, { status = 0, reason = '', retryAfter, cause }: Why = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.status = status;
    this.reason = reason;
    if (retryAfter !== undefined) this.retryAfter = retryAfter;
  }
}

/** The failure of a request from its answer; `retryAfter` as the header has it. */
export function refusal(status: number, text: string, retryAfter?: string): KubeError {
  let said: unknown;
  try {
    said = JSON.parse(text);
  } catch {
    // Not from the API server: of a balancer in front of it.
  }
  return failureOf(said, status, retryAfter);
}

/** The failure that a Status tells of: the answer to a request, or an ERROR in a watch. */
export function failureOf(said: unknown, status?: number, retryAfter?: string): KubeError {
  const { message, reason, code, details } = (typeof said === 'object' && said !== null ? said : {}) as Status;
  const number = status ?? (typeof code === 'number' ? code : 0);
  const words = typeof message === 'string' && message !== '' ? `: ${message.slice(0, LONGEST)}` : '';
  // A number of seconds from an API server; a date, which HTTP allows too, is of what stands before it.
  const seconds = Number(retryAfter ?? details?.retryAfterSeconds ?? Number.NaN);
  return new KubeError(`the API server answered ${number}${words}`, {
    status: number,
    reason: typeof reason === 'string' ? reason : '',
    retryAfter: seconds >= 0 && Number.isFinite(seconds) ? seconds : undefined,
  });
}
