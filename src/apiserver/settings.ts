/** What the process was started with. */
export interface Settings {
  /** All addresses without one. */
  readonly host?: string;
  readonly port: number;
}

/** Where CDI's API server listens. */
const PORT = 8443;

/** Throws with what is wrong. */
export function settingsOf({ LISTEN_ADDRESS, LISTEN_PORT }: NodeJS.ProcessEnv): Settings {
  const port = Number(LISTEN_PORT || PORT);
  if (!Number.isInteger(port) || port < 0 || port > 65_535) throw new Error(`LISTEN_PORT ${LISTEN_PORT} is no port`);
  return { port, ...(LISTEN_ADDRESS ? { host: LISTEN_ADDRESS } : {}) };
}
