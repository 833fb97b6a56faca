// The certificates of a cluster, made once: https://kubernetes.io/docs/setup/best-practices/certificates/
import 'reflect-metadata';
import { generateKeyPairSync, webcrypto } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import {
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectAlternativeNameExtension,
  X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';
import { type Layout, places } from './layout.ts';

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const YEAR = 365 * 24 * 3_600_000;

/** Users of the API server that are not service accounts: name of the certificate, subject. Each gets a kubeconfig. */
const usersOf = (layout: Layout): Record<string, string> => ({
  admin: 'O=system:masters,CN=admin',
  scheduler: 'CN=system:kube-scheduler',
  proxy: 'CN=system:kube-proxy',
  ...Object.fromEntries(layout.nodes.map(({ name }) => [`kubelet-${name}`, `O=system:nodes,CN=system:node:${name}`])),
});

/** Makes what is missing. */
export async function makeCertificates(layout: Layout): Promise<void> {
  const { pki } = places(layout);
  const at = (name: string): string => join(pki, name);
  await mkdir(pki, { recursive: true, mode: 0o700 });
  if (!existsSync(at('ca.crt'))) await write(at('ca'), await signed(undefined, `CN=${layout.name}`));
  const authority = await readAuthority(at('ca'));
  const make = async (name: string, subject: string, names: readonly string[] = []): Promise<void> => {
    if (!existsSync(at(`${name}.crt`))) await write(at(name), await signed(authority, subject, names));
  };
  const first = layout.nodes[0]?.address ?? '';
  const cluster = [
    'kubernetes',
    'kubernetes.default',
    'kubernetes.default.svc',
    'kubernetes.default.svc.cluster.local',
  ];
  await make('apiserver', 'CN=kube-apiserver', ['localhost', ...cluster, '127.0.0.1', first, layout.kubernetes]);
  for (const { name, address } of layout.nodes)
    await make(`serving-${name}`, `CN=${name}`, [name, address, '127.0.0.1']);
  await make('apiserver-kubelet', 'O=system:masters,CN=apiserver-kubelet');
  await make('front-proxy', 'CN=front-proxy');
  for (const [name, subject] of Object.entries(usersOf(layout))) {
    await make(name, subject);
    await writeFile(at(`${name}.kubeconfig`), await kubeconfig(layout, at(name)), { mode: 0o600 });
  }
  if (!existsSync(at('accounts.pub'))) {
    const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    await writeFile(at('accounts.key'), privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 });
    await writeFile(at('accounts.pub'), publicKey.export({ type: 'spki', format: 'pem' }));
  }
  await writeFile(places(layout).kubeconfig, await readFile(at('admin.kubeconfig')), { mode: 0o600 });
}

export const serverOf = (layout: Layout): string => `https://${layout.nodes[0]?.address}:6443`;

async function kubeconfig(layout: Layout, user: string): Promise<string> {
  const encoded = async (path: string): Promise<string> => (await readFile(path)).toString('base64');
  const authority = await encoded(join(places(layout).pki, 'ca.crt'));
  const { name } = layout;
  return JSON.stringify({
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name, cluster: { server: serverOf(layout), 'certificate-authority-data': authority } }],
    users: [
      {
        name,
        user: {
          'client-certificate-data': await encoded(`${user}.crt`),
          'client-key-data': await encoded(`${user}.key`),
        },
      },
    ],
    contexts: [{ name, context: { cluster: name, user: name } }],
    'current-context': name,
  });
}

interface Signed {
  readonly certificate: X509Certificate;
  readonly key: webcrypto.CryptoKey;
}

/** A certificate by an authority, for servers where it has names and for clients else; without one, an authority. */
async function signed(by: Signed | undefined, subject: string, names: readonly string[] = []): Promise<Signed> {
  const keys = (await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair;
  const validity = { notBefore: new Date(Date.now() - 60_000), notAfter: new Date(Date.now() + 10 * YEAR) };
  const usages = by ? KeyUsageFlags.digitalSignature : KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign;
  const alternatives = names.map((value) => ({ type: isIP(value) ? ('ip' as const) : ('dns' as const), value }));
  const use = names.length > 0 ? ExtendedKeyUsage.serverAuth : ExtendedKeyUsage.clientAuth;
  const certificate = await X509CertificateGenerator.create({
    ...validity,
    subject,
    issuer: by?.certificate.subject ?? subject,
    signingAlgorithm: ALGORITHM,
    publicKey: keys.publicKey,
    signingKey: by?.key ?? keys.privateKey,
    extensions: [
      new BasicConstraintsExtension(by === undefined, undefined, true),
      new KeyUsagesExtension(usages, true),
      ...(by ? [new ExtendedKeyUsageExtension([use])] : []),
      ...(names.length > 0 ? [new SubjectAlternativeNameExtension(alternatives)] : []),
    ],
  });
  return { certificate, key: keys.privateKey };
}

/** The certificate last: where it is, the key is too. */
async function write(path: string, { certificate, key }: Signed): Promise<void> {
  const encoded = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', key)).toString('base64');
  const lines = encoded.replace(/.{64}/g, '$&\n');
  await writeFile(`${path}.key`, `-----BEGIN PRIVATE KEY-----\n${lines}\n-----END PRIVATE KEY-----\n`, { mode: 0o600 });
  await writeFile(`${path}.crt`, certificate.toString('pem'));
}

async function readAuthority(path: string): Promise<Signed> {
  const text = (await readFile(`${path}.key`, 'utf8')).replace(/-----[^-]+-----|\s/g, '');
  const key = await webcrypto.subtle.importKey('pkcs8', Buffer.from(text, 'base64'), ALGORITHM, false, ['sign']);
  return { certificate: new X509Certificate(await readFile(`${path}.crt`, 'utf8')), key };
}
