// What the controller and the webhooks may do is not more than what CDI's may.
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';

interface Rule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly verbs: readonly string[];
}
interface Role {
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly rules?: readonly Rule[];
}

const READ = ['get', 'list', 'watch'];
const rule = (group: string, resources: string[], verbs: string[]): Rule => ({ apiGroups: [group], resources, verbs });

/** CDI's, as it installs them (commit c07cdb6, pkg/operator/resources/{cluster,namespaced}/controller.go). */
const CDI: Readonly<Record<string, readonly Rule[]>> = {
  'ClusterRole cdi': [
    rule('', ['events'], ['create', 'patch', ...READ]),
    rule('', ['persistentvolumeclaims'], [...READ, 'create', 'update', 'delete', 'deletecollection', 'patch']),
    rule('', ['persistentvolumes'], [...READ, 'update']),
    rule('', ['persistentvolumeclaims/finalizers', 'pods/finalizers'], ['update']),
    rule('', ['pods', 'services'], [...READ, 'create', 'delete']),
    rule('', ['namespaces'], READ),
    rule('', ['configmaps'], ['get', 'create']),
    rule('', ['secrets'], ['create']),
    rule('storage.k8s.io', ['storageclasses', 'csidrivers'], READ),
    rule('cdi.kubevirt.io', ['*'], ['*']),
    rule('forklift.cdi.kubevirt.io', ['*'], ['*']),
    rule(
      'snapshot.storage.k8s.io',
      ['volumesnapshots', 'volumesnapshotclasses', 'volumesnapshotcontents'],
      [...READ, 'create', 'delete'],
    ),
    rule('scheduling.k8s.io', ['priorityclasses'], READ),
    rule('authentication.k8s.io', ['tokenreviews'], ['create']),
    rule('authorization.k8s.io', ['subjectaccessreviews'], ['create']),
  ],
  'Role cdi-deployment': [
    rule('', ['configmaps'], [...READ, 'create', 'update', 'delete']),
    rule('', ['secrets'], READ),
    rule('coordination.k8s.io', ['leases'], ['get', 'create', 'update']),
  ],
  'ClusterRole cdi-apiserver': [
    rule('', ['configmaps', 'persistentvolumeclaims', 'persistentvolumes'], READ),
    rule('storage.k8s.io', ['storageclasses'], READ),
    rule('cdi.kubevirt.io', ['datavolumes'], ['get', 'list']),
    rule('cdi.kubevirt.io', ['datasources'], ['get']),
    rule('cdi.kubevirt.io', ['volumeclonesources', 'storageprofiles', 'cdis', 'cdiconfigs'], READ),
    // Of CDI's operator, by the same names: here there is none, and the process tells API servers whom to trust.
    rule(
      'admissionregistration.k8s.io',
      ['validatingwebhookconfigurations', 'mutatingwebhookconfigurations'],
      ['get', 'update'],
    ),
  ],
  'Role cdi-apiserver': [
    rule('', ['secrets', 'configmaps'], [...READ, 'create']),
    // Of CDI's operator, which makes the certificates there.
    rule('', ['secrets', 'configmaps'], ['update']),
  ],
};

const roles = ['rbac', 'apiserver']
  .flatMap((file) => parseAllDocuments(readFileSync(`deploy/${file}.yaml`, 'utf8')))
  .map((document) => document.toJS() as Role)
  .filter(({ kind, metadata }) => /Role$/.test(kind) && metadata.name !== 'cdi-metrics-reader');
const nameOf = ({ kind, metadata }: Role): string => `${kind} ${metadata.name}`;

/** `patch` is as much as `update`, and touches less: ours never sends whole objects. */
const allows = (allowed: readonly Rule[], group: string, resource: string, verb: string): boolean =>
  allowed.some(
    ({ apiGroups, resources, verbs }) =>
      apiGroups.includes(group) &&
      (resources.includes('*') || resources.includes(resource)) &&
      (verbs.includes('*') || verbs.includes(verb) || (verb === 'patch' && verbs.includes('update'))),
  );

/** Each right by itself: `pods create`. */
function rights({ rules = [] }: Role): [group: string, resource: string, verb: string][] {
  return rules.flatMap(({ apiGroups, resources, verbs }) =>
    apiGroups.flatMap((group) =>
      resources.flatMap((resource) => verbs.map((verb): [string, string, string] => [group, resource, verb])),
    ),
  );
}

test('the roles are those that are compared', () => {
  expect(roles.map(nameOf)).toEqual(Object.keys(CDI));
});

test.each(roles.map((role) => [nameOf(role), role] as const))('%s is not wider than CDI', (name, role) => {
  const wider = rights(role).filter(([group, resource, verb]) => !allows(CDI[name] ?? [], group, resource, verb));
  expect(wider).toEqual([]);
});

test('the controller asks for nothing as a whole, and reads no secret, exec or log', () => {
  const all = roles.filter((role) => !nameOf(role).endsWith('apiserver')).flatMap(rights);
  expect(all.filter((right) => right.includes('*'))).toEqual([]);
  expect(all.filter(([, resource]) => /secrets|exec|log$|nodes/.test(resource))).toEqual([]);
});

test('the comparison finds what is wider', () => {
  expect(allows(CDI['ClusterRole cdi'] ?? [], '', 'secrets', 'get')).toBe(false);
  expect(allows(CDI['ClusterRole cdi'] ?? [], '', 'pods', 'patch')).toBe(false);
  expect(allows(CDI['ClusterRole cdi'] ?? [], '', 'persistentvolumes', 'patch')).toBe(true);
});
