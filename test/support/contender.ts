// A process that wants a lease, and writes while it holds it: a ConfigMap for each write, whose version tells when it was.
//
//     node test/support/contender.ts URL CA-FILE TOKEN NAMESPACE NAME IDENTITY
//
// Prints a line for each thing that happens; waits for the lease until SIGTERM.
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { CONFIG_MAPS } from '../../src/api/resource.ts';
import { Kube } from '../../src/kube/client.ts';
import { lead } from '../../src/kube/lease.ts';

/** Seconds. */
export const TIMES = { durationSeconds: 3, renewDeadlineSeconds: 2, retrySeconds: 0.5 };
export const LEASE = { namespace: 'default', name: 'cdi-controller-leader-election-helper' };

const say = (line: string): void => void process.stdout.write(`${line}\n`);

async function main(args: readonly string[]): Promise<void> {
  const [url = '', ca = '', token = '', namespace = '', name = '', identity = ''] = args;
  await using kube = new Kube({ url, ca: await readFile(ca, 'utf8'), token: async () => token });
  const end = new AbortController();
  process.once('SIGTERM', () => end.abort());
  let written = 0;
  const run = async (signal: AbortSignal): Promise<void> => {
    say('leads');
    // A write is tried whatever the signal says: what must not be written is refused below.
    while (!end.signal.aborted) {
      const metadata = { namespace: 'default', name: `${identity}-${written}`, labels: { written: identity } };
      written += 1;
      await kube.create(CONFIG_MAPS, { metadata });
      if (signal.aborted) say('wrote after it was lost');
      say(`wrote ${written}`);
      await sleep(50);
    }
  };
  try {
    const failed = (error: unknown): void => say(`failed: ${(error as Error).message}`);
    await lead(kube, { namespace, name, ...TIMES, identity, failed }, run, end.signal);
    say('ended');
  } catch (error) {
    say(`lost: ${(error as Error).message}`);
  }
}

if (process.argv[1] === import.meta.filename) await main(process.argv.slice(2));
