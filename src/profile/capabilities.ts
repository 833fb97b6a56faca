import type { ClaimPropertySet } from '../api/storage-profile.ts';

/** What is known of the volumes that a provisioner makes. */
export interface Capabilities {
  /** In the order of preference; of each, one access mode. */
  readonly sets: readonly ClaimPropertySet[];
  /** How its volumes are best cloned. */
  readonly clone?: 'csi-clone' | 'snapshot' | 'copy';
  /** What a DataImportCron keeps. */
  readonly format?: 'snapshot';
  /** A quantity; smaller volumes are not made. */
  readonly minimum?: string;
  /** What a DataImportCron imports is claimed ReadWriteOnce. */
  readonly cronClaimsOnce?: true;
}

const ACCESS: Readonly<Record<string, string>> = {
  RWX: 'ReadWriteMany',
  RWO: 'ReadWriteOnce',
  ROX: 'ReadOnlyMany',
};

/** `RWX-B RWO-F`: access modes, each with B for Block or F for Filesystem. */
function of(sets: string, more: Omit<Capabilities, 'sets'> = {}): Capabilities {
  const parsed = sets.split(' ').filter(Boolean);
  return {
    sets: parsed.map((set) => ({
      accessModes: [ACCESS[set.slice(0, 3)] ?? ''],
      volumeMode: set.endsWith('B') ? 'Block' : 'Filesystem',
    })),
    ...more,
  };
}

