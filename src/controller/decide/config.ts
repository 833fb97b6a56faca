import type { Cdi, CdiConfig } from '../../api/config.ts';
import { LABEL } from '../../api/label.ts';
import type { Stored } from '../../api/meta.ts';
import { apiVersionOf, CDI_CONFIGS, CDIS } from '../../api/resource.ts';
import { type Configured, configOf } from '../../profile/config.ts';
import { type Decision, mergePatch } from '../decision.ts';

/** Name of the one CDIConfig. */
export const CONFIG = 'config';

export interface ConfigSeen extends Configured {
  readonly cdi?: Stored<Cdi>;
  readonly cdiConfig?: Stored<CdiConfig>;
}

/** The CDIConfig as it is to be; it has no status of its own to the API server. */
export function decideConfig(seen: ConfigSeen): Decision[] {
  const { cdi, cdiConfig } = seen;
  const wanted = configOf(seen);
  if (cdiConfig) {
    const patch = mergePatch({ spec: cdiConfig.spec ?? {}, status: cdiConfig.status ?? {} }, wanted);
    const subject = { resource: CDI_CONFIGS, object: cdiConfig };
    return patch ? [{ act: 'patch', subject, patch: patch as object, exact: true }] : [];
  }
  const owner = cdi && {
    apiVersion: apiVersionOf(CDIS),
    kind: CDIS.kind,
    name: cdi.metadata.name,
    uid: cdi.metadata.uid,
    controller: true,
    blockOwnerDeletion: true,
  };
  const metadata = { name: CONFIG, labels: { [LABEL.component]: '' }, ...(owner ? { ownerReferences: [owner] } : {}) };
  return [{ act: 'create', resource: CDI_CONFIGS, object: { metadata, ...wanted } as never }];
}
