import type { StorageClass } from 'kubernetes-types/storage/v1.js';

type Parameters = Readonly<Record<string, string>>;
/** What is added to the provisioner, with a slash; undefined where the parameters fit none that is known. */
type Rule = (parameters: Parameters) => string | undefined;

/**
 * Key of a storage class in the table of capabilities: its provisioner, and where volumes of one provisioner differ, what
 * its parameters say. Undefined where the provisioner is known and its parameters are not.
 */
export function capabilityKey({ provisioner, parameters }: StorageClass): string | undefined {
  const kind = Object.hasOwn(RULES, provisioner) ? RULES[provisioner]?.(parameters ?? {}) : '';
  if (kind === undefined) return undefined;
  return kind === '' ? provisioner : `${provisioner}/${kind}`;
}

const fileSystem = (parameters: Parameters): string => (parameters['csi.storage.k8s.io/fstype'] ?? '').toLowerCase();
const onNfsFileSystem: Rule = (parameters) => (fileSystem(parameters) === 'nfs' ? 'nfs' : '');
const protocol = (parameters: Parameters): string => (parameters.protocol ?? '').toLowerCase();
const onNfsProtocol: Rule = (parameters) => (protocol(parameters) === 'nfs' ? 'nfs' : '');

/** Portworx exports a volume by NFS 3 without locks when its options say so. */
const onSharedV4: Rule = (parameters) => {
  const options = (parameters.sharedv4_mount_options ?? '').split(',');
  return options.includes('vers=3.0') && options.includes('nolock') ? 'nfs' : '';
};

/** What the value of a parameter stands for; a parameter that is not there is empty. */
function oneOf(name: string, kinds: Readonly<Record<string, string>>, otherwise?: string): Rule {
  return (parameters) => {
    const value = parameters[name] ?? '';
    return Object.hasOwn(kinds, value) ? kinds[value] : otherwise;
  };
}

/** Provisioners whose volumes differ (facts of CDI, pkg/storagecapabilities/storagecapabilities.go). */
const RULES: Readonly<Record<string, Rule>> = {
  'kubevirt.io.hostpath-provisioner': (parameters) => (Object.hasOwn(parameters, 'overlayCSI') ? 'overlay' : ''),
  'kubernetes.io/portworx-volume': onSharedV4,
  'pxd.portworx.com': (parameters) => {
    const { backend } = parameters;
    if (backend === undefined) return onSharedV4(parameters);
    return backend === 'pure_block' || backend === 'pure_fa_file' ? backend : '';
  },
  'csi.trident.netapp.io': ({ backendType = '', selector = '' }) => {
    if (backendType.startsWith('ontap-nas')) return 'ontap-nas';
    if (backendType.startsWith('ontap-san')) return 'ontap-san';
    const labels = selector.split(/[;,]/).map((label) => label.trim());
    const flex = backendType === 'google-cloud-netapp-volumes' && labels.includes('performance=flex');
    return flex ? 'gcnv-flex' : undefined;
  },
  'infinibox-csi-driver': oneOf('storage_protocol', {
    iscsi: 'iscsiorfibrechannel',
    fc: 'iscsiorfibrechannel',
    nvme: 'nvme',
    nfs: 'nfs',
    nfs_treeq: 'nfs',
  }),
  'csi.vsphere.vmware.com': (parameters) => (fileSystem(parameters).includes('nfs') ? 'nfs' : ''),
  'csi-unity.dellemc.com': onNfsProtocol,
  'csi-powerstore.dellemc.com': onNfsFileSystem,
  'csi-vxflexos.dellemc.com': onNfsFileSystem,
  'csi-powermax.dellemc.com': onNfsFileSystem,
  'csi.huawei.com': onNfsProtocol,
  'driver.longhorn.io': ({ migratable, nfsOptions, fsType }) => {
    if (migratable === 'true') return 'migratable';
    if (nfsOptions) return 'nfs';
    return fsType ? 'fs' : '';
  },
  'ebs.csi.aws.com': oneOf('type', { io1: 'io1', io2: 'io2', gp2: 'gp', gp3: 'gp' }, ''),
  'pd.csi.storage.gke.io': oneOf(
    'type',
    { 'hyperdisk-balanced': 'hyperdisk', 'hyperdisk-balanced-high-availability': 'hyperdisk' },
    '',
  ),
  'csi.san.synology.com': oneOf('protocol', { '': 'iscsi', iscsi: 'iscsi', smb: 'smb', nfs: 'nfs', nfs_treeq: 'nfs' }),
  'vpc.file.csi.ibm.io': ({ profile, vmState }) => {
    if (profile !== 'rfs' && profile !== 'dp2') return '';
    return vmState === 'true' ? `${profile}-rwo` : profile;
  },
};
