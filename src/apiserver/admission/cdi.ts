import type { Cdi } from '../../api/config.ts';
import { type Cause, invalid } from './cause.ts';

/** DataVolumes with it are remade by the DataImportCron that it names, and keep nobody from uninstalling. */
export const CRON_LABEL = 'cdi.kubevirt.io/dataImportCron';
/** So many DataVolumes are looked for: whether there is none, one, or more. */
export const LOOKED_FOR = 2;

/** Whether what is there is asked for before the installation goes, and leaves DataVolumes on which nobody acts. */
export function isGuarded({ spec, status }: Cdi): boolean {
  // One that never was installed has nothing.
  if (!status?.phase || status.phase === 'Error') return false;
  return spec?.uninstallStrategy === 'BlockUninstallIfWorkloadsExist';
}

/** `volumes`: the first DataVolumes that no DataImportCron makes, as `namespace/name`, at most LOOKED_FOR. */
export function checkUninstall(cdi: Cdi, volumes: readonly string[]): Cause[] {
  if (!isGuarded(cdi) || volumes.length === 0) return [];
  const more = volumes.length < LOOKED_FOR ? '' : ' (or more)';
  const message = `rejecting the uninstall request, since there are still ${volumes.length} DataVolumes present${more}: ${volumes.join(', ')}. Delete them, or set spec.uninstallStrategy to RemoveWorkloads: then they and their disks stay as they are, as long as the CustomResourceDefinitions do, and nobody acts on them`;
  return [invalid('spec.uninstallStrategy', message)];
}
