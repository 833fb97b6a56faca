// Images that nodes have without a registry: files in one layer, read into their containerd.
import { createHash } from 'node:crypto';
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../support/images.ts';
import { tempdir } from '../../support/tempdir.ts';
import { tool } from '../../support/tools.ts';
import { command } from '../command.ts';
import { inside } from '../processes.ts';
import type { Cluster } from './cluster.ts';
import { USER } from './namespace.ts';

export interface LocalImage {
  /** Path in the image → where it lies here; moved away from there. */
  readonly files: Readonly<Record<string, string>>;
  /** `NAME=value` */
  readonly environment?: readonly string[];
}

/** Of Docker's archives ("Docker Image Specification v1.2"); all nodes forget it when it is disposed. */
export async function localImage(
  cluster: Cluster,
  name: string,
  { files, environment = [] }: LocalImage,
): Promise<AsyncDisposable> {
  await using home = await tempdir();
  const at = (path: string): string => join(home.path, path);
  for (const [path, from] of Object.entries(files)) {
    const to = at(join('root', path));
    await mkdir(join(to, '..'), { recursive: true });
    await rename(from, to);
  }
  const owner = [`--owner=${USER}`, `--group=${USER}`, '--mode=u=rX,g=rX,o='];
  await mkdir(at('root'), { recursive: true });
  await run('tar', 'tar', ['-C', at('root'), ...owner, '-cf', at('layer.tar'), '.']);
  const diffs = [`sha256:${(await run('sha256sum', 'coreutils', [at('layer.tar')])).slice(0, 64)}`];
  const config = JSON.stringify({
    architecture: process.arch === 'x64' ? 'amd64' : process.arch,
    os: 'linux',
    config: { Env: environment },
    rootfs: { type: 'layers', diff_ids: diffs },
  });
  const configName = `${createHash('sha256').update(config).digest('hex')}.json`;
  await writeFile(at(configName), config);
  const manifest = [{ Config: configName, RepoTags: [name], Layers: ['layer.tar'] }];
  await writeFile(at('manifest.json'), JSON.stringify(manifest));
  await run('tar', 'tar', ['-C', home.path, '-cf', at('image.tar'), 'manifest.json', configName, 'layer.tar']);
  await images(cluster, 'import', at('image.tar'));
  return { [Symbol.asyncDispose]: () => images(cluster, 'rm', '--sync', name) };
}

async function images(cluster: Cluster, ...args: readonly string[]): Promise<void> {
  const [nsenter, ctr] = [tool('nsenter', 'util-linux'), tool('ctr', 'containerd')];
  for (const node of cluster.nodes) {
    const enter = await inside(node);
    await command(nsenter, [...enter, ctr, '--namespace', 'k8s.io', 'images', ...args], { seconds: 300 });
  }
}
