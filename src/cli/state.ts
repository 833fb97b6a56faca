import { homedir } from 'node:os';
import { isAbsolute, join } from 'node:path';

/**
 * The directory that holds this host's key: $DISKFERRY_STATE, else $XDG_STATE_HOME/diskferry, else
 * ~/.local/state/diskferry (XDG Base Directory Specification 0.8; relative values of XDG_STATE_HOME are ignored, as it
 * demands).
 */
export function stateDirectory(env: NodeJS.ProcessEnv = process.env): string {
  if (env.DISKFERRY_STATE) return env.DISKFERRY_STATE;
  const xdg = env.XDG_STATE_HOME;
  return join(xdg && isAbsolute(xdg) ? xdg : join(homedir(), '.local', 'state'), 'diskferry');
}
