// `npm run cluster:down`: ends the cluster, however it was started and whoever was killed.
import { rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type Layout, layoutFrom, places } from './layout.ts';
import { clean } from './leftovers.ts';

const HELP = `Ends the cluster of npm run cluster:up: processes, namespaces, links, routes, mounts, loop devices and control
groups. What it stored stays, and is there again when it is started the next time.

  npm run cluster:down [-- --wipe]      --wipe forgets that, too
`;

/** Ends everything at once: what etcd, containerd and pods have written is with the kernel, and a start finds it. */
export async function down(layout: Layout, wipe: boolean): Promise<void> {
  await rm(places(layout).up, { force: true });
  await clean(layout);
  if (wipe) await rm(layout.directory, { recursive: true, force: true });
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { wipe: { type: 'boolean', default: false }, help: { type: 'boolean', short: 'h' } },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return;
  }
  const began = performance.now();
  const layout = layoutFrom(process.env, 1);
  await down(layout, values.wipe);
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  process.stdout.write(`down (${seconds} s)${values.wipe ? '' : `; its state stays in ${layout.directory}`}\n`);
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  await main().catch((error: Error) => {
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  });
