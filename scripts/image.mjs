// Builds the container image without Docker: a Debian by debootstrap as the base (kept in the cache), this checkout's own
// build in it, by buildah. As root. Plain JavaScript for Node 20.
//
//   npm run image [-- DIRECTORY]      also as an OCI layout in DIRECTORY
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { environment, has } from './toolchain.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const SUITE = 'bookworm';
/** As the Dockerfile installs them where the base lacks them. */
const INCLUDED = ['ca-certificates', 'qemu-utils'];
export const IMAGE = 'localhost/diskferry:latest';
const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'diskferry', 'image');

function run(program, args, options = {}) {
  const { status, error, stdout } = spawnSync(program, args, {
    cwd: root,
    env: environment(),
    stdio: ['ignore', options.quiet ? 'ignore' : options.answers ? 'pipe' : 2, 2],
    encoding: 'utf8',
  });
  if (error) throw new Error(`${program} cannot be run: ${error.message}`);
  if (status !== 0) throw new Error(`${program} ${args[0]} failed: its messages above say why`);
  return stdout ?? '';
}

/** buildah without a daemon, a driver of the kernel, or namespaces: works in a container too. */
export function buildah(args, options) {
  const places = ['--storage-driver', 'vfs', '--root', join(cache, 'storage'), '--runroot', join(cache, 'run')];
  return run('buildah', [...places, ...args], options);
}

/** Debian as debootstrap makes it, made once. */
function base() {
  const name = `localhost/diskferry-base:${SUITE}`;
  const there = buildah(['images', '--format', '{{.Name}}:{{.Tag}}'], { answers: true });
  if (there.split('\n').includes(name)) return name;
  const directory = join(cache, `base-${SUITE}`);
  if (!existsSync(directory)) {
    process.stderr.write('making a Debian by debootstrap, which takes a minute the first time\n');
    rmSync(`${directory}.part`, { recursive: true, force: true });
    run('debootstrap', ['--variant=minbase', `--include=${INCLUDED}`, SUITE, `${directory}.part`]);
    for (const rest of [
      'var/cache/apt/archives',
      'var/lib/apt/lists',
      'usr/share/doc',
      'usr/share/man',
      'usr/share/locale',
    ])
      rmSync(join(`${directory}.part`, rest), { recursive: true, force: true });
    renameSync(`${directory}.part`, directory);
  }
  const container = buildah(['from', 'scratch'], { answers: true }).trim();
  buildah(['add', '-q', container, directory, '/'], { quiet: true });
  buildah(['commit', '-q', '--rm', container, name], { quiet: true });
  rmSync(directory, { recursive: true, force: true });
  return name;
}

/** Builds the image and leaves it in buildah's storage. Throws a sentence. */
export function buildImage() {
  if (process.getuid?.() !== 0) throw new Error('the image is built as root: debootstrap makes devices');
  const missing = ['buildah', 'debootstrap'].filter((program) => !has(program));
  if (missing.length > 0) throw new Error(`${missing.join(', ')} missing: apt-get install ${missing.join(' ')}`);
  mkdirSync(cache, { recursive: true });
  run('sh', ['scripts/stage.sh', 'out/image']);
  const args = ['--build-arg', `BASE=${base()}`, '--build-arg', 'PROGRAM=prebuilt'];
  buildah(['bud', '-q', '--isolation', 'chroot', '--pull-never', '--layers=false', ...args, '-t', IMAGE, '.'], {
    quiet: true,
  });
  // Stages and earlier images that have no name any more.
  buildah(['rmi', '--prune', '--force'], { quiet: true });
}

if (process.argv[1]?.endsWith('image.mjs')) {
  try {
    buildImage();
    const [directory] = process.argv.slice(2);
    if (directory !== undefined) buildah(['push', '-q', IMAGE, `oci:${directory}:latest`]);
    const size = buildah(['inspect', '--type', 'image', '--format', '{{.FromImageID}}', IMAGE], {
      answers: true,
    }).trim();
    process.stderr.write(
      `built ${IMAGE} (${size.slice(0, 12)})${directory === undefined ? '' : `, in ${directory}`}\n`,
    );
  } catch (error) {
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  }
}
