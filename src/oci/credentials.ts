import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { FerryError } from '../dataplane/errors.ts';

export interface Login {
  readonly username: string;
  readonly password: string;
}

/** As the key of docker.io stands in these files. */
const HUB_KEYS = ['https://index.docker.io/v1/', 'docker.io', 'index.docker.io', 'registry-1.docker.io'];
/** Larger than any list of logins. */
const LIMIT = 1024 * 1024;

/**
 * The login that Docker's, Podman's or a pull secret's file has for a registry: the file given, else those that these
 * tools look at, in their order. Throws BAD_SPEC when the file cannot be read, or keeps the login in a helper program,
 * which is not run.
 */
export async function loginOf(
  registry: string,
  file: string | undefined,
  environment: NodeJS.ProcessEnv,
): Promise<Login | undefined> {
  const home = environment.HOME ?? homedir();
  const places = file
    ? [file]
    : [
        environment.REGISTRY_AUTH_FILE,
        environment.XDG_RUNTIME_DIR && join(environment.XDG_RUNTIME_DIR, 'containers/auth.json'),
        join(environment.DOCKER_CONFIG ?? join(home, '.docker'), 'config.json'),
      ].filter((place) => place !== undefined && place !== '');
  for (const place of places as string[]) {
    const text = await readFile(place, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (file === undefined && error.code === 'ENOENT') return undefined;
      throw bad(place, `cannot be read: ${error.message}`, error);
    });
    const found = text === undefined ? undefined : loginIn(text, registry, place);
    if (found) return found;
  }
  return undefined;
}

function bad(place: string, what: string, cause?: unknown): FerryError {
  return new FerryError(`${place} ${what}`, { code: 'BAD_SPEC', stage: 'plan', cause });
}

/** Throws BAD_SPEC, which quotes nothing of the text. */
export function loginIn(text: string, registry: string, place: string): Login | undefined {
  if (text.length > LIMIT) throw bad(place, `is larger than ${LIMIT} bytes`);
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    throw bad(place, 'is not JSON: it should be a config.json as `docker login` writes it');
  }
  const { auths, credHelpers, credsStore } = (parsed ?? {}) as Record<string, unknown>;
  const keys = registry === 'docker.io' ? HUB_KEYS : [registry, `https://${registry}`, `http://${registry}`];
  const entries = Object.entries((auths ?? {}) as Record<string, unknown>);
  const matching = entries.filter(([key]) =>
    keys.some((one) => key === one || key.replace(/\/(v[12]\/?)?$/, '') === one),
  );
  for (const [, entry] of matching) {
    const { auth, username, password } = (entry ?? {}) as Record<string, unknown>;
    if (typeof username === 'string' && typeof password === 'string' && username !== '') return { username, password };
    if (typeof auth === 'string' && auth !== '') {
      const decoded = Buffer.from(auth, 'base64').toString('utf8');
      const colon = decoded.indexOf(':');
      if (colon < 1) throw bad(place, `has an auth for ${registry} that is not the base64 of user:password`);
      return { username: decoded.slice(0, colon), password: decoded.slice(colon + 1).replace(/\0+$/, '') };
    }
  }
  const helper =
    (credHelpers as Record<string, unknown> | undefined)?.[registry] ?? (matching.length > 0 && credsStore);
  if (typeof helper === 'string' && helper !== '') {
    throw bad(
      place,
      `keeps the login for ${registry} in the program docker-credential-${helper}, which is not run: give user:password with --credentials-file`,
    );
  }
  return undefined;
}
