// One disk, behind every kind of server that pods import from.
import { copyFile, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImportSource } from '../../../src/api/datavolume.ts';
import type { FaultProxy } from '../../faults/proxy.ts';
import { FakeEngine } from '../../support/engine.ts';
import { imageService } from '../../support/imageio.ts';
import { bootableDisk, MiB, qcow2, sha256 } from '../../support/images.ts';
import { nginx } from '../../support/nginx.ts';
import { LOGIN, startRegistry } from '../../support/registry.ts';
import { gcsStore, KEY, s3Store } from '../../support/stores.ts';
import { tempdir } from '../../support/tempdir.ts';
import { authority } from '../../support/tls.ts';
import type { Cluster } from './cluster.ts';
import { localImage } from './local-image.ts';

/** What an import from a server is asked for with. */
export interface Asked {
  readonly source: ImportSource;
  /** The same, as annotations of a claim say it (CDI's names). */
  readonly annotations: Readonly<Record<string, string>>;
  /** Secrets and ConfigMaps that it names. */
  readonly objects: readonly Named[];
}

export interface Named {
  readonly apiVersion: 'v1';
  readonly kind: 'Secret' | 'ConfigMap';
  readonly metadata: { readonly name: string };
}

export const KINDS = ['http', 'https', 's3', 'gcs', 'registry', 'node', 'imageio', 'blank'] as const;
export type Kind = (typeof KINDS)[number];
/** Those that may be over before anybody has seen that they run. */
export const SHORT: readonly Kind[] = ['node', 'blank'];
/** Those of container images, with what they say of the machine. */
export const LABELLED: readonly Kind[] = ['registry', 'node'];

export interface Servers extends AsyncDisposable {
  /** Bytes of the disk, and its SHA-256 as hex digits. */
  readonly size: number;
  readonly digest: string;
  readonly asked: Readonly<Record<Kind, Asked>>;
  /** `host:port` of the registry, which speaks http: pods are to be told. */
  readonly insecureRegistry: string;
  /** Cuts every connection of a pod that is open. */
  cutAll(): void;
}

export interface ServersOptions {
  /** Bytes of the disk; 24 MiB. */
  readonly size?: number;
  /** Bytes a second of a connection: an import takes a few seconds, and can be watched. 1 MiB. */
  readonly rate?: number;
}

/** Where an annotation has another word. */
const SOURCE: Partial<Record<Kind, string>> = { https: 'http', node: 'registry' };
const PROJECT = 'X-Project: images';
const TOKEN = 'X-Token: a-token-of-the-header';
const IMPORT = 'cdi.kubevirt.io/storage.import';
const ENVIRONMENT = ['PATH=/bin', 'INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE=fedora'];
/** What nodes have of it: no registry is asked. */
const ON_NODES = 'registry.test/vm/disk:1';

