import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { tool } from './tools.ts';

const run = promisify(execFile);

export interface Pair {
  readonly certificate: string;
  readonly key: string;
}

export interface Authority {
  /** PEM of the authority's certificate. */
  readonly ca: string;
  /** Paths of a certificate for `names` (DNS names and addresses) and of its key. `days` may be negative: expired. */
  issue(label: string, names: readonly string[], days?: number): Promise<Pair>;
}

/** A certificate authority of its own in `directory`. */
export async function authority(directory: string, name = 'diskferry test authority'): Promise<Authority> {
  const openssl = tool('openssl', 'openssl');
  const at = (file: string): string => join(directory, file);
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  await run(openssl, [
    'req',
    '-x509',
    ...curve,
    '-keyout',
    at('ca.key'),
    '-out',
    at('ca.pem'),
    '-subj',
    `/CN=${name}`,
    '-days',
    '30',
  ]);
  return {
    ca: await readFile(at('ca.pem'), 'utf8'),
    async issue(label, names, days = 7) {
      const pair = { certificate: at(`${label}.pem`), key: at(`${label}.key`) };
      await run(openssl, [
        'req',
        ...curve,
        '-keyout',
        pair.key,
        '-out',
        at(`${label}.csr`),
        '-subj',
        `/CN=${names[0] ?? label}`,
      ]);
      const alternatives = names.map((one) => (/^[\d.]+$/.test(one) ? `IP:${one}` : `DNS:${one}`)).join(',');
      await writeFile(at(`${label}.ext`), `subjectAltName=${alternatives}\n`);
      const sign = ['x509', '-req', '-in', at(`${label}.csr`), '-CA', at('ca.pem'), '-CAkey', at('ca.key')];
      await run(openssl, [
        ...sign,
        '-CAcreateserial',
        '-extfile',
        at(`${label}.ext`),
        '-out',
        pair.certificate,
        '-days',
        String(days),
      ]);
      return pair;
    },
  };
}
