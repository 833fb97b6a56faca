// Every state that objects have had, in the order in which they had them.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { places } from '../layout.ts';
import type { Cluster } from './cluster.ts';
import { until } from './until.ts';

export interface History<T> extends Disposable {
  /** Since the beginning; of an object that was deleted, the last one too. */
  readonly states: readonly T[];
  /** What is asked of each state, without what is undefined, and once for several in a row that are the same. */
  steps<V extends string>(of: (state: T) => V | undefined): V[];
  /** Those up to the one that is `last`: the watch may be behind whoever asks. */
  until<V extends string>(last: V, of: (state: T) => V | undefined): Promise<V[]>;
}

/** Watches a path of the API server from now on: nothing that happens after this is missed. */
export async function historyOf<T>(cluster: Cluster, path: string): Promise<History<T>> {
  const { metadata } = await cluster.ask<{ metadata: { resourceVersion: string } }>('GET', path);
  const since = new URLSearchParams({ watch: '1', resourceVersion: metadata.resourceVersion });
  const watch = spawn(places(cluster.layout).kubectl, ['get', '--raw', `${path}?${since}`], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const states: T[] = [];
  createInterface({ input: watch.stdout }).on('line', (line) =>
    states.push((JSON.parse(line) as { object: T }).object),
  );
  const steps: History<T>['steps'] = (of) => {
    const found = states.map(of).filter((one) => one !== undefined);
    return found.filter((one, n) => one !== found[n - 1]);
  };
  return {
    states,
    steps,
    async until(last, of) {
      await until(`the watch sees ${last}`, 15, async () => steps(of).at(-1) === last).catch(() => undefined);
      return steps(of);
    },
    [Symbol.dispose]: () => void watch.kill('SIGKILL'),
  };
}
