import type { Answer } from './exchange.ts';

/** Says to a server who asks, with more than fixed header fields: credentials that expire, requests that are signed. */
export interface Authorizer {
  /** Kinds of credentials, for people: 'an access key', 'no credentials'. Known once something was sent. */
  readonly kind: string;
  /** Whether requests to this address get credentials. */
  covers(url: URL): boolean;
  /** Header fields of a GET with what proves who asks added to them. */
  authorize(url: URL, headers: Readonly<Record<string, string>>): Promise<Record<string, string>>;
  /** Whether the request may be taken when it is sent once more: credentials were renewed, or a region learned. */
  renew(answer: Pick<Answer, 'status' | 'fields'>): Promise<boolean>;
}
