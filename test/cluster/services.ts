// The programs of a cluster, and their configuration: pure, from the layout.
import { join } from 'node:path';
import { type Layout, type Node, partsOf, places } from './layout.ts';

export interface Service {
  readonly name: string;
  readonly program: string;
  readonly args: readonly string[];
}

export const DRIVER = 'hostpath.csi.test';
export const PAUSE_IMAGE = 'registry.test/pause:1';
/** Inside a node. */
export const CONTAINERD = '/run/containerd/containerd.sock';
const CSI_SOCKET = `/var/lib/kubelet/plugins/${DRIVER}/csi.sock`;
const ETCD = 'http://127.0.0.1:2379';
const ETCD_PEER = 'http://127.0.0.1:2380';
const DNS_PORT = 5353;
const SITE_PORT = 8088;
/** Inside the first node. */
export const AUDIT_LOG = '/var/log/audit.log';
/** The user that the controller is to the API server (deploy/rbac.yaml). */
const CONTROLLER = 'system:serviceaccount:cdi:cdi-sa';
/** The label of nodes, and of what belongs to them, that kwok plays. */
export const FAKE = 'diskferry.test/fake';
/** The Service of the images that examples name: `http://images.default.svc/`. */
const SITE = { name: 'images', namespace: 'default' };

/** By name, so that a step of the start says which it starts. `path` finds a program. */
export function servicesOf(layout: Layout, node: Node, path: (program: string) => string): Record<string, Service> {
  const { pki } = places(layout);
  const parts = partsOf(node);
  const at = (name: string): string => join(pki, name);
  const configured = (name: string): string => join(parts.configuration, name);
  const as = (user: string): string => `--kubeconfig=${at(`${user}.kubeconfig`)}`;
  const csi = [as('admin'), `--csi-address=${CSI_SOCKET}`, '--timeout=60s', '--v=3'];
  const pair = (option: string, key: string, name: string): string[] => [
    `--${option}=${at(`${name}.crt`)}`,
    `--${key}=${at(`${name}.key`)}`,
  ];
  const all: Service[] = [
    { name: 'containerd', program: 'containerd', args: ['-c', configured('containerd.toml')] },
    {
      name: 'etcd',
      program: 'etcd',
      args: [
        ...['--name', node.name, '--data-dir', '/var/lib/etcd', '--initial-cluster', `${node.name}=${ETCD_PEER}`],
        ...['--listen-client-urls', ETCD, '--advertise-client-urls', ETCD],
        ...['--listen-peer-urls', ETCD_PEER, '--initial-advertise-peer-urls', ETCD_PEER],
      ],
    },
    {
      name: 'kube-apiserver',
      program: 'kube-apiserver',
      args: [
        ...[`--etcd-servers=${ETCD}`, '--bind-address=0.0.0.0', `--advertise-address=${node.address}`],
        ...['--secure-port=6443', ...pair('tls-cert-file', 'tls-private-key-file', 'apiserver')],
        `--client-ca-file=${at('ca.crt')}`,
        // https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/
        ...[`--requestheader-client-ca-file=${at('ca.crt')}`, '--requestheader-allowed-names=front-proxy'],
        ...['--requestheader-username-headers=X-Remote-User', '--requestheader-group-headers=X-Remote-Group'],
        '--requestheader-extra-headers-prefix=X-Remote-Extra-',
        ...pair('proxy-client-cert-file', 'proxy-client-key-file', 'front-proxy'),
        ...[`--kubelet-certificate-authority=${at('ca.crt')}`, '--kubelet-preferred-address-types=InternalIP'],
        ...pair('kubelet-client-certificate', 'kubelet-client-key', 'apiserver-kubelet'),
        '--service-account-issuer=https://kubernetes.default.svc.cluster.local',
        ...[
          `--service-account-key-file=${at('accounts.pub')}`,
          `--service-account-signing-key-file=${at('accounts.key')}`,
        ],
        ...[`--service-cluster-ip-range=${layout.services}`, '--authorization-mode=Node,RBAC'],
        ...['--enable-admission-plugins=NodeRestriction', '--allow-privileged=true'],
        // It wants a newer etcd than Debian 12's, and without that refuses watches from version 0, with which kwok begins.
        '--feature-gates=WatchList=false',
        // What the controller asks for: support/audit.ts counts it.
        ...[`--audit-policy-file=${configured('audit.json')}`, `--audit-log-path=${AUDIT_LOG}`],
        ...['--audit-log-maxsize=512', '--audit-log-maxbackup=1'],
      ],
    },
    {
      name: 'kube-controller-manager',
      program: 'kube-controller-manager',
      args: [
        // Not as a user of its own for each controller: then it takes 5 s longer until there are service accounts.
        ...[as('admin'), '--bind-address=127.0.0.1', '--leader-elect=false'],
        ...[`--service-account-private-key-file=${at('accounts.key')}`, `--root-ca-file=${at('ca.crt')}`],
        ...pair('cluster-signing-cert-file', 'cluster-signing-key-file', 'ca'),
        ...[
          `--service-cluster-ip-range=${layout.services}`,
          `--cluster-cidr=${layout.everyPod}`,
          '--allocate-node-cidrs=false',
        ],
        // Of 20 requests a second, hundreds of claims are minutes until they are bound, and until they are gone.
        ...['--kube-api-qps=500', '--kube-api-burst=1000'],
      ],
    },
    {
      name: 'kube-scheduler',
      program: 'kube-scheduler',
      args: [as('scheduler'), '--bind-address=127.0.0.1', '--leader-elect=false'],
    },
    {
      name: 'kubelet',
      program: 'kubelet',
      args: [
        ...[`--config=${configured('kubelet.json')}`, as(`kubelet-${node.name}`)],
        ...[`--hostname-override=${node.name}`, `--node-ip=${node.address}`, '--v=2'],
      ],
    },
    { name: 'kube-proxy', program: 'kube-proxy', args: [`--config=${configured('proxy.json')}`, '--v=2'] },
    { name: 'coredns', program: 'coredns', args: ['-conf', configured('Corefile')] },
    { name: 'site', program: 'nginx', args: ['-p', '/run', '-c', configured('nginx.conf')] },
    {
      name: 'csi-driver',
      program: 'csihostpath',
      args: ['-name', DRIVER, '-node', node.name, '-endpoint', CSI_SOCKET, '-state', '/var/lib/csihostpath'],
    },
    { name: 'snapshot-controller', program: 'snapshot-controller', args: [as('admin'), '--v=3'] },
    {
      name: 'csi-provisioner',
      program: 'csi-provisioner',
      args: [...csi, '--extra-create-metadata', '--default-fstype=ext4', '--feature-gates=Topology=true'],
    },
    { name: 'csi-snapshotter', program: 'csi-snapshotter', args: csi },
    {
      // Not of every cluster: support/kwok.ts starts it.
      name: 'kwok',
      program: 'kwok',
      args: [
        ...[as('admin'), `--config=${configured('stages.yaml')}`, `--node-ip=${node.address}`],
        ...['--manage-all-nodes=false', `--manage-nodes-with-label-selector=${FAKE}=true`],
        '--node-lease-duration-seconds=40',
      ],
    },
    { name: 'csi-resizer', program: 'csi-resizer', args: csi },
  ];
  return Object.fromEntries(all.map((service) => [service.name, { ...service, program: path(service.program) }]));
}

