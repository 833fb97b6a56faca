import { once } from 'node:events';
import type { Server } from 'node:http';
import type { Server as SecureServer } from 'node:https';
import type { AddressInfo } from 'node:net';

/** A server that listens. Its end is that of all its connections. */
export interface Listening extends AsyncDisposable {
  readonly port: number;
}

/** On all addresses; port 0 is any. Throws where the port is taken. */
export async function listen(server: Server | SecureServer, port: number): Promise<Listening> {
  server.listen(port);
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}
