import type { Cdi } from '../../api/config.ts';
import type { Stored } from '../../api/meta.ts';
import { CDIS } from '../../api/resource.ts';
import { CONFIG_AUTHORITY } from '../../profile/config.ts';
import { type Decision, mergePatch } from '../decision.ts';
import { conditionsOf, type Said } from './conditions.ts';

export interface InstallationSeen {
  readonly cdi?: Stored<Cdi>;
  /** The first that was made: it is the one that counts. */
  readonly first?: Stored<Cdi>;
  readonly version: string;
  /** RFC 3339. */
  readonly now: string;
}

/**
 * The CDI says that it is there, as tools wait for it: this controller runs. Its spec is the configuration from now on. It has
 * no status of its own to the API server.
 */
export function decideInstallation({ cdi, first, version, now }: InstallationSeen): Decision[] {
  if (!cdi || cdi.metadata.deletionTimestamp) return [];
  const other = first && first.metadata.uid !== cdi.metadata.uid ? first.metadata.name : undefined;
  const said: Record<string, Said> =
    other === undefined
      ? {
          Available: { status: 'True', reason: 'DeployCompleted', message: 'Deployment Completed' },
          Progressing: { status: 'False' },
          Degraded: { status: 'False' },
        }
      : {
          Available: { status: 'False' },
          Progressing: { status: 'False' },
          Degraded: { status: 'True', reason: 'Error', message: `the CDI ${other} was here first: delete one of them` },
        };
  const status = {
    ...cdi.status,
    phase: other === undefined ? 'Deployed' : 'Error',
    conditions: conditionsOf(cdi.status?.conditions, said, now),
    ...(other === undefined ? { operatorVersion: version, targetVersion: version, observedVersion: version } : {}),
  };
  const patch = mergePatch(cdi.status ?? {}, status);
  const handedOver = cdi.metadata.annotations?.[CONFIG_AUTHORITY] !== undefined || other !== undefined;
  if (!patch && handedOver) return [];
  const annotations = handedOver ? {} : { metadata: { annotations: { [CONFIG_AUTHORITY]: '' } } };
  const subject = { resource: CDIS, object: cdi };
  return [{ act: 'patch', subject, patch: { ...annotations, ...(patch ? { status: patch } : {}) }, exact: true }];
}