/** Configuration files of a node, by name. JSON is YAML. */
export function configurationOf(layout: Layout, node: Node): Record<string, string> {
  const { pki } = places(layout);
  const { configuration } = partsOf(node);
  const at = (name: string): string => join(pki, name);
  return {
    'containerd.toml': containerdConfiguration(configuration),
    'cni/network.conflist': JSON.stringify({
      cniVersion: '1.0.0',
      name: layout.name,
      plugins: [
        {
          type: 'bridge',
          bridge: 'cni0',
          isGateway: true,
          hairpinMode: true,
          ipMasq: false,
          ipam: { type: 'host-local', ranges: [[{ subnet: node.pods }]], routes: [{ dst: '0.0.0.0/0' }] },
        },
        { type: 'portmap', capabilities: { portMappings: true } },
      ],
    }),
    'audit.json': JSON.stringify({
      apiVersion: 'audit.k8s.io/v1',
      kind: 'Policy',
      omitStages: ['RequestReceived'],
      rules: [{ level: 'Metadata', users: [CONTROLLER] }, { level: 'None' }],
    }),
    // Empty: names outside of the cluster are not asked of anybody.
    'resolv.conf': '',
    'kubelet.json': JSON.stringify({
      apiVersion: 'kubelet.config.k8s.io/v1beta1',
      kind: 'KubeletConfiguration',
      // Machines with control groups of version 1 are refused since 1.35.
      failCgroupV1: false,
      cgroupDriver: 'cgroupfs',
      cgroupRoot: `/${node.namespace}`,
      failSwapOn: false,
      containerRuntimeEndpoint: `unix://${CONTAINERD}`,
      authentication: {
        anonymous: { enabled: false },
        webhook: { enabled: true },
        x509: { clientCAFile: at('ca.crt') },
      },
      authorization: { mode: 'Webhook' },
      tlsCertFile: at(`serving-${node.name}.crt`),
      tlsPrivateKeyFile: at(`serving-${node.name}.key`),
      clusterDomain: 'cluster.local',
      clusterDNS: [layout.dns],
      resolvConf: join(configuration, 'resolv.conf'),
      // Images that were never pulled cannot be pulled again: they are not collected.
      imageGCHighThresholdPercent: 100,
      imageGCLowThresholdPercent: 99,
      evictionHard: {
        'memory.available': '50Mi',
        'nodefs.available': '0%',
        'nodefs.inodesFree': '0%',
        'imagefs.available': '0%',
        'imagefs.inodesFree': '0%',
      },
      serializeImagePulls: false,
      // A volume that grows is looked at so often; a minute is the default.
      syncFrequency: '2s',
      // Else it makes /usr/libexec/kubernetes.
      volumePluginDir: '/var/lib/kubelet/volumeplugins',
    }),
    'proxy.json': JSON.stringify({
      apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
      kind: 'KubeProxyConfiguration',
      mode: 'nftables',
      clusterCIDR: layout.everyPod,
      hostnameOverride: node.name,
      clientConnection: { kubeconfig: at('proxy.kubeconfig') },
      // Settings of the whole machine: left as they are.
      conntrack: { maxPerCore: 0, min: 0, tcpEstablishedTimeout: '0s', tcpCloseWaitTimeout: '0s' },
      healthzBindAddress: '127.0.0.1:10256',
      metricsBindAddress: '127.0.0.1:10249',
    }),
    Corefile: `.:${DNS_PORT} {
  errors
  ready 127.0.0.1:8181
  kubernetes cluster.local in-addr.arpa {
    kubeconfig ${at('admin.kubeconfig')}
    pods insecure
  }
  cache 2
}
`,
    'nginx.conf': `user root;
daemon off;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr warn;
events { worker_connections 256; }
http {
  access_log off;
${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `  ${name}_temp_path /run/nginx-${name};`).join('\n')}
  default_type application/octet-stream;
  server { listen ${node.address}:${SITE_PORT}; root ${places(layout).site}; }
}
`,
  };
}

