// What the controller asked of the API server, as the API server wrote it down.
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { partsOf } from '../layout.ts';
import { AUDIT_LOG } from '../services.ts';
import type { Cluster } from './cluster.ts';

export interface Asked {
  /** Of Kubernetes: `list`, `watch`, `patch`. */
  readonly verb: string;
  /** `persistentvolumeclaims`, `datavolumes/status`. */
  readonly resource: string;
  readonly namespace: string;
  /** HTTP's. */
  readonly status: number;
}

/** Verbs that change something. */
export const WRITES: readonly string[] = ['create', 'update', 'patch', 'delete', 'deletecollection'];

interface AuditEvent {
  readonly stage: string;
  readonly verb: string;
  readonly objectRef?: {
    readonly resource?: string;
    readonly subresource?: string;
    readonly namespace?: string;
  };
  readonly responseStatus?: { readonly code?: number };
}

/** Whatever the controller asks from now on. */
export async function auditOf(cluster: Cluster): Promise<{ asked(): Promise<Asked[]> }> {
  const [first] = cluster.nodes;
  if (first === undefined) throw new Error('a cluster without nodes');
  const path = join(partsOf(first).log, basename(AUDIT_LOG));
  const { size, ino } = await stat(path);
  return {
    async asked() {
      if ((await stat(path)).ino !== ino) throw new Error(`${path} was begun anew: it does not say everything`);
      const found: Asked[] = [];
      for await (const line of createInterface({ input: createReadStream(path, { start: size }) })) {
        const { stage, verb, objectRef = {}, responseStatus } = JSON.parse(line) as AuditEvent;
        // Of a watch two stages are written, of everything else the last.
        if (verb === 'watch' && stage !== 'ResponseStarted') continue;
        const { resource = '', subresource, namespace = '' } = objectRef;
        const what = subresource === undefined ? resource : `${resource}/${subresource}`;
        found.push({ verb, resource: what, namespace, status: responseStatus?.code ?? 0 });
      }
      return found;
    },
  };
}
