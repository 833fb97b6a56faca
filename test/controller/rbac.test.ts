// What deploy/ gives is not more than what CDI gives to what has the same name, and users have exactly what CDI lets them have.
import { beforeAll, expect, test } from 'vitest';
import { type Manifest, rendered } from '../support/kubectl.ts';

interface Rule {
  readonly apiGroups?: readonly string[];
  readonly resources?: readonly string[];
  readonly resourceNames?: readonly string[];
  readonly nonResourceURLs?: readonly string[];
  readonly verbs: readonly string[];
}
interface Role extends Manifest {
  readonly rules: readonly Rule[];
}
interface Binding extends Manifest {
  readonly roleRef: { readonly kind: string; readonly name: string };
  readonly subjects: readonly { readonly kind: string; readonly name: string; readonly namespace?: string }[];
}
/** One thing that may be done: to a kind, to one object of it, or to a path. */
interface Right {
  readonly group?: string;
  readonly resource?: string;
  readonly name?: string;
  readonly path?: string;
  readonly verb: string;
}

const READ = ['get', 'list', 'watch'];
const rule = (apiGroup: string, resources: string[], verbs: string[], resourceNames?: string[]): Rule => ({
  apiGroups: [apiGroup],
  resources,
  verbs,
  ...(resourceNames ? { resourceNames } : {}),
});

const WEBHOOKS = [
  ...['cdi-api-dataimportcron-validate', 'cdi-api-populator-validate', 'cdi-api-datavolume-validate'],
  ...['cdi-api-validate', 'objecttransfer-api-validate', 'cdi-api-datavolume-mutate', 'cdi-api-pvc-mutate'],
];
const FORKLIFT = ['ovirtvolumepopulators', 'openstackvolumepopulators'];
const FILLED = [
  ...['datavolumes', 'dataimportcrons', 'datasources'],
  ...['volumeimportsources', 'volumeuploadsources', 'volumeclonesources'],
];
const USER = [
  rule('cdi.kubevirt.io', FILLED, ['*']),
  rule('cdi.kubevirt.io', ['datavolumes/source'], ['create']),
  rule('upload.cdi.kubevirt.io', ['uploadtokenrequests'], ['*']),
  rule('forklift.cdi.kubevirt.io', FORKLIFT, ['*']),
];

/** CDI's of programs, as it installs them (commit c07cdb6, pkg/operator/resources/{cluster,namespaced}). */
const PROGRAMS: Readonly<Record<string, readonly Rule[]>> = {
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
    rule('authorization.k8s.io', ['subjectaccessreviews'], ['create']),
    rule('', ['configmaps', 'persistentvolumeclaims', 'persistentvolumes'], READ),
    rule('storage.k8s.io', ['storageclasses'], READ),
    rule('snapshot.storage.k8s.io', ['volumesnapshots'], READ),
    rule('', ['namespaces'], ['get']),
    rule('cdi.kubevirt.io', ['datavolumes'], ['list', 'get']),
    rule('cdi.kubevirt.io', ['datasources'], ['get']),
    rule('cdi.kubevirt.io', ['volumeclonesources', 'storageprofiles', 'cdis', 'cdiconfigs'], READ),
    // There, the operator keeps the certificates of the webhooks, with these rights; here nobody else does.
    rule('admissionregistration.k8s.io', ['validatingwebhookconfigurations'], ['get', 'update'], WEBHOOKS),
    rule('admissionregistration.k8s.io', ['mutatingwebhookconfigurations'], ['get', 'update'], WEBHOOKS),
  ],
  'Role cdi-apiserver': [
    rule('', ['secrets', 'configmaps'], [...READ, 'create']),
    // The operator's as well.
    rule('', ['secrets'], ['get', 'update'], ['cdi-apiserver-signer', 'cdi-apiserver-server-cert']),
    rule('', ['configmaps'], ['get', 'update'], ['cdi-apiserver-signer-bundle']),
  ],
  'ClusterRole cdi-metrics-reader': [{ nonResourceURLs: ['/metrics'], verbs: ['get'] }],
  'Role cdi-monitoring': [rule('', ['services', 'endpoints', 'pods'], READ)],
};

/** CDI's of users. */
const USERS: Readonly<Record<string, { readonly into?: string; readonly rules: readonly Rule[] }>> = {
  'cdi.kubevirt.io:admin': { into: 'admin', rules: USER },
  'cdi.kubevirt.io:edit': { into: 'edit', rules: USER },
  'cdi.kubevirt.io:view': {
    into: 'view',
    rules: [
      rule('cdi.kubevirt.io', [...FILLED, 'cdiconfigs', 'objecttransfers', 'storageprofiles'], READ),
      rule('forklift.cdi.kubevirt.io', FORKLIFT, READ),
    ],
  },
  'cdi.kubevirt.io:clone-sourcer': { rules: [rule('cdi.kubevirt.io', ['datavolumes/source'], ['create'])] },
  'cdi.kubevirt.io:config-reader': { rules: [rule('cdi.kubevirt.io', ['cdiconfigs', 'storageprofiles'], READ)] },
};

