// Network namespaces: one for each node, and one that holds the bridge between them and the machine. A bridge on the
// machine itself would pass through whatever firewall it has.
import { run } from '../support/images.ts';
import { INSIDE, type Layout, PREFIX } from './layout.ts';

const ip = (...args: string[]): Promise<string> => run('ip', 'iproute2', args);

/** The machine's routes that lead into the network of this cluster and are not its own. */
async function occupied(layout: Layout): Promise<string | undefined> {
  const [first, second] = layout.network.split('.');
  const routes: { dst: string; dev?: string }[] = JSON.parse(await ip('-j', 'route', 'show', 'table', 'all'));
  const found = routes.find(({ dst, dev }) => dst.startsWith(`${first}.${second}.`) && dev !== layout.link);
  return found && `${found.dst} by ${found.dev}`;
}

/** Expects that nothing of it is there. Throws a sentence. */
export async function makeNetwork(layout: Layout): Promise<void> {
  const route = await occupied(layout);
  if (route) throw new Error(`${layout.network} is in use (${route}): give the cluster another DISKFERRY_CLUSTER_NAME`);
  const hub = layout.switch;
  await ip('netns', 'add', hub);
  await ip('-n', hub, 'link', 'add', 'bridge', 'up', 'type', 'bridge');
  await ip('link', 'add', layout.link, 'type', 'veth', 'peer', 'name', layout.uplink, 'netns', hub);
  await ip('-n', hub, 'link', 'set', layout.uplink, 'master', 'bridge', 'up');
  await ip('address', 'add', `${layout.host}/${PREFIX}`, 'dev', layout.link);
  await ip('link', 'set', layout.link, 'up');
  for (const { namespace, address, link } of layout.nodes) {
    await ip('netns', 'add', namespace);
    await ip('-n', namespace, 'link', 'add', INSIDE, 'type', 'veth', 'peer', 'name', link, 'netns', hub);
    await ip('-n', hub, 'link', 'set', link, 'master', 'bridge', 'up');
    await ip('-n', namespace, 'link', 'set', 'lo', 'up');
    await ip('-n', namespace, 'address', 'add', `${address}/${PREFIX}`, 'dev', INSIDE);
    await ip('-n', namespace, 'link', 'set', INSIDE, 'up');
    await ip('-n', namespace, 'route', 'add', 'default', 'via', layout.host);
  }
  const [first] = layout.nodes;
  if (first) await ip('route', 'add', layout.services, 'via', first.address);
  for (const { pods, address, namespace } of layout.nodes) {
    await ip('route', 'add', pods, 'via', address);
    for (const other of layout.nodes)
      if (other.namespace !== namespace) await ip('-n', other.namespace, 'route', 'add', pods, 'via', address);
  }
}
