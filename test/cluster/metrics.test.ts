// What Prometheus gets of the controller, and who else does.
import { Agent, request } from 'undici';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Cluster, cluster } from './support/cluster.ts';
import { until } from './support/until.ts';

let kubernetes: Cluster;
beforeAll(async () => {
  kubernetes = await cluster();
}, 600_000);
afterAll(() => kubernetes?.[Symbol.asyncDispose]());

/** Its answer, and the page. */
async function asked(token: string | undefined): Promise<{ status: string; page: string }> {
  const address = (
    await kubernetes.kubectl([
      'get',
      'service',
      'cdi-prometheus-metrics',
      '-n',
      'cdi',
      '-o',
      'jsonpath={.spec.clusterIP}',
    ])
  ).trim();
  const agent = new Agent({ connect: { rejectUnauthorized: false } });
  const answer = await request(`https://${address}:8443/metrics`, {
    dispatcher: agent,
    headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
  });
  const page = await answer.body.text();
  await agent.destroy();
  return { status: String(answer.statusCode), page };
}

const tokenOf = async (account: string): Promise<string> =>
  (await kubernetes.kubectl(['create', 'token', account, '-n', 'cdi'])).trim();

test('nobody without a token, nobody without the right, and the reader of metrics', async () => {
  expect((await asked(undefined)).status).toBe('401');
  expect((await asked('none-that-anybody-gave')).status).toBe('401');
  expect((await asked(await tokenOf('default'))).status).toBe('403');
  const secret = await kubernetes.kubectl([
    'get',
    'secret',
    'cdi-metrics-reader-token',
    '-n',
    'cdi',
    '-o',
    'jsonpath={.data.token}',
  ]);
  const { status, page } = await asked(Buffer.from(secret.trim(), 'base64').toString());
  expect(status).toBe('200');
  expect(page).toContain('kubevirt_cdi_cr_ready 1');
  expect(page).toContain('diskferry_controller_leads 1');
  expect(page).toMatch(/kubevirt_cdi_storageprofile_info\{[^}]*storageclass="immediate"[^}]*\} 1/);
  expect(page).toMatch(/diskferry_controller_lists_total\{kind="datavolumes"\} 1/);
});

test('a deployment that is waited for, and an installation that is available', async () => {
  await kubernetes.kubectl([
    'wait',
    '--for=condition=Available',
    '--timeout=60s',
    'cdi/cdi',
    'deployment/cdi-deployment',
    '-n',
    'cdi',
  ]);
  const phase = await until(
    'the phase of the installation',
    15,
    async () => (await kubernetes.kubectl(['get', 'cdi', 'cdi', '-o', 'jsonpath={.status.phase}'])) || undefined,
  );
  expect(phase).toBe('Deployed');
});