/** Who has what: role → accounts. */
const HOLDERS: Readonly<Record<string, string>> = {
  'ClusterRole cdi': 'ServiceAccount cdi/cdi-sa',
  'Role cdi-deployment': 'ServiceAccount cdi/cdi-sa',
  'ClusterRole cdi-apiserver': 'ServiceAccount cdi/cdi-apiserver',
  'Role cdi-apiserver': 'ServiceAccount cdi/cdi-apiserver',
  'ClusterRole cdi-metrics-reader': 'ServiceAccount cdi/cdi-metrics-reader',
  'ClusterRole cdi.kubevirt.io:config-reader': 'Group system:authenticated',
  'Role cdi-monitoring': 'ServiceAccount monitoring/prometheus-k8s',
};

let roles: Role[];
let bindings: Binding[];
beforeAll(async () => {
  const all = [...(await rendered('deploy')), ...(await rendered('deploy/monitoring'))];
  roles = all.filter(({ kind }) => /Role$/.test(kind)) as Role[];
  bindings = all.filter(({ kind }) => /RoleBinding$/.test(kind)) as Binding[];
});

const titleOf = ({ kind, metadata }: Manifest): string => `${kind} ${metadata.name}`;

function rightsOf(rules: readonly Rule[]): Right[] {
  return rules.flatMap(({ apiGroups = [], resources = [], resourceNames, nonResourceURLs = [], verbs }) =>
    verbs.flatMap((verb) => [
      ...nonResourceURLs.map((path): Right => ({ path, verb })),
      ...apiGroups.flatMap((group) =>
        resources.flatMap((resource): Right[] => {
          const right = { group, resource, verb };
          return resourceNames ? resourceNames.map((name) => ({ ...right, name })) : [right];
        }),
      ),
    ]),
  );
}

/** `patch` is as much as `update`, and touches less: ours never sends whole objects. */
function allows(allowed: readonly Rule[], { group, resource, name, path, verb }: Right): boolean {
  return allowed.some(({ apiGroups, resources, resourceNames, nonResourceURLs, verbs }) => {
    const does = verbs.includes('*') || verbs.includes(verb) || (verb === 'patch' && verbs.includes('update'));
    if (path !== undefined) return does && (nonResourceURLs?.includes(path) ?? false);
    const has = (list: readonly string[] | undefined, one: string | undefined): boolean =>
      list !== undefined && one !== undefined && (list.includes('*') || list.includes(one));
    return does && has(apiGroups, group) && has(resources, resource) && (!resourceNames || has(resourceNames, name));
  });
}

test('all roles are compared, and no other account has them', () => {
  const known = [...Object.keys(PROGRAMS), ...Object.keys(USERS).map((name) => `ClusterRole ${name}`)];
  expect(roles.map(titleOf).sort()).toEqual(known.sort());
  const holders = bindings.map(({ roleRef: { kind, name }, subjects }) => [
    `${kind} ${name}`,
    subjects.map((one) => `${one.kind} ${one.namespace ? `${one.namespace}/` : ''}${one.name}`).join(', '),
  ]);
  expect(holders.length).toBe(Object.keys(HOLDERS).length);
  expect(Object.fromEntries(holders)).toEqual(HOLDERS);
});

test.each(Object.entries(PROGRAMS))('%s is not wider than CDI', (title, allowed) => {
  const role = roles.find((one) => titleOf(one) === title);
  const rights = rightsOf(role?.rules ?? []);
  expect(rights.length).toBeGreaterThan(0);
  expect(rights.filter((right) => !allows(allowed, right))).toEqual([]);
});

test('programs ask for nothing as a whole, and read no secret that is not theirs, no log, and run nothing in pods', () => {
  const rights = roles.filter((role) => titleOf(role) in PROGRAMS).flatMap(({ rules }) => rightsOf(rules));
  expect(rights.filter((one) => Object.values(one).includes('*'))).toEqual([]);
  const delicate = rights.filter(({ resource = '' }) =>
    /^secrets$|\/exec|\/log|\/attach|^nodes|impersonate|roles/.test(resource),
  );
  const named = ['cdi-apiserver-signer', 'cdi-apiserver-server-cert'];
  for (const { verb, resource, name } of delicate) {
    expect(resource).toBe('secrets');
    if (verb !== 'create') expect(named).toContain(name);
  }
});

test.each(Object.entries(USERS))('%s is what CDI has', (name, { into, rules }) => {
  const role = roles.find((one) => one.metadata.name === name);
  const text = (list: readonly Rule[]): string[] =>
    rightsOf(list)
      .map((one) => JSON.stringify(one))
      .sort();
  expect(text(role?.rules ?? [])).toEqual(text(rules));
  const labels = Object.keys(role?.metadata.labels ?? {}).filter((key) => key.includes('aggregate-to'));
  expect(labels).toEqual(into ? [`rbac.authorization.k8s.io/aggregate-to-${into}`] : []);
});

test('the comparison finds what is wider', () => {
  const [cdi, server] = [PROGRAMS['ClusterRole cdi'] ?? [], PROGRAMS['ClusterRole cdi-apiserver'] ?? []];
  const of = (group: string, resource: string, verb: string): Right => ({ group, resource, verb });
  expect(allows(cdi, of('', 'secrets', 'get'))).toBe(false);
  expect(allows(cdi, of('', 'pods', 'patch'))).toBe(false);
  expect(allows(cdi, of('', 'persistentvolumes', 'patch'))).toBe(true);
  const webhook = of('admissionregistration.k8s.io', 'validatingwebhookconfigurations', 'patch');
  expect(allows(server, webhook)).toBe(false);
  expect(allows(server, { ...webhook, name: 'cdi-api-validate' })).toBe(true);
  expect(allows(server, { ...webhook, name: 'of-somebody-else' })).toBe(false);
});
