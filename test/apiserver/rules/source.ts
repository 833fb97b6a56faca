// Rules about sources.
import { CHECKSUM, from, HTTP, http, IMAGEIO, type Row, type Thing, URL, VDDK, without } from './row.ts';

interface SourceRow {
  readonly title: string;
  readonly refused: object;
  readonly field: string;
  readonly says: string;
  readonly accepted: object;
  readonly contentType?: string;
  readonly also?: readonly object[];
}

/** Of sources that both DataVolumes and VolumeImportSources have. */
const sources: readonly SourceRow[] = [
  { title: 'http has a URL', refused: http(''), field: 'http.url', says: 'http.url is empty', accepted: HTTP },
  {
    title: 'a URL has a scheme',
    refused: http('images.example/a'),
    field: 'http.url',
    says: 'no scheme',
    accepted: HTTP,
  },
  {
    title: 'a URL has a scheme that is known',
    refused: http('ftp://images.example/a'),
    ...{ field: 'http.url', says: 'has the scheme "ftp", and this source takes http:// or https:// or gs://' },
    accepted: http('http://images.example/a'),
    also: [http('HTTPS://images.example/a'), http('gs://bucket/a')],
  },
  {
    title: 'a URL can be read',
    refused: http('https://images.example:70000/a'),
    ...{ field: 'http.url', says: 'no URL that can be read' },
    accepted: http('https://images.example:7000/a'),
  },
  {
    title: 'a URL has a host',
    refused: http('gs:///a'),
    ...{ field: 'http.url', says: 'names no host' },
    accepted: http('gs://bucket/a'),
  },
  {
    title: 'what follows a % is two digits',
    refused: http('https://images.example/50%'),
    ...{ field: 'http.url', says: 'what follows a %' },
    accepted: http('https://images.example/50%25'),
    also: [http('https://images.example/a?50%'), http('https://images.example/a b')],
  },
  {
    title: 'a URL has no credentials',
    refused: http('https://user:swordfish@images.example/a'),
    ...{ field: 'http.url', says: 'credentials in it, before the @' },
    accepted: http('https://images.example/user:other@a?b=c@d', { secretRef: 'login' }),
  },
  {
    title: 'a URL has no user',
    refused: http('https:user@images.example/a'),
    ...{ field: 'http.url', says: 'Put them into a Secret with accessKeyId and secretKey, and name that in' },
    accepted: http('https:images.example/a'),
  },
  {
    title: 'a URL is one line',
    refused: http('https://images.example/a\n'),
    ...{ field: 'http.url', says: 'a control character at place 25 of 25' },
    accepted: http('https://images.example/a'),
  },
  {
    title: 'a header is one line',
    refused: http(URL, { extraHeaders: ['X-One: 1', 'X-Two: 2\r\nX-Three: 3'] }),
    ...{ field: 'http.extraHeaders[1]', says: 'has the control character 0x0d at place 9 of 20' },
    accepted: http(URL, { extraHeaders: ['X-One: 1', 'X-Two:\t2'] }),
  },
  {
    title: 'the name of a Secret is one line',
    refused: http(URL, { secretRef: 'login\u0000' }),
    ...{ field: 'http.secretRef', says: 'has the control character 0x00 at place 6 of 6' },
    accepted: http(URL, { secretRef: 'login' }),
  },
  {
    title: 'a checksum has an algorithm',
    refused: http(URL, { checksum: '0'.repeat(64) }),
    ...{ field: 'http.checksum', says: 'Invalid checksum "000' },
    accepted: http(URL, { checksum: CHECKSUM }),
  },
  {
    title: 'a checksum has an algorithm that is known',
    refused: http(URL, { checksum: `sha3:${'0'.repeat(64)}` }),
    ...{ field: 'http.checksum', says: 'the algorithm "sha3" is not one of md5, sha1, sha256, sha512' },
    accepted: http(URL, { checksum: `md5:${'0'.repeat(32)}` }),
    also: [
      http(URL, { checksum: `sha1:${'aF'.repeat(20)}` }),
      http(URL, { checksum: ` SHA512 : ${'0'.repeat(128)} \n` }),
      http(URL, { checksum: '' }),
    ],
  },
  {
    title: 'a checksum has as many digits as its algorithm',
    refused: http(URL, { checksum: `sha256:${'0'.repeat(40)}` }),
    ...{ field: 'http.checksum', says: 'of sha256 it has 64 hexadecimal digits, and "000' },
    accepted: http(URL, { checksum: CHECKSUM }),
  },
  {
    title: 'a checksum has digits',
    refused: http(URL, { checksum: `sha256:${'g'.repeat(64)}` }),
    ...{ field: 'http.checksum', says: 'of sha256 it has 64 hexadecimal digits' },
    accepted: http(URL, { checksum: CHECKSUM.toUpperCase() }),
  },
  {
    title: 'a checksum has two parts',
    refused: http(URL, { checksum: `${CHECKSUM}:1` }),
    ...{ field: 'http.checksum', says: 'Invalid checksum "sha256:000' },
    accepted: http(URL, { checksum: CHECKSUM }),
  },
  {
    title: 's3 has a URL',
    refused: { s3: { url: 's3://bucket/a' } },
    ...{ field: 's3.url', says: 'has the scheme "s3"' },
    accepted: { s3: { url: 'https://s3.example/bucket/a' } },
  },
  {
    title: 's3 has no credentials in its URL',
    refused: { s3: { url: 'https://key:swordfish@s3.example/bucket/a' } },
    ...{ field: 's3.url', says: 's3.secretRef' },
    accepted: { s3: { url: 'https://s3.example/bucket/a', secretRef: 'login' } },
  },
  {
    title: 'gcs has a URL',
    refused: { gcs: { url: 'bucket/a' } },
    ...{ field: 'gcs.url', says: 'no scheme' },
    accepted: { gcs: { url: 'gs://bucket/a' } },
  },
  {
    title: 'gcs has no credentials in its URL',
    refused: { gcs: { url: 'gs://swordfish@bucket/a' } },
    ...{ field: 'gcs.url', says: 'Put them into a Secret with credentials.json, and name that in' },
    accepted: { gcs: { url: 'gs://bucket/a', secretRef: 'login' } },
  },
  {
    title: 'a blank disk is no archive',
    refused: { blank: {} },
    ...{ field: 'blank', says: 'SourceType cannot be blank and the contentType be archive', contentType: 'archive' },
    accepted: http(URL),
  },
  {
    title: 'a registry has no archives',
    refused: { registry: { url: 'docker://a' } },
    ...{ field: 'registry', says: 'must have the contentType kubevirt: it is "archive"', contentType: 'archive' },
    accepted: http(URL),
  },
  {
    title: 'a registry has a URL or an image stream',
    refused: { registry: {} },
    ...{ field: 'registry', says: 'has neither url nor imageStream' },
    accepted: { registry: { url: 'docker://registry.example/disk:1' } },
  },
  {
    title: 'a registry has one of URL and image stream',
    refused: { registry: { url: 'docker://a', imageStream: 'a', pullMethod: 'node' } },
    ...{ field: 'registry', says: 'has both url and imageStream' },
    accepted: { registry: { imageStream: 'a', pullMethod: 'node' } },
  },
  {
    title: 'the URL of an image has a scheme',
    refused: { registry: { url: 'registry.example/disk' } },
    ...{ field: 'registry.url', says: 'Illegal registry URL: spec.source.registry.url has no scheme' },
    accepted: { registry: { url: 'docker://registry.example/disk' } },
  },
  {
    title: 'the URL of an image has a scheme that is known',
    refused: { registry: { url: 'https://registry.example/disk' } },
    ...{ field: 'registry.url', says: 'Illegal registry URL scheme "https"' },
    accepted: { registry: { url: 'oci-archive:/images/disk.tar' } },
    also: [{ registry: { url: 'oci-archive://images/a@b.tar' } }, { registry: { url: 'Docker://fedora' } }],
  },
  {
    title: 'the URL of an image has a host that is none but a scheme',
    refused: { registry: { url: 'registry.example:5000/disk' } },
    ...{ field: 'registry.url', says: 'Illegal registry URL scheme "registry.example"' },
    accepted: { registry: { url: 'docker://registry.example:5000/disk' } },
  },
  {
    title: 'the URL of an image names one',
    refused: { registry: { url: 'docker://' } },
    ...{ field: 'registry.url', says: 'names no image' },
    accepted: { registry: { url: 'docker://fedora' } },
  },
  {
    title: 'the URL of an image has no credentials',
    refused: { registry: { url: 'docker://user:swordfish@registry.example/disk' } },
    ...{ field: 'registry.url', says: 'registry.secretRef' },
    accepted: { registry: { url: `docker://registry.example/disk@${CHECKSUM}` } },
    also: [{ registry: { url: `docker://fedora@${CHECKSUM}` } }],
  },
  {
    title: 'the URL of an image is one line',
    refused: { registry: { url: 'docker://a\n' } },
    ...{ field: 'registry.url', says: 'a control character at place 11 of 11' },
    accepted: { registry: { url: 'docker://a' } },
  },
  {
    title: 'a pull method is known',
    refused: { registry: { url: 'docker://a', pullMethod: 'push' } },
    ...{ field: 'registry.pullMethod', says: 'ImportMethod "push" is neither pod nor node' },
    accepted: { registry: { url: 'docker://a', pullMethod: 'pod' } },
  },
  {
    title: 'an image stream has a name',
    refused: { registry: { imageStream: '', pullMethod: 'node' } },
    ...{ field: 'registry.imageStream', says: 'registry.imageStream is empty' },
    accepted: { registry: { imageStream: 'a', pullMethod: 'node' } },
  },
  {
    title: 'an image stream is pulled by the node',
    refused: { registry: { imageStream: 'a', pullMethod: 'pod' } },
    ...{ field: 'registry.imageStream', says: 'only for the pullMethod node' },
    accepted: { registry: { url: 'docker://a', pullMethod: 'node' } },
  },
  ...['secretRef', 'diskId', 'certConfigMap', 'url'].map((key) => ({
    title: `imageio has its ${key}`,
    refused: { imageio: { ...without(IMAGEIO, key), ...(key === 'diskId' || key === 'url' ? { [key]: '' } : {}) } },
    ...{ field: `imageio.${key}`, says: `imageio.${key} is empty` },
    accepted: { imageio: IMAGEIO },
    ...(key === 'certConfigMap' ? { also: [{ imageio: { ...without(IMAGEIO, key), insecureSkipVerify: true } }] } : {}),
  })),
  {
    title: 'imageio has no credentials in its URL',
    refused: { imageio: { ...IMAGEIO, url: 'https://admin%40internal:swordfish@engine.example/api' } },
    ...{ field: 'imageio.url', says: 'credentials in it' },
    accepted: { imageio: { ...IMAGEIO, url: 'https://engine.example/api' } },
  },
  ...['secretRef', 'uuid', 'backingFile', 'thumbprint', 'url'].map((key) => ({
    title: `vddk has its ${key}`,
    refused: { vddk: without(VDDK, key) },
    ...{ field: `vddk.${key}`, says: `vddk.${key} is empty` },
    accepted: { vddk: VDDK },
  })),
];

export const ofSources = (make: (source: object, contentType?: string) => Thing): Row[] =>
  sources.map(({ title, refused, field, says, accepted, contentType, also = [] }) => ({
    title,
    refused: make(refused, contentType),
    ...{ field: `spec.source.${field}`, says },
    accepted: [make(accepted, contentType), ...also.map((one) => make(one, contentType))],
  }));

export const cloned: readonly Row[] = ['pvc', 'snapshot'].flatMap((member) =>
  ['namespace', 'name'].map((key) => ({
    title: `a clone of a ${member} has its ${key}`,
    refused: from({ [member]: { namespace: 'golden', name: 'fedora', [key]: '' } }),
    ...{ field: `spec.source.${member}.${key}`, says: `spec.source.${member}.${key} is empty` },
    accepted: from({ [member]: { namespace: 'golden', name: 'fedora' } }),
  })),
);
