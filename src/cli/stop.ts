import { FerryError } from '../dataplane/errors.ts';
import { SIGNAL_EXIT, type StopSignal } from './exitcode.ts';

/**
 * Milliseconds in which the same signal counts as one: Ctrl-C reaches the whole process group, and npx passes its own
 * copy on to us a moment later.
 */
const ECHO = 500;

export interface Stop {
  /** Aborts, with an ABORTED error as its reason, at the first SIGINT or SIGTERM. */
  readonly signal: AbortSignal;
  /** Which signal it was. */
  readonly by: StopSignal | undefined;
}

let stop: Stop | undefined;

/** Which signal asked this process to stop, when one did. */
export function stoppedBy(): StopSignal | undefined {
  return stop?.by;
}

/** From the first call on, a first signal asks the work to stop and a second ends the process at once. */
export function listenForStop(): Stop {
  if (stop) return stop;
  const controller = new AbortController();
  let by: StopSignal | undefined;
  let at = 0;
  const receive = (name: StopSignal) => {
    if (by === undefined) {
      by = name;
      at = performance.now();
      controller.abort(new FerryError(`stopped by ${name}`, { code: 'ABORTED', stage: 'plan' }));
    } else if (performance.now() - at > ECHO) {
      process.exit(SIGNAL_EXIT[name]);
    }
  };
  process.on('SIGINT', receive);
  process.on('SIGTERM', receive);
  stop = {
    signal: controller.signal,
    get by() {
      return by;
    },
  };
  return stop;
}