/** By the keys of key.ts (facts of CDI, pkg/storagecapabilities/storagecapabilities.go). */
export const CAPABILITIES: Readonly<Record<string, Capabilities>> = {
  'kubevirt.io.hostpath-provisioner': of('RWO-F'),
  'kubevirt.io.hostpath-provisioner/overlay': of('RWX-F'),
  'kubevirt.io/hostpath-provisioner': of('RWO-F'),
  'k8s.io/minikube-hostpath': of('RWO-F'),
  'nfs.csi.k8s.io': of('RWX-F'),
  'k8s-sigs.io/nfs-subdir-external-provisioner': of('RWX-F'),
  'kubernetes.io/rbd': of('RWX-B RWO-B RWO-F'),
  'rbd.csi.ceph.com': of('RWX-B RWO-B RWO-F', { clone: 'csi-clone' }),
  'rook-ceph.rbd.csi.ceph.com': of('RWX-B RWO-B RWO-F', { clone: 'csi-clone', format: 'snapshot' }),
  'openshift-storage.rbd.csi.ceph.com': of('RWX-B RWO-B RWO-F', { clone: 'csi-clone', format: 'snapshot' }),
  'cephfs.csi.ceph.com': of('RWX-F RWO-F', { clone: 'csi-clone' }),
  'rook-ceph.cephfs.csi.ceph.com': of('RWX-F RWO-F', { clone: 'csi-clone' }),
  'openshift-storage.cephfs.csi.ceph.com': of('RWX-F RWO-F', { clone: 'csi-clone' }),
  'linstor.csi.linbit.com': of('RWX-B RWO-B RWO-F ROX-B ROX-F'),
  'csi-unity.dellemc.com': of('RWX-B RWO-B RWO-F ROX-B ROX-F'),
  'csi-unity.dellemc.com/nfs': of('RWX-F RWO-F ROX-F'),
  'csi-vxflexos.dellemc.com': of('RWX-B RWO-B RWO-F ROX-B ROX-F', { clone: 'csi-clone' }),
  'csi-vxflexos.dellemc.com/nfs': of('RWX-F RWO-F ROX-F'),
  'csi-isilon.dellemc.com': of('RWX-F RWO-F ROX-F', { clone: 'csi-clone' }),
  'csi-powermax.dellemc.com': of('RWX-B RWO-B RWO-F ROX-B', { clone: 'csi-clone' }),
  'csi-powermax.dellemc.com/nfs': of('RWX-F RWO-F ROX-F'),
  'csi-powerstore.dellemc.com': of('RWX-B RWO-B RWO-F ROX-B', { clone: 'copy' }),
  'csi-powerstore.dellemc.com/nfs': of('RWX-F RWO-F ROX-F'),
  'kubernetes.io/storageos': of('RWO-F'),
  storageos: of('RWO-F'),
  'kubernetes.io/aws-ebs': of('RWO-B'),
  'ebs.csi.aws.com': of('RWO-B'),
  'ebs.csi.aws.com/io1': of('RWO-B', { minimum: '4Gi' }),
  'ebs.csi.aws.com/io2': of('RWX-B RWO-B RWO-F', { minimum: '4Gi' }),
  'ebs.csi.aws.com/gp': of('RWO-B', { minimum: '1Gi' }),
  'efs.csi.aws.com': of('RWX-F RWO-F'),
  'kubernetes.io/azure-disk': of('RWO-B'),
  'disk.csi.azure.com': of('RWO-B'),
  'kubernetes.io/azure-file': of('RWX-F'),
  'file.csi.azure.com': of('RWX-F'),
  'kubernetes.io/gce-pd': of('RWO-B RWO-F'),
  'pd.csi.storage.gke.io': of('RWO-B RWO-F', { clone: 'snapshot', format: 'snapshot', cronClaimsOnce: true }),
  'pd.csi.storage.gke.io/hyperdisk': of('RWX-B RWO-B RWO-F', {
    clone: 'snapshot',
    format: 'snapshot',
    minimum: '4Gi',
    cronClaimsOnce: true,
  }),
  'hspc.csi.hitachi.com': of('RWX-B RWO-B RWO-F', { clone: 'csi-clone', minimum: '1Gi' }),
  'xspc.csi.hpe.com': of('', { minimum: '1Gi' }),
  'csi.hpe.com': of('RWX-B RWO-B RWO-F', { clone: 'csi-clone' }),
  'spectrumscale.csi.ibm.com': of('RWX-F RWO-F', { clone: 'csi-clone' }),
  'block.csi.ibm.com': of('RWX-B RWO-B RWO-F', { clone: 'csi-clone' }),
  'vpc.block.csi.ibm.io': of('RWO-B RWO-F', { clone: 'copy' }),
  'vpc.file.csi.ibm.io': of('RWX-F RWO-F', { clone: 'snapshot', format: 'snapshot' }),
  'vpc.file.csi.ibm.io/dp2': of('RWX-F RWO-F', { clone: 'snapshot', format: 'snapshot', minimum: '10Gi' }),
  'vpc.file.csi.ibm.io/dp2-rwo': of('RWO-F', { clone: 'snapshot', format: 'snapshot', minimum: '10Gi' }),
  'vpc.file.csi.ibm.io/rfs': of('RWX-F RWO-F', { clone: 'snapshot', format: 'snapshot', minimum: '1Gi' }),
  'vpc.file.csi.ibm.io/rfs-rwo': of('RWO-F', { clone: 'snapshot', format: 'snapshot', minimum: '1Gi' }),
  'kubernetes.io/portworx-volume': of('RWX-B RWX-F RWO-B RWO-F'),
  'kubernetes.io/portworx-volume/nfs': of('RWX-F RWO-F'),
  'pxd.portworx.com': of('RWX-B RWX-F RWO-B RWO-F', { clone: 'csi-clone' }),
  'pxd.portworx.com/nfs': of('RWX-F RWO-F', { clone: 'csi-clone' }),
  'pxd.portworx.com/pure_block': of('RWX-B RWO-B RWO-F', { clone: 'csi-clone' }),
  'pxd.portworx.com/pure_fa_file': of('RWX-F RWO-F', { clone: 'csi-clone' }),
  'csi.trident.netapp.io/ontap-nas': of('RWX-F RWO-F', { clone: 'snapshot', format: 'snapshot' }),
  'csi.trident.netapp.io/ontap-san': of('RWX-B', { clone: 'snapshot', format: 'snapshot' }),
  'csi.trident.netapp.io/gcnv-flex': of('RWX-F RWO-F', { clone: 'snapshot', format: 'snapshot', minimum: '1Gi' }),
  'topolvm.cybozu.com': of('RWO-B RWO-F', { clone: 'copy' }),
  'topolvm.io': of('RWO-B RWO-F', { clone: 'copy' }),
  'cinder.csi.openstack.org': of('RWO-B RWO-F'),
  'manila.csi.openstack.org': of('RWX-F'),
  'csi.ovirt.org': of('RWO-B RWO-F'),
  'infinibox-csi-driver/iscsiorfibrechannel': of('RWX-B RWO-B RWO-F', { clone: 'csi-clone' }),
  'infinibox-csi-driver/nvme': of('RWX-B RWO-B RWO-F', { clone: 'csi-clone' }),
  'infinibox-csi-driver/nfs': of('RWX-F RWO-F', { clone: 'csi-clone' }),
  'csi.vsphere.vmware.com': of('RWO-B RWO-F'),
  'csi.vsphere.vmware.com/nfs': of('RWX-F RWO-B RWO-F'),
  'csi.huawei.com': of('RWX-B RWO-B RWO-F ROX-B ROX-F'),
  'csi.huawei.com/nfs': of('RWX-F RWO-F ROX-F'),
  'kubesan.gitlab.io': of('RWX-B ROX-B RWO-B RWO-F', { clone: 'csi-clone' }),
  'driver.longhorn.io': of('RWO-B'),
  'driver.longhorn.io/migratable': of('RWX-B RWO-B'),
  'driver.longhorn.io/nfs': of('RWX-F RWO-F'),
  'driver.longhorn.io/fs': of('RWO-F'),
  'blockvolume.csi.oraclecloud.com': of('RWX-B RWO-B RWO-F', { clone: 'csi-clone' }),
  'csi.san.synology.com/iscsi': of('RWX-B RWO-B RWO-F', { clone: 'csi-clone', minimum: '1Gi' }),
  'csi.san.synology.com/nfs': of('RWX-F RWO-F', { clone: 'csi-clone', minimum: '1Gi' }),
  'csi.san.synology.com/smb': of('RWX-F RWO-F', { clone: 'csi-clone', minimum: '1Gi' }),
  'directpv-min-io': of('RWO-F'),
};

/** Its volumes are made by hand: what they are like is seen of them. */
export const NO_PROVISIONER = 'kubernetes.io/no-provisioner';

/** Of what they provision, no disk can be made: nothing is missing where nothing is known of them. */
export const WITHOUT_DISKS: readonly string[] = [
  'openshift-storage.ceph.rook.io/bucket',
  'rook-ceph.ceph.rook.io/bucket',
  'openshift-storage.noobaa.io/obc',
  'stork-snapshot',
  NO_PROVISIONER,
];