export async function servers(
  cluster: Cluster,
  { size = 24 * MiB, rate = MiB }: ServersOptions = {},
): Promise<Servers> {
  await using stack = new AsyncDisposableStack();
  const home = stack.use(await tempdir());
  const at = (name: string): string => join(home.path, name);
  const lines: FaultProxy[] = [];
  const reachable = async (port: number): Promise<string> => {
    const line = stack.use(await cluster.reachable(port, { rate }));
    lines.push(line);
    return `${cluster.host}:${line.port}`;
  };
  await bootableDisk(at('disk.raw'), size);
  await qcow2(at('disk.raw'), at('disk.qcow2'));
  const image = await readFile(at('disk.qcow2'));
  await writeFile(at('passwords'), `${LOGIN.username}:{PLAIN}${LOGIN.password}\n`);
  const trusted = await authority(home.path);
  const plain = stack.use(await nginx({ root: home.path }));
  const secure = stack.use(
    await nginx({
      root: home.path,
      tls: await trusted.issue('server', [cluster.host]),
      server: `auth_basic "x"; auth_basic_user_file ${at('passwords')};
        if ($http_x_project != "images") { return 403; }
        if ($http_x_token != "a-token-of-the-header") { return 403; }`,
    }),
  );
  const [s3, gcs] = [stack.use(await s3Store()), stack.use(await gcsStore())];
  for (const store of [s3, gcs]) await store.put('disk.qcow2', image);
  const registry = stack.use(await startRegistry({ access: 'anyone' }));
  await registry.push('vm/disk', 'latest', [{ content: image, mediaType: 'application/x-qcow2' }], {
    config: { Env: ENVIRONMENT },
  });
  await copyFile(at('disk.qcow2'), at('of-image.qcow2'));
  const files = { 'disk/disk.qcow2': at('of-image.qcow2') };
  stack.use(await localImage(cluster, ON_NODES, { files, environment: ENVIRONMENT }));
  const images = stack.use(await imageService());
  const imagesAt = await reachable(images.port);
  const engine = stack.use(
    await FakeEngine.start({
      user: LOGIN.username,
      password: LOGIN.password,
      show: () => images.show(at('disk.raw'), size),
      images: () => imagesAt,
    }),
  );
  const insecureRegistry = await reachable(registry.port);
  const login = secret('login', { accessKeyId: LOGIN.username, secretKey: LOGIN.password });
  const url = {
    http: `http://${await reachable(plain.port)}/disk.qcow2`,
    https: `https://${await reachable(secure.port)}/disk.qcow2`,
    s3: `http://${await reachable(s3.port)}/images/disk.qcow2`,
    gcs: `http://${await reachable(gcs.port)}/images/disk.qcow2`,
    registry: `docker://${insecureRegistry}/vm/disk:latest`,
    node: `docker://${ON_NODES}`,
    imageio: `http://${await reachable(Number(new URL(engine.api).port))}/ovirt-engine/api`,
  };
  const diskId = (): string => crypto.randomUUID();
  const asked = (kind: Exclude<Kind, 'blank' | 'imageio'>, annotated: object, objects: readonly Named[]) => ({
    annotations: {
      [`${IMPORT}.source`]: SOURCE[kind] ?? kind,
      [`${IMPORT}.endpoint`]: url[kind],
      ...annotated,
    },
    objects,
  });
  const bySecret = { [`${IMPORT}.secretName`]: 'login' };
  const kept = stack.move();
  return {
    size,
    digest: (await sha256(at('disk.raw'))).slice('sha256:'.length),
    insecureRegistry,
    cutAll: () => {
      for (const line of lines) line.cutAll();
    },
    asked: {
      http: { source: { http: { url: url.http } }, ...asked('http', {}, []) },
      https: {
        source: {
          http: {
            url: url.https,
            secretRef: 'login',
            certConfigMap: 'authority',
            extraHeaders: [PROJECT],
            secretExtraHeaders: ['header'],
          },
        },
        ...asked(
          'https',
          {
            ...bySecret,
            [`${IMPORT}.certConfigMap`]: 'authority',
            [`${IMPORT}.extraHeaders.0`]: PROJECT,
            [`${IMPORT}.secretExtraHeaders.0`]: 'header',
          },
          [login, secret('header', { token: TOKEN }), configMap('authority', { 'ca.pem': trusted.ca })],
        ),
      },
      s3: {
        source: { s3: { url: url.s3, secretRef: 'key' } },
        ...asked('s3', { [`${IMPORT}.secretName`]: 'key' }, [
          secret('key', { accessKeyId: KEY.username, secretKey: KEY.password }),
        ]),
      },
      gcs: { source: { gcs: { url: url.gcs } }, ...asked('gcs', {}, []) },
      registry: {
        source: { registry: { url: url.registry, pullMethod: 'pod' } },
        ...asked('registry', { [`${IMPORT}.registryImportMethod`]: 'pod' }, []),
      },
      node: {
        source: { registry: { url: url.node, pullMethod: 'node' } },
        ...asked('node', { [`${IMPORT}.registryImportMethod`]: 'node' }, []),
      },
      // A disk is locked while it is carried: each import has one of its own.
      get imageio() {
        const id = diskId();
        return {
          // It speaks http: there is nobody to trust.
          source: { imageio: { url: url.imageio, diskId: id, secretRef: 'login', insecureSkipVerify: true } },
          annotations: {
            [`${IMPORT}.source`]: 'imageio',
            [`${IMPORT}.endpoint`]: url.imageio,
            [`${IMPORT}.diskId`]: id,
            ...bySecret,
          },
          objects: [login],
        };
      },
      blank: { source: { blank: {} }, annotations: { [`${IMPORT}.source`]: 'none' }, objects: [] },
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

export const secret = (name: string, stringData: Readonly<Record<string, string>>) =>
  ({ apiVersion: 'v1', kind: 'Secret', metadata: { name }, stringData }) as const;

export const configMap = (name: string, data: Readonly<Record<string, string>>) =>
  ({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name }, data }) as const;
