import type { Cause } from './admission/cause.ts';
import type { Operation } from './admission/claim.ts';

/** What is to be judged (k8s.io/api/admission/v1: AdmissionRequest), as far as it is read. */
export interface AdmissionRequest {
  readonly uid: string;
  readonly operation: 'CREATE' | 'UPDATE' | 'DELETE';
  readonly resource: { readonly group: string; readonly version: string; readonly resource: string };
  readonly namespace?: string;
  /** As it is to be; null where it is deleted. */
  readonly object: unknown;
  /** As it is; null where it is created. */
  readonly oldObject: unknown;
}

/** Nothing in `causes`: let through. */
export interface Verdict {
  readonly causes: readonly Cause[];
  /** Shown to the user whatever the verdict is. */
  readonly warnings?: readonly string[];
  readonly patch?: readonly Operation[];
}

/** What asks is no API server, or one that was told the wrong thing: `status` is of HTTP. */
export class ReviewError extends Error {
  override readonly name = 'ReviewError';
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

const VERSION = 'admission.k8s.io/v1';
const KIND = 'AdmissionReview';
/** Causes that are told: of an object that is wrong everywhere not all are. */
const MOST = 10;

/** The request in the body of a review. Throws ReviewError. */
export function requestIn(body: string): AdmissionRequest {
  let review: { apiVersion?: unknown; kind?: unknown; request?: Partial<AdmissionRequest> | null };
  try {
    review = JSON.parse(body);
  } catch (error) {
    throw new ReviewError(400, `the body is no JSON: ${(error as Error).message}`);
  }
  const { apiVersion, kind, request } = review ?? {};
  if (apiVersion !== VERSION || kind !== KIND)
    throw new ReviewError(400, `the body is no ${KIND} of ${VERSION}: name v1 in admissionReviewVersions`);
  const { uid, operation, resource } = request ?? {};
  const isKnown = operation === 'CREATE' || operation === 'UPDATE' || operation === 'DELETE';
  if (typeof uid !== 'string' || !isKnown || typeof resource?.resource !== 'string')
    throw new ReviewError(400, `the ${KIND} has no request of an object that is created, updated or deleted`);
  const isObject = (value: unknown): boolean => typeof value === 'object' && value !== null;
  if (operation !== 'DELETE' && !isObject(request?.object)) throw new ReviewError(400, 'the request has no object');
  if (operation !== 'CREATE' && !isObject(request?.oldObject))
    throw new ReviewError(400, 'the request has no oldObject');
  return request as AdmissionRequest;
}

/** The review that answers a request. */
export function reviewOf({ uid }: AdmissionRequest, { causes, warnings = [], patch = [] }: Verdict): object {
  return answer(uid, {
    allowed: causes.length === 0,
    ...(causes.length > 0 ? { status: refusal(causes) } : {}),
    ...(warnings.length > 0 ? { warnings } : {}),
    ...(causes.length === 0 && patch.length > 0
      ? { patchType: 'JSONPatch', patch: Buffer.from(JSON.stringify(patch)).toString('base64') }
      : {}),
  });
}

/** The review of what could not be judged, for a reason that is not the user's. */
export function unjudged({ uid }: AdmissionRequest, why: string): object {
  const message = `it could not be looked at whether this is right: ${why}; try again`;
  return answer(uid, { allowed: false, status: { status: 'Failure', code: 500, reason: 'InternalError', message } });
}

function answer(uid: string, response: object): object {
  return { apiVersion: VERSION, kind: KIND, response: { uid, ...response } };
}

/** As an API server itself refuses what is invalid (apimachinery, NewInvalid). */
function refusal(causes: readonly Cause[]): object {
  const told = causes.slice(0, MOST);
  const more = causes.length > told.length ? `; and ${causes.length - told.length} more` : '';
  return {
    status: 'Failure',
    code: 422,
    reason: 'Invalid',
    message: told.map(({ message }) => message).join('; ') + more,
    details: { causes: told.map(({ type, message, field }) => ({ reason: type, message, field })) },
  };
}
