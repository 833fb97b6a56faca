// What a server of this machine agrees on with OpenSSL's client.
import { execFile } from 'node:child_process';
import { tool } from './tools.ts';

/** `TLSv1.2 ECDHE-ECDSA-AES128-GCM-SHA256`, or `refused`. `args` are those of `openssl s_client`. */
export function handshake(port: number, ...args: string[]): Promise<string> {
  const all = ['s_client', '-connect', `127.0.0.1:${port}`, '-brief', ...args];
  return new Promise((resolve, reject) => {
    const child = execFile(tool('openssl', 'openssl'), all, { timeout: 10_000 }, (error, _, said) => {
      const [, version] = /^Protocol version: (\S+)$/m.exec(said) ?? [];
      const [, cipher] = /^Ciphersuite: (\S+)$/m.exec(said) ?? [];
      if (version && cipher) return resolve(`${version} ${cipher}`);
      // Not one that could not connect, or does not know what it was told.
      if (/alert|handshake failure|unexpected eof/i.test(said)) return resolve('refused');
      reject(new Error(`openssl says neither: ${said}`, { cause: error }));
    });
    child.stdin?.end();
  });
}
