// Images without a registry: built by buildah, kept as archives, and read into the containerd of each node.
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, cp, mkdir, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { buildah, buildImage, IMAGE } from '../../scripts/image.mjs';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { serverPath } from '../../scripts/toolchain.mjs';
import { run } from '../support/images.ts';
import { tempdir } from '../support/tempdir.ts';
import { tool } from '../support/tools.ts';
import { command } from './command.ts';
import { type Layout, type Node, partsOf, places } from './layout.ts';
import { inside } from './processes.ts';
import { PAUSE_IMAGE } from './services.ts';

/** The image of this checkout. */
export const PROGRAM_IMAGE = 'registry.test/diskferry:dev';
/** busybox, all applets: what tests look at volumes with. */
export const BOX_IMAGE = 'registry.test/box:1';
const root = fileURLToPath(new URL('../..', import.meta.url));

export interface Archive {
  readonly image: string;
  /** Of what it was made of: another digest, another image. */
  readonly digest: string;
  readonly path: string;
}

/** Makes the archives that are missing or of something older. `tell` hears what takes time. */
export async function makeArchives(layout: Layout, tell: (what: string) => void): Promise<Archive[]> {
  await mkdir(places(layout).images, { recursive: true });
  const [pause, busybox] = [serverPath('pause'), tool('busybox', 'busybox-static')];
  // How they are made is written here.
  const recipe = fileURLToPath(import.meta.url);
  return [
    await archive(layout, PAUSE_IMAGE, [pause, recipe], (to) =>
      buildSmall(to, PAUSE_IMAGE, { '/pause': pause }, ['/pause']),
    ),
    await archive(layout, BOX_IMAGE, [busybox, recipe], (to) => buildBox(to, busybox)),
    await archive(layout, PROGRAM_IMAGE, await programFiles(), async (to) => {
      tell(`building ${PROGRAM_IMAGE}`);
      buildImage();
      push(IMAGE, to, PROGRAM_IMAGE);
    }),
  ];
}

/** What the image is made of beside its base: scripts/stage.sh and the Dockerfile say so. */
async function programFiles(): Promise<string[]> {
  const dist = (await readdir(join(root, 'dist'), { recursive: true, withFileTypes: true })).filter((entry) =>
    entry.isFile(),
  );
  const built = /\.node$|^imageserver-/;
  const addons = (await readdir(join(root, 'native'))).filter((name) => built.test(name));
  const single = ['package.json', 'LICENSE', 'Dockerfile', 'bin/diskferry.js', 'node_modules/node/bin/node'];
  const scripts = ['scripts/stage.sh', 'scripts/entrypoint.sh', 'scripts/image.mjs'];
  const paths = [...single, ...scripts, ...addons.map((name) => join('native', name))].map((path) => join(root, path));
  return [
    ...dist.map((entry) => join(entry.parentPath, entry.name)).filter((path) => !path.endsWith('.map')),
    ...paths,
  ];
}

async function archive(
  layout: Layout,
  image: string,
  files: readonly string[],
  build: (to: string) => Promise<void> | void,
): Promise<Archive> {
  const hash = createHash('sha256');
  for (const file of [...files].sort()) hash.update(file.replace(root, '')).update(await readFile(file));
  const digest = hash.digest('hex').slice(0, 16);
  const { images } = places(layout);
  const name = image.replace(/^.*\//, '').replace(':', '_');
  const path = join(images, `${name}-${digest}.tar`);
  if (!existsSync(path)) {
    const draft = `${path}.part`;
    await rm(draft, { force: true });
    await build(draft);
    for (const other of await readdir(images))
      if (other.startsWith(`${name}-`) && other !== `${name}-${digest}.tar.part`) await rm(join(images, other));
    await rename(draft, path);
  }
  return { image, digest, path };
}

const push = (image: string, to: string, as: string): void =>
  buildah(['push', '-q', image, `docker-archive:${to}:${as}`], { quiet: true });

/** An image of nothing but these files: path in it → path here. */
function buildSmall(
  to: string,
  image: string,
  files: Readonly<Record<string, string>>,
  command: readonly string[],
): void {
  const container = buildah(['from', 'scratch'], { answers: true }).trim();
  for (const [path, from] of Object.entries(files)) buildah(['add', '-q', container, from, path], { quiet: true });
  buildah(['config', '--entrypoint', '[]', '--cmd', JSON.stringify(command), '--env', 'PATH=/bin', container]);
  buildah(['commit', '-q', '--rm', container, image], { quiet: true });
  push(image, to, image);
}

async function buildBox(to: string, busybox: string): Promise<void> {
  await using directory = await tempdir();
  const at = (name: string): string => join(directory.path, name);
  for (const name of ['bin', 'etc', 'tmp', 'data']) await mkdir(at(name));
  await chmod(at('tmp'), 0o1777);
  await cp(busybox, at('bin/busybox'), { dereference: true });
  const applets = (await run('busybox', 'busybox-static', ['--list'])).trim().split('\n');
  for (const name of applets) if (name !== 'busybox') await symlink('busybox', at(`bin/${name}`));
  await writeFile(at('etc/passwd'), 'root:x:0:0:root:/:/bin/sh\n');
  await writeFile(at('etc/group'), 'root:x:0:\n');
  buildSmall(to, BOX_IMAGE, { '/': directory.path }, ['sh']);
}

const ctr = (...args: string[]): string[] => [tool('ctr', 'containerd'), '--namespace', 'k8s.io', 'images', ...args];

/** Reads into a node what it does not have yet; what it has is kept with its state. */
export async function readImages(node: Node, archives: readonly Archive[]): Promise<string[]> {
  const record = partsOf(node).images;
  const there: Record<string, string> = JSON.parse(await readFile(record, 'utf8').catch(() => '{}'));
  const [nsenter, enter] = [tool('nsenter', 'util-linux'), await inside(node)];
  const taken: string[] = [];
  for (const { image, digest, path } of archives) {
    if (there[image] === digest) continue;
    await command(nsenter, [...enter, ...ctr('import', path)], { seconds: 300 });
    there[image] = digest;
    await writeFile(record, JSON.stringify(there));
    taken.push(image);
  }
  return taken;
}

/** Gives the image of this checkout other names, too. */
export async function alsoNamed(node: Node, names: readonly string[]): Promise<void> {
  const [nsenter, enter] = [tool('nsenter', 'util-linux'), await inside(node)];
  for (const name of names) await command(nsenter, [...enter, ...ctr('tag', '--force', PROGRAM_IMAGE, name)]);
}
