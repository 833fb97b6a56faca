// oVirt's image service on loopback, in front of qemu-nbd, as a host of oVirt runs it.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { serverPath } from '../../scripts/toolchain.mjs';
import { type NbdServer, qemuNbd } from './nbd.ts';
import { freePort, listening, stop } from './nginx.ts';
import { tempdir } from './tempdir.ts';
import type { Pair } from './tls.ts';

export interface ImageService extends AsyncDisposable {
  readonly port: number;
  /** Shows the bytes of a file, `size` of them; its ticket. By qemu-nbd with more options, or from the file itself. */
  show(file: string, size: number, by?: readonly string[] | 'file', more?: { dirty?: boolean }): Promise<string>;
  /** Ends a ticket. */
  revoke(ticket: string): Promise<void>;
}

export async function imageService(tls?: Pair & { readonly ca: string }): Promise<ImageService> {
  const home = await tempdir();
  const port = await freePort();
  const control = join(home.path, 'control');
  await mkdir(join(home.path, 'conf.d'));
  const secure = tls
    ? `enable = true\nkey_file = ${tls.key}\ncert_file = ${tls.certificate}\nca_file = ${tls.ca}`
    : 'enable = false';
  await writeFile(
    join(home.path, 'conf.d/test.conf'),
    `[daemon]
run_dir = ${home.path}
drop_privileges = false
systemd_enable = false
[tls]
${secure}
[remote]
host = 127.0.0.1
port = ${port}
[local]
enable = false
[control]
transport = unix
socket = ${control}
[handlers]
keys = stderr
[logger_root]
level = ERROR
handlers = stderr
`,
  );
  const child: ChildProcess = spawn(serverPath('ovirt-imageio'), ['--conf-dir', home.path], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  child.stderr?.on('data', (text: Buffer) => {
    said = (said + text.toString()).slice(-4000);
  });
  await listening(port, child, () => said);
  const disks: NbdServer[] = [];
  let tickets = 0;
  const ask = async (method: string, path: string, body?: unknown): Promise<void> => {
    const asking = request({ socketPath: control, method, path });
    asking.end(body === undefined ? undefined : JSON.stringify(body));
    const [answer] = await once(asking, 'response');
    answer.resume();
    if (answer.statusCode >= 300) throw new Error(`${method} ${path} was answered ${answer.statusCode}`);
  };
  return {
    port,
    async show(file, size, by = [], more = {}) {
      tickets += 1;
      const ticket = `ticket-${tickets}`;
      const socket = join(home.path, `${ticket}.sock`);
      if (by !== 'file') disks.push(await qemuNbd(file, ['--export-name=', ...by], socket));
      const url = by === 'file' ? `file://${file}` : `nbd:unix:${socket}`;
      const said = { uuid: ticket, size, url, timeout: 600, ops: ['read'], sparse: true, ...more };
      await ask('PUT', `/tickets/${ticket}`, said);
      return ticket;
    },
    revoke: (ticket) => ask('DELETE', `/tickets/${ticket}`),
    async [Symbol.asyncDispose]() {
      await stop(child);
      for (const disk of disks) await disk[Symbol.asyncDispose]();
      await home[Symbol.asyncDispose]();
    },
  };
}
