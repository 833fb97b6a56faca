import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';

/** Full path of a program. Throws with the Debian package to install: a test never skips for want of a tool. */
export function tool(name: string, debianPackage: string): string {
  for (const directory of [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/sbin']) {
    const path = join(directory, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not here.
    }
  }
  throw new Error(`these tests need ${name}: install the package ${debianPackage} (apt-get install ${debianPackage})`);
}
