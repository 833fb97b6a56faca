import type { Pod } from 'kubernetes-types/core/v1.js';
import { Agent } from 'undici';
import type { Stored } from '../api/meta.ts';
import { importOf } from './import-pod.ts';

/** Milliseconds between two readings, and for one: CDI's (cdi.md §1.1). */
const EVERY = 2000;
const PATIENCE = 2000;
/** Bytes of a pod's metrics: a few lines. */
const LONGEST = 64 * 1024;
/** Milliseconds between two percents that are told of one pod: each is a write. */
const TOLD = 5000;
const TOGETHER = 16;

interface Known {
  readonly percent: number;
  readonly told: number;
}

/** How far import pods have come, read from their metrics. */
export class Progress implements AsyncDisposable {
  readonly #known = new Map<string, Known>();
  /** Their certificates are their own, and what they say is a number: nobody is trusted for it. */
  readonly #agent = new Agent({ connect: { rejectUnauthorized: false, timeout: PATIENCE }, pipelining: 0 });

  /** Percent of a pod, by its UID. */
  readonly of = (pod: string): number | undefined => this.#known.get(pod)?.percent;

  /** Reads those that run, until it is aborted; `moved` gets the claim of one that came further. */
  async run(pods: () => Iterable<Stored<Pod>>, moved: (claim: string) => void, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const running = [...pods()].filter((pod) => pod.status?.phase === 'Running' && pod.status.podIP && importOf(pod));
      for (const uid of this.#known.keys())
        if (!running.some((pod) => pod.metadata.uid === uid)) this.#known.delete(uid);
      for (let n = 0; n < running.length; n += TOGETHER)
        await Promise.all(running.slice(n, n + TOGETHER).map((pod) => this.#read(pod, moved, signal)));
      await pause(EVERY, signal);
    }
  }

  async #read(pod: Stored<Pod>, moved: (claim: string) => void, signal: AbortSignal): Promise<void> {
    const percent = await this.#percentOf(pod.status?.podIP ?? '', signal).catch(() => undefined);
    const known = this.#known.get(pod.metadata.uid);
    const now = Date.now();
    // 100 is told when the volume is whole (cdi.md §1.1).
    if (percent === undefined || percent >= 100 || percent === known?.percent) return;
    if (known && now - known.told < TOLD) return;
    this.#known.set(pod.metadata.uid, { percent, told: now });
    moved(`${pod.metadata.namespace}/${importOf(pod)?.name}`);
  }

  async #percentOf(address: string, signal: AbortSignal): Promise<number | undefined> {
    const origin = `https://${address.includes(':') ? `[${address}]` : address}:8443`;
    const within = AbortSignal.any([signal, AbortSignal.timeout(PATIENCE)]);
    const { body, statusCode } = await this.#agent.request({ origin, path: '/metrics', method: 'GET', signal: within });
    if (statusCode !== 200) {
      await body.dump();
      return undefined;
    }
    let text = '';
    for await (const chunk of body) {
      text += (chunk as Buffer).toString('latin1');
      if (text.length > LONGEST) return undefined;
    }
    const percent = Number(/^kubevirt_cdi_import_progress_total\{[^}]*\} (\d{1,3}(?:\.\d+)?)$/m.exec(text)?.[1]);
    return Number.isFinite(percent) ? percent : undefined;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#agent.destroy();
  }
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener('abort', done, { once: true });
    function done(): void {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    }
  });
}