function containerdConfiguration(configuration: string): string {
  const unused = ['snapshotter.v1.btrfs', 'snapshotter.v1.aufs', 'snapshotter.v1.zfs', 'snapshotter.v1.devmapper'];
  // internal.v1.opt would make /opt/containerd.
  const disabled = [...unused, 'internal.v1.opt', 'tracing.processor.v1.otlp'].map((name) => `io.containerd.${name}`);
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  return `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ${JSON.stringify(disabled)}
[grpc]
  address = "${CONTAINERD}"
[${cri}]
  sandbox_image = "${PAUSE_IMAGE}"
  # A root without CAP_SYS_RESOURCE may not lower oom_score_adj to the -998 of a sandbox.
  restrict_oom_score_adj = true
  # Block volumes belong to the user of their container: KubeVirt and CDI ask for it, too.
  device_ownership_from_security_context = true
  [${cri}.containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [${cri}.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [${cri}.containerd.runtimes.runc.options]
        SystemdCgroup = false
  [${cri}.cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "${configuration}/cni"
`;
}

/** The Service of CoreDNS, which runs beside the pods of the first node and not as one. */
export function dnsObjects(layout: Layout): object[] {
  const ports = [
    { name: 'dns', protocol: 'UDP', port: 53, targetPort: DNS_PORT },
    { name: 'dns-tcp', protocol: 'TCP', port: 53, targetPort: DNS_PORT },
  ];
  return serviceOf(layout, { name: 'kube-dns', namespace: 'kube-system' }, ports, { clusterIP: layout.dns });
}

/** Of the images that examples name. */
export function siteObjects(layout: Layout): object[] {
  return serviceOf(layout, SITE, [{ name: 'http', protocol: 'TCP', port: 80, targetPort: SITE_PORT }], {});
}

interface Port {
  readonly name: string;
  readonly protocol: string;
  readonly port: number;
  readonly targetPort: number;
}

/** A Service without pods: a program of the first node answers. */
function serviceOf(
  layout: Layout,
  metadata: { readonly name: string; readonly namespace: string },
  ports: readonly Port[],
  more: object,
): object[] {
  return [
    { apiVersion: 'v1', kind: 'Service', metadata, spec: { ...more, ports } },
    {
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: { ...metadata, labels: { 'kubernetes.io/service-name': metadata.name } },
      addressType: 'IPv4',
      ports: ports.map(({ name, protocol, targetPort }) => ({ name, protocol, port: targetPort })),
      endpoints: [{ addresses: [layout.nodes[0]?.address], conditions: { ready: true } }],
    },
  ];
}
