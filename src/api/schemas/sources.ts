import type {
  Checkpoint,
  HttpSource,
  ImageioSource,
  ImportSource,
  ObjectRef,
  RegistrySource,
  UrlSource,
  VddkSource,
} from '../datavolume.ts';
import { empty, type Fields, flag, list, object, required, type Schema, text } from './schema.ts';

const certConfigMap = text('A ConfigMap in the same namespace with certificates (PEM) of authorities to trust.');
const insecureSkipVerify = flag('Whether the certificate of the server is not looked at.');
/** Of a user, or of an access key. */
const secretRef = text(
  'A Secret in the same namespace with accessKeyId, the name of a user, and secretKey, the password.',
);

export const imports: Fields<ImportSource> = {
  blank: empty('An empty disk.'),
  gcs: object<Omit<UrlSource, 'certConfigMap'>>('An object in Google Cloud Storage.', {
    secretRef: text('A Secret in the same namespace with credentials.json, the key of a service account.'),
    url: required(text('Where the object is: gs://bucket/object, or its https:// address.')),
  }),
  http: object<HttpSource>('A file that a web server has.', {
    certConfigMap,
    checksum: text('What the file must hash to: sha256:…, sha512:…, sha1:… or md5:…, in hexadecimal digits.'),
    extraHeaders: list('Headers to send with every request.', text('One header: "Name: value".')),
    insecureSkipVerify,
    secretExtraHeaders: list(
      'Secrets in the same namespace with headers to send that nobody else may see.',
      text('Name of a Secret, of which each value is one header.'),
    ),
    secretRef,
    url: required(text('Where the file is: http:// or https://.')),
  }),
  imageio: object<ImageioSource>('A disk that an oVirt engine has.', {
    certConfigMap,
    diskId: required(text('ID of the disk.')),
    insecureSkipVerify,
    secretRef,
    url: required(text("Where the engine's API is.")),
  }),
  registry: object<RegistrySource>('A disk in a container image.', {
    certConfigMap,
    imageStream: text("Name of an OpenShift image stream, in place of url; only with the pull method 'node'."),
    platform: object<NonNullable<RegistrySource['platform']>>('Which image of an index.', {
      architecture: text('A processor as image indexes name it: amd64, arm64, s390x.'),
    }),
    pullMethod: text(
      "Who pulls the image: 'pod', the pod that writes the volume, or 'node', the container runtime of its node. " +
        "Left out: 'pod'.",
    ),
    secretRef,
    url: text('Where the image is: docker://registry/image:tag, or oci-archive:// and a path.'),
  }),
  s3: object<UrlSource>('An object that an S3 server has.', {
    certConfigMap,
    secretRef: text('A Secret in the same namespace with accessKeyId and secretKey.'),
    url: required(text('Where the object is: https:// or http://, host, bucket and key.')),
  }),
  vddk: object<VddkSource>("A disk of a VMware virtual machine, read with VMware's library.", {
    certConfigMap,
    backingFile: text('Path of the disk: [datastore] folder/file.vmdk.'),
    extraArgs: text('A ConfigMap in the same namespace with a file of options for the library.'),
    initImageURL: text('An image that holds the library; where this is left out, the ConfigMap v2v-vmware names it.'),
    secretRef,
    thumbprint: text("SHA-1 of the server's certificate, as VMware shows it."),
    url: text('Where the vCenter or ESXi server is.'),
    uuid: text('UUID of the virtual machine.'),
  }),
};

/** An object of `what` kind, in any namespace. */
export const objectRef = (what: string): Schema<ObjectRef> =>
  object<ObjectRef>(`${what}, which may be in another namespace where the user may clone from it.`, {
    name: required(text('Its name.')),
    namespace: required(text('Its namespace.')),
  });

export const checkpoints = list(
  'Snapshots to copy one after another, of a disk that is in use meanwhile.',
  object<Checkpoint>('One stage: what changed from one snapshot to the next.', {
    current: required(text('The snapshot to copy.')),
    previous: required(text('The snapshot that was copied before; empty in the first stage.')),
  }),
);
