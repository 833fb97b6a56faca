// The upload pod: takes one upload into its volume, and says so in the termination message.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { scratchOf } from '../../dataplane/scratch.ts';
import { logOf } from '../log.ts';
import { servePod } from './server.ts';
import { settingsOf } from './settings.ts';

/** Where everything is in a pod; tests put another directory in front. */
const ROOT = process.env.DISKFERRY_ROOT ?? '';
const TERMINATION = join(ROOT, '/dev/termination-log');
const SCRATCH = join(ROOT, '/scratch');

const log = logOf(true);

try {
  const settings = settingsOf(process.env, ROOT);
  await using server = await servePod(settings, scratchOf(SCRATCH), log);
  log.info(`waiting for an upload into ${settings.destination} at port ${server.port}`);
  const stopped = new Promise<'stopped'>((resolve) => {
    for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => resolve('stopped'));
  });
  const outcome = await Promise.race([server.outcome, stopped]);
  if (outcome === 'stopped') process.exitCode = 1;
  else {
    const message = outcome === 'cloned' ? 'Clone Complete' : 'Upload Complete';
    const done = { preallocationApplied: settings.preallocate, message };
    const late = { deadlinePassed: true, message: 'Deadline Passed' };
    await writeFile(TERMINATION, JSON.stringify(outcome === 'deadline' ? late : done), { mode: 0o600 });
  }
} catch (error) {
  const message = error instanceof Error ? error.message : String(error);
  log.warn(message);
  await writeFile(TERMINATION, message.slice(0, 4096), { mode: 0o600 }).catch(() => undefined);
  process.exitCode = 1;
}
process.exit();
