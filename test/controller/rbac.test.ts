// What the controller may do is not more than what CDI's may (its ClusterRole `cdi` and Role `cdi-deployment`).
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
  cdi: [
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
  'cdi-deployment': [
    rule('', ['configmaps'], [...READ, 'create', 'update', 'delete']),
    rule('', ['secrets'], READ),
    rule('coordination.k8s.io', ['leases'], ['get', 'create', 'update']),
  ],
};

const roles = parseAllDocuments(readFileSync('deploy/rbac.yaml', 'utf8'))
  .map((document) => document.toJS() as Role)
  .filter(({ kind, metadata }) => /Role$/.test(kind) && metadata.name !== 'cdi-metrics-reader');

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
  expect(roles.map(({ metadata }) => metadata.name)).toEqual(Object.keys(CDI));
});

test.each(roles.map((role) => [role.metadata.name, role] as const))('%s is not wider than CDI', (name, role) => {
  const wider = rights(role).filter(([group, resource, verb]) => !allows(CDI[name] ?? [], group, resource, verb));
  expect(wider).toEqual([]);
});

test('nothing is asked for as a whole, and no secret, exec or log is read', () => {
  const all = roles.flatMap(rights);
  expect(all.filter((right) => right.includes('*'))).toEqual([]);
  expect(all.filter(([, resource]) => /secrets|exec|log$|nodes/.test(resource))).toEqual([]);
});

test('the comparison finds what is wider', () => {
  expect(allows(CDI.cdi ?? [], '', 'secrets', 'get')).toBe(false);
  expect(allows(CDI.cdi ?? [], '', 'pods', 'patch')).toBe(false);
  expect(allows(CDI.cdi ?? [], '', 'persistentvolumes', 'patch')).toBe(true);
});
