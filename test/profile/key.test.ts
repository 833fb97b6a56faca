import { expect, test } from 'vitest';
import { CAPABILITIES } from '../../src/profile/capabilities.ts';
import { capabilityKey } from '../../src/profile/key.ts';
import { storageClass } from './cluster.ts';

const FSTYPE = 'csi.storage.k8s.io/fstype';
const UNKNOWN = undefined;

// Provisioner, parameters, what is behind the slash of the key; empty where there is no slash.
test.each<[string, Record<string, string>, string | undefined]>([
  ['rancher.io/local-path', {}, ''],
  ['kubernetes.io/aws-ebs', { type: 'io1' }, ''],
  ['constructor', {}, ''],

  ['kubevirt.io.hostpath-provisioner', {}, ''],
  ['kubevirt.io.hostpath-provisioner', { overlayCSI: '' }, 'overlay'],
  ['kubevirt.io.hostpath-provisioner', { storagePool: 'a' }, ''],
  ['kubevirt.io/hostpath-provisioner', { overlayCSI: 'true' }, ''],

  ['kubernetes.io/portworx-volume', {}, ''],
  ['kubernetes.io/portworx-volume', { sharedv4_mount_options: 'vers=3.0,nolock' }, 'nfs'],
  ['kubernetes.io/portworx-volume', { sharedv4_mount_options: 'soft,nolock,vers=3.0' }, 'nfs'],
  ['kubernetes.io/portworx-volume', { sharedv4_mount_options: 'vers=3.0' }, ''],
  ['kubernetes.io/portworx-volume', { sharedv4_mount_options: 'nolock' }, ''],
  ['kubernetes.io/portworx-volume', { sharedv4_mount_options: 'vers=3.0,nolocks' }, ''],
  ['kubernetes.io/portworx-volume', { backend: 'pure_block' }, ''],

  ['pxd.portworx.com', {}, ''],
  ['pxd.portworx.com', { backend: 'pure_block' }, 'pure_block'],
  ['pxd.portworx.com', { backend: 'pure_fa_file' }, 'pure_fa_file'],
  ['pxd.portworx.com', { backend: 'pure_file', sharedv4_mount_options: 'vers=3.0,nolock' }, ''],
  ['pxd.portworx.com', { backend: 'pure_block', sharedv4_mount_options: 'vers=3.0,nolock' }, 'pure_block'],
  ['pxd.portworx.com', { sharedv4_mount_options: 'vers=3.0,nolock' }, 'nfs'],
  ['pxd.portworx.com', { sharedv4_mount_options: 'vers=4.0,nolock' }, ''],

  ['csi.trident.netapp.io', {}, UNKNOWN],
  ['csi.trident.netapp.io', { backendType: 'ontap-nas' }, 'ontap-nas'],
  ['csi.trident.netapp.io', { backendType: 'ontap-nas-economy' }, 'ontap-nas'],
  ['csi.trident.netapp.io', { backendType: 'ontap-san' }, 'ontap-san'],
  ['csi.trident.netapp.io', { backendType: 'ontap-san-economy' }, 'ontap-san'],
  ['csi.trident.netapp.io', { backendType: 'ontap' }, UNKNOWN],
  ['csi.trident.netapp.io', { backendType: 'google-cloud-netapp-volumes' }, UNKNOWN],
  ['csi.trident.netapp.io', { backendType: 'google-cloud-netapp-volumes', selector: 'performance=flex' }, 'gcnv-flex'],
  [
    'csi.trident.netapp.io',
    { backendType: 'google-cloud-netapp-volumes', selector: 'a=b; performance=flex' },
    'gcnv-flex',
  ],
  [
    'csi.trident.netapp.io',
    { backendType: 'google-cloud-netapp-volumes', selector: 'a=b,performance=flex' },
    'gcnv-flex',
  ],
  ['csi.trident.netapp.io', { backendType: 'google-cloud-netapp-volumes', selector: 'performance=flexible' }, UNKNOWN],
  ['csi.trident.netapp.io', { selector: 'performance=flex' }, UNKNOWN],

  ['infinibox-csi-driver', {}, UNKNOWN],
  ['infinibox-csi-driver', { storage_protocol: 'iscsi' }, 'iscsiorfibrechannel'],
  ['infinibox-csi-driver', { storage_protocol: 'fc' }, 'iscsiorfibrechannel'],
  ['infinibox-csi-driver', { storage_protocol: 'nvme' }, 'nvme'],
  ['infinibox-csi-driver', { storage_protocol: 'nfs' }, 'nfs'],
  ['infinibox-csi-driver', { storage_protocol: 'nfs_treeq' }, 'nfs'],
  ['infinibox-csi-driver', { storage_protocol: 'constructor' }, UNKNOWN],

  ['csi.vsphere.vmware.com', {}, ''],
  ['csi.vsphere.vmware.com', { [FSTYPE]: 'NFS4' }, 'nfs'],
  ['csi.vsphere.vmware.com', { [FSTYPE]: 'ext4' }, ''],
  ['csi-unity.dellemc.com', { protocol: 'NFS' }, 'nfs'],
  ['csi-unity.dellemc.com', { protocol: 'FC' }, ''],
  ['csi-powerstore.dellemc.com', { [FSTYPE]: 'nfs' }, 'nfs'],
  ['csi-powerstore.dellemc.com', { [FSTYPE]: 'nfs4' }, ''],
  ['csi-powerstore.dellemc.com', { [FSTYPE]: 'xfs' }, ''],
  ['csi-vxflexos.dellemc.com', { [FSTYPE]: 'NFS' }, 'nfs'],
  ['csi-vxflexos.dellemc.com', {}, ''],
  ['csi-powermax.dellemc.com', { [FSTYPE]: 'nfs' }, 'nfs'],
  ['csi-powermax.dellemc.com', {}, ''],
  ['csi-isilon.dellemc.com', { [FSTYPE]: 'nfs' }, ''],
  ['csi.huawei.com', { protocol: 'nfs' }, 'nfs'],
  ['csi.huawei.com', { protocol: 'iscsi' }, ''],

  ['driver.longhorn.io', {}, ''],
  ['driver.longhorn.io', { migratable: 'true', nfsOptions: 'a', fsType: 'ext4' }, 'migratable'],
  ['driver.longhorn.io', { migratable: 'false', nfsOptions: 'a', fsType: 'ext4' }, 'nfs'],
  ['driver.longhorn.io', { nfsOptions: '', fsType: 'ext4' }, 'fs'],
  ['driver.longhorn.io', { fsType: '' }, ''],

  ['ebs.csi.aws.com', {}, ''],
  ['ebs.csi.aws.com', { type: 'io1' }, 'io1'],
  ['ebs.csi.aws.com', { type: 'io2' }, 'io2'],
  ['ebs.csi.aws.com', { type: 'gp2' }, 'gp'],
  ['ebs.csi.aws.com', { type: 'gp3' }, 'gp'],
  ['ebs.csi.aws.com', { type: 'st1' }, ''],

  ['pd.csi.storage.gke.io', { type: 'hyperdisk-balanced' }, 'hyperdisk'],
  ['pd.csi.storage.gke.io', { type: 'hyperdisk-balanced-high-availability' }, 'hyperdisk'],
  ['pd.csi.storage.gke.io', { type: 'hyperdisk-ml' }, ''],
  ['pd.csi.storage.gke.io', { type: 'pd-ssd' }, ''],

  ['csi.san.synology.com', {}, 'iscsi'],
  ['csi.san.synology.com', { protocol: '' }, 'iscsi'],
  ['csi.san.synology.com', { protocol: 'iscsi' }, 'iscsi'],
  ['csi.san.synology.com', { protocol: 'smb' }, 'smb'],
  ['csi.san.synology.com', { protocol: 'nfs' }, 'nfs'],
  ['csi.san.synology.com', { protocol: 'nfs_treeq' }, 'nfs'],
  ['csi.san.synology.com', { protocol: 'afp' }, UNKNOWN],

  ['vpc.file.csi.ibm.io', {}, ''],
  ['vpc.file.csi.ibm.io', { vmState: 'true' }, ''],
  ['vpc.file.csi.ibm.io', { profile: 'rfs' }, 'rfs'],
  ['vpc.file.csi.ibm.io', { profile: 'rfs', vmState: 'true' }, 'rfs-rwo'],
  ['vpc.file.csi.ibm.io', { profile: 'dp2', vmState: 'false' }, 'dp2'],
  ['vpc.file.csi.ibm.io', { profile: 'dp2', vmState: 'true' }, 'dp2-rwo'],
])('%s %j is %s', (provisioner, parameters, kind) => {
  const key = capabilityKey(storageClass('a', { provisioner, parameters }));
  expect(key).toBe(kind === undefined ? undefined : [provisioner, kind].filter(Boolean).join('/'));
  // A rule that leads nowhere would be a slip of one of the two tables.
  if (kind) expect(Object.keys(CAPABILITIES)).toContain(key);
});
