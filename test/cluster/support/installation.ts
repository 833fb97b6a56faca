// The CDI of the cluster, changed for a while.
import type { Cdi } from '../../../src/api/config.ts';
import type { Cluster } from './cluster.ts';
import { until } from './until.ts';

const PATH = '/apis/cdi.kubevirt.io/v1beta1/cdis/cdi';

/** A merge patch of its spec; what was there before comes back when it is disposed. */
export async function installation(cluster: Cluster, patch: NonNullable<Cdi['spec']>): Promise<AsyncDisposable> {
  const { spec: before } = await cluster.ask<Cdi>('GET', PATH);
  await cluster.ask('PATCH', PATH, { spec: patch });
  if (patch.config) {
    const wanted = JSON.stringify((await cluster.ask<Cdi>('GET', PATH)).spec?.config);
    await until('the CDIConfig is that of the CDI', 15, async () => {
      const { spec } = await cluster.ask<{ spec?: object }>('GET', '/apis/cdi.kubevirt.io/v1beta1/cdiconfigs/config');
      return JSON.stringify(sorted(spec)) === JSON.stringify(sorted(JSON.parse(wanted)));
    });
  }
  return {
    [Symbol.asyncDispose]: () =>
      cluster.ask(
        'PATCH',
        PATH,
        [{ op: 'replace', path: '/spec', value: before }],
        'application/json-patch+json',
      ) as never,
  };
}

const sorted = (value: object | undefined): [string, unknown][] =>
  Object.entries(value ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
