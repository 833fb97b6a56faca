// Brings the cluster of the tests up before them, and ends it after them. DISKFERRY_CLUSTER_KEEP=1 leaves it up;
// DISKFERRY_CLUSTER_NODES says how many nodes it has (1).
import { down } from './down.ts';
import { layoutFrom, nodesWanted } from './layout.ts';
import { up } from './up.ts';

export async function setup(): Promise<() => Promise<void>> {
  const layout = layoutFrom(process.env, nodesWanted());
  await up(layout, (line) => process.stdout.write(`${line}\n`));
  return async () => {
    if (process.env.DISKFERRY_CLUSTER_KEEP !== '1') await down(layout, false);
  };
}
