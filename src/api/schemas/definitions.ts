import { DATA_VOLUMES } from '../resource.ts';
import { dataVolume } from './datavolume.ts';
import type { Column, Definition } from './definition.ts';

const AGE: Column = { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' };
const PHASE: Column = { name: 'Phase', type: 'string', jsonPath: '.status.phase' };

const define = <T>(definition: Definition<T>): Definition<unknown> => definition;

/** All kinds that we bring. */
export const DEFINITIONS: readonly Definition<unknown>[] = [
  define({
    resource: DATA_VOLUMES,
    schema: dataVolume,
    shortNames: ['dv', 'dvs'],
    categories: ['all'],
    statusApart: true,
    columns: [
      { ...PHASE, description: 'What is going on' },
      {
        name: 'Progress',
        type: 'string',
        jsonPath: '.status.progress',
        description: 'How much is done, N/A if unknown',
      },
      {
        name: 'Restarts',
        type: 'integer',
        jsonPath: '.status.restartCount',
        description: 'How often the pod was restarted',
      },
      AGE,
    ],
  }),
];
