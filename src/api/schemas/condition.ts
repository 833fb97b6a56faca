import type { Condition } from '../meta.ts';
import { list, object, required, type Schema, text, time } from './schema.ts';

/** `types` are the conditions that the kind has, for people. */
export const conditions = (types: string): Schema<Condition[]> =>
  list(
    `What is known to hold: ${types}.`,
    object<Condition>('One thing that holds, does not hold, or is not known to.', {
      lastHeartbeatTime: time('When anything of this condition changed last.'),
      lastTransitionTime: time('When its status changed last.'),
      message: text('Why, in words.'),
      reason: text('Why, in one word.'),
      status: required(text('True, False or Unknown.')),
      type: required(text('What is told of.')),
    }),
  );
