import type { Context } from './context.ts';
import { type HeadSource, head } from './filters/head.ts';
import { parallel } from './filters/parallel.ts';
import { progress } from './filters/progress.ts';
import { rate } from './filters/rate.ts';
import { type RetryOptions, retry, unresumable } from './filters/retry.ts';
import { watchdog } from './filters/watchdog.ts';
import { startYoungCollection } from './memory.ts';
import type { Source } from './source.ts';

/**
 * Every filter over an opened source, in the order in which the bytes flow. Each line's place has a reason:
 *
 * 1. watchdog next to the driver: it must see the source's silence, not the waits that retry and rate make on purpose.
 * 2. progress below retry: what was fetched twice came from the source twice.
 * 3. rate below retry and parallel, and one for all reads: it holds what goes over the network, whoever asked for it.
 * 4. retry below parallel: each window goes on by itself at its own byte.
 * 5. head outermost: what was looked at is kept once, in order, and is not fetched again by anything below.
 *
 * Local sources neither stall nor pass by themselves: standard input may be silent for as long as its writer likes.
 */
export function stackFilters(source: Source, context: Context, options: RetryOptions = {}): HeadSource {
  startYoungCollection();
  const remote = source.facts.remote === true;
  let stacked = remote ? watchdog(source, context) : source;
  stacked = progress(stacked, context);
  stacked = rate(stacked, context);
  if (remote) stacked = retry(stacked, context, options);
  // Windows of two objects must not be put together: without an identity there is one request at a time.
  if (unresumable(source, options) === undefined) stacked = parallel(stacked, context);
  return head(stacked);
}
