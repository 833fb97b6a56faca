import { accessSync, constants } from 'node:fs';

/** Scratch space of a pod, where it has some: the place of the mount may be there without it, on a root that is read-only. */
export function scratchOf(path: string): string | undefined {
  try {
    accessSync(path, constants.W_OK);
    return path;
  } catch {
    return undefined;
  }
}
