import type { Container, Volume, VolumeMount } from 'kubernetes-types/core/v1.js';
import { ANNOTATION } from '../api/claim.ts';

type Annotations = Readonly<Record<string, string>>;

/** Where the program that serves lies in our image, and where the importer finds it (CDI). */
const PROGRAM = '/usr/bin/cdi-containerimage-server';
const PORT = 8100;
const SHARED = '/shared';
const READY = `${SHARED}/ready`;
const MOUNT: VolumeMount = { name: 'shared-volume', mountPath: SHARED };
/** The program has less than 2 MiB. */
const VOLUME: Volume = { name: MOUNT.name, emptyDir: { sizeLimit: '16Mi' } };

/** Whether the node pulls the image, and not the importer. */
export function isPulledByNode(annotations: Annotations | undefined): boolean {
  return annotations?.[ANNOTATION.source] === 'registry' && annotations[ANNOTATION.registryMethod] === 'node';
}

/** Whether what is pulled is the name of an image stream, which OpenShift makes an image of when the pod is made. */
export function isImageStream(annotations: Annotations | undefined): boolean {
  return isPulledByNode(annotations) && annotations?.[ANNOTATION.registryStream] === 'true';
}

/** On a pod: OpenShift puts an image in the place of each name of an image stream. Not in pods that a controller owns. */
export const RESOLVES_STREAMS = { 'alpha.image.policy.openshift.io/resolve-names': '*' };

/** What the pod has besides its importer, where the node pulls the image. */
export interface NodePull {
  readonly initContainers: Container[];
  readonly volume: Volume;
  /** Of the importer. */
  readonly mount: VolumeMount;
  readonly environment: Readonly<Record<string, string>>;
  /** The node is to have the image's architecture, where that is given. */
  readonly nodeSelector: Readonly<Record<string, string>>;
}

/**
 * A container of the user's image, in which our program serves the disk on the pod's loopback. It is a sidecar (KEP-753): the
 * kubelet starts it again whenever it ends, and ends it when the importer has, whichever way each of them went. `container`:
 * what all containers have.
 */
export function nodePull(annotations: Annotations, program: string, container: Partial<Container>): NodePull {
  const architecture = annotations[ANNOTATION.registryArchitecture];
  return {
    initContainers: [
      {
        ...container,
        name: 'init',
        image: program,
        command: ['cp', PROGRAM, `${SHARED}/server`],
        volumeMounts: [MOUNT],
      },
      {
        ...container,
        name: 'server',
        image: (annotations[ANNOTATION.endpoint] ?? '').replace(/^docker:\/\//, ''),
        restartPolicy: 'Always',
        command: [`${SHARED}/server`, '-p', String(PORT), '-image-dir', '/disk', '-ready-file', READY],
        // The image's own may be none that its user may enter.
        workingDir: '/',
        volumeMounts: [MOUNT],
      },
    ],
    volume: VOLUME,
    mount: { ...MOUNT, readOnly: true },
    environment: { IMPORTER_PULL_METHOD: 'node', IMPORTER_READY_FILE: READY },
    nodeSelector: architecture ? { 'kubernetes.io/arch': architecture } : {},
  };
}

/** The annotations that tell the importer of such a pod what it imports: a disk of a web server, which asks for no login. */
export function asServed(annotations: Annotations): Annotations {
  const { [ANNOTATION.secret]: _secret, [ANNOTATION.certConfigMap]: _certificates, ...rest } = annotations;
  return { ...rest, [ANNOTATION.source]: 'http', [ANNOTATION.endpoint]: `http://localhost:${PORT}/disk.img` };
}
