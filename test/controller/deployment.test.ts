// What deploy/ says in several places is the same everywhere.
import type { Deployment } from 'kubernetes-types/apps/v1.js';
import type { Container, Service } from 'kubernetes-types/core/v1.js';
import type { NetworkPolicy } from 'kubernetes-types/networking/v1.js';
import { beforeAll, expect, test } from 'vitest';
import { settingsOf } from '../../src/controller/settings.ts';
import { type Manifest, rendered } from '../support/kubectl.ts';

let all: Manifest[];
beforeAll(async () => {
  all = (await Promise.all(['deploy', 'deploy/egress', 'deploy/monitoring'].map((one) => rendered(one)))).flat();
});

const of = <T>(kind: string): (T & Manifest)[] => all.filter((one) => one.kind === kind) as (T & Manifest)[];
const labelsOf = ({ spec }: Deployment): Record<string, string> => spec?.template.metadata?.labels ?? {};
const containersOf = ({ spec }: Deployment): Container[] => spec?.template.spec?.containers ?? [];
const matches = (labels: Record<string, string>, wanted: Record<string, string> = {}): boolean =>
  Object.entries(wanted).every(([key, value]) => labels[key] === value);

test('import pods have the image of the controller, which starts with what it is given', () => {
  const controller = of<Deployment>('Deployment').find(({ metadata }) => metadata.name === 'cdi-deployment');
  const [container] = controller ? containersOf(controller) : [];
  expect(container?.name).toBe('cdi-deployment');
  const env = Object.fromEntries((container?.env ?? []).map(({ name, value = 'of the pod' }) => [name, value]));
  expect(settingsOf(env, 'cdi')).toMatchObject({ importerImage: container?.image, identity: 'of the pod' });
  expect(container?.image).toMatch(/^registry\.test\/diskferry:/);
  // Clients look for these.
  expect(labelsOf(controller as Deployment)).toMatchObject({ app: 'containerized-data-importer' });
});

test('programs have a bound for memory, probes, and nothing to write to', () => {
  for (const deployment of of<Deployment>('Deployment'))
    for (const { resources, readinessProbe, livenessProbe, ports, securityContext } of containersOf(deployment)) {
      expect(resources?.limits?.memory).toMatch(/^\d+Mi$/);
      expect(securityContext).toMatchObject({ readOnlyRootFilesystem: true, allowPrivilegeEscalation: false });
      const names = (ports ?? []).map(({ name }) => name);
      for (const probe of [readinessProbe, livenessProbe]) expect(names).toContain(probe?.httpGet?.port);
    }
});

test('services and policies of the network name pods and ports that there are', () => {
  const pods = of<Deployment>('Deployment').map((one) => ({
    labels: labelsOf(one),
    ports: containersOf(one).flatMap(({ ports = [] }) => ports),
  }));
  const services = of<Service>('Service');
  expect(services.map(({ metadata: { name } }) => name).sort()).toEqual(['cdi-api', 'cdi-prometheus-metrics']);
  for (const { spec } of services) {
    const [pod, ...others] = pods.filter(({ labels }) => matches(labels, spec?.selector));
    expect(others).toEqual([]);
    for (const { targetPort } of spec?.ports ?? []) expect(pod?.ports.map(({ name }) => name)).toContain(targetPort);
  }
  for (const { spec } of of<NetworkPolicy>('NetworkPolicy')) {
    const chosen = pods.filter(({ labels }) => matches(labels, spec?.podSelector?.matchLabels));
    expect(chosen.length).toBeGreaterThan(0);
    for (const { ports = [] } of spec?.ingress ?? [])
      for (const { port } of ports)
        for (const pod of chosen) expect(pod.ports.map(({ containerPort }) => containerPort)).toContain(port);
  }
});

test('Prometheus finds the service and the token', () => {
  interface Monitor {
    readonly spec: {
      readonly selector: { readonly matchLabels: Record<string, string> };
      readonly endpoints: { port: string; authorization: { credentials: { name: string; key: string } } }[];
    };
  }
  const [monitor] = of<Monitor>('ServiceMonitor');
  const found = of<Service>('Service').filter(({ metadata }) =>
    matches(metadata.labels ?? {}, monitor?.spec.selector.matchLabels),
  );
  expect(found.map(({ metadata: { name } }) => name)).toEqual(['cdi-prometheus-metrics']);
  const [endpoint] = monitor?.spec.endpoints ?? [];
  expect(found[0]?.spec?.ports?.map(({ name }) => name)).toContain(endpoint?.port);
  const secret = of('Secret').find(({ metadata }) => metadata.name === endpoint?.authorization.credentials.name);
  expect(secret).toMatchObject({
    type: 'kubernetes.io/service-account-token',
    metadata: { annotations: { 'kubernetes.io/service-account.name': 'cdi-metrics-reader' } },
  });
});

test('nothing that is deleted with the rest takes disks with it', () => {
  expect(of('CustomResourceDefinition')).toEqual([]);
});
