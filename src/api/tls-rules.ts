/** What servers speak at least, and with which ciphers, the most wanted first. */
export interface TlsRules {
  /** As Go names it: `VersionTLS12`. */
  readonly minVersion: string;
  /** As OpenSSL names them. Of TLS 1.2 and before, and of 1.3. */
  readonly ciphers: readonly string[];
}
