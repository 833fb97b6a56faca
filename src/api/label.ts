/** Labels of what CDI makes; others find its pods by them. */
export const LABEL = {
  app: 'app',
  /** A key without a suffix: which part an object belongs to. */
  component: 'cdi.kubevirt.io',
  prometheus: 'prometheus.cdi.kubevirt.io',
  applyStorageProfile: 'cdi.kubevirt.io/applyStorageProfile',
  fillingUpAlert: 'alerts.k8s.io/KubePersistentVolumeFillingUp',
  excludeFromBackup: 'velero.io/exclude-from-backup',
} as const;

/** Value of LABEL.app on everything that is made here. */
export const APP = 'containerized-data-importer';
