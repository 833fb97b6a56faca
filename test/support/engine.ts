// What an oVirt engine does for a transfer, in front of oVirt's real image service: the engine itself is a Java
// application with a database and hosts, which cannot be run here. Its API:
// https://ovirt.github.io/ovirt-engine-api-model/master/#services/image_transfers
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';

export interface EngineOptions {
  readonly user: string;
  readonly password: string;
  /** Shows the disk, or a snapshot of it, without those below it where it is shown alone; its ticket. */
  readonly show: (disk: string, snapshot: string | undefined, alone: boolean) => Promise<string>;
  /** Of every disk, from the first to the one that is written to. */
  readonly snapshots?: readonly string[];
  /** `host:port` of the image service, and how it is spoken to: by http without it. */
  readonly images: () => string;
  readonly scheme?: 'https';
}

export class FakeEngine implements AsyncDisposable {
  /** What was asked for: method and path. */
  readonly asked: string[] = [];
  /** Transfers that are open: a disk is locked by its own. */
  readonly open = new Map<string, { disk: string; ticket: string; looks: number }>();
  /** Phase that transfers stay in, instead of being ready at the second look. */
  stuck: string | undefined;
  readonly #server = createServer((request, response) => void this.#answer(request, response));
  readonly #options: EngineOptions;
  #transfers = 0;
  /** That was asked for last. */
  #disk = '';

  private constructor(options: EngineOptions) {
    this.#options = options;
  }

  static async start(options: EngineOptions): Promise<FakeEngine> {
    const engine = new FakeEngine(options);
    await new Promise<void>((resolve) => engine.#server.listen(0, '127.0.0.1', resolve));
    return engine;
  }

  get api(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/ovirt-engine/api`;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await text(request);
    const { method = '', url = '', headers } = request;
    this.asked.push(`${method} ${url}`);
    const say = (status: number, answer: unknown): void => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
    };
    const { user, password } = this.#options;
    if (url === '/ovirt-engine/sso/oauth/token') {
      const form = new URLSearchParams(body);
      const right = form.get('username') === user && form.get('password') === password;
      const asked = form.get('grant_type') === 'password' && form.get('scope') === 'ovirt-app-api';
      if (right && asked) return say(200, { access_token: 'a-token', token_type: 'bearer' });
      return say(401, { error: 'access_denied', error_description: `Cannot authenticate user ${user}` });
    }
    if (headers.authorization !== 'Bearer a-token') return say(401, { error: 'access_denied' });
    const states = this.#options.snapshots ?? [];
    const [, asked] = /^\/ovirt-engine\/api\/disks\/([\w-]+)$/.exec(url) ?? [];
    if (asked !== undefined) {
      this.#disk = asked;
      return say(200, {
        id: asked,
        image_id: states.at(-1),
        storage_domains: { storage_domain: [{ id: 'domain-1' }] },
      });
    }
    if (url.startsWith('/ovirt-engine/api/storagedomains/domain-1/disksnapshots')) {
      const disk = { id: this.#disk };
      const list = states.map((id, n) => ({ id, disk, ...(n > 0 ? { parent: { id: states[n - 1] } } : {}) }));
      return say(200, { disk_snapshot: list });
    }
    const [, id, action] = /^\/ovirt-engine\/api\/imagetransfers(?:\/([\w-]+))?(?:\/(\w+))?$/.exec(url) ?? [];
    if (method === 'POST' && id === undefined) return await this.#begin(JSON.parse(body), say);
    const transfer = this.open.get(id ?? '');
    if (!transfer) return say(404, { reason: 'Not Found' });
    if (action === 'finalize') {
      this.open.delete(id ?? '');
      return say(200, {});
    }
    transfer.looks += 1;
    const phase = this.stuck ?? (transfer.looks < 2 ? 'initializing' : 'transferring');
    return say(200, this.#shown(id ?? '', phase));
  }

  async #begin(wanted: Record<string, unknown>, say: (status: number, answer: unknown) => void): Promise<void> {
    const id = (one: unknown): string | undefined => ((one ?? {}) as { id?: string }).id;
    const snapshot = id(wanted.snapshot);
    const disk = snapshot === undefined ? (id(wanted.disk) ?? '') : this.#disk;
    if (wanted.direction !== 'download' || wanted.format !== 'raw') return say(400, { reason: 'Operation Failed' });
    if ([...this.open.values()].some((one) => one.disk === disk)) {
      const detail = '[Cannot transfer Virtual Disk: Disk is locked. Please try again later.]';
      return say(409, { error: { message: detail } });
    }
    this.#transfers += 1;
    const transfer = `transfer-${this.#transfers}`;
    const ticket = await this.#options.show(disk, snapshot, wanted.shallow === true);
    this.open.set(transfer, { disk, ticket, looks: 0 });
    return say(201, this.#shown(transfer, 'initializing'));
  }

  #shown(id: string, phase: string): unknown {
    const ticket = this.open.get(id)?.ticket;
    const url = `${this.#options.scheme ?? 'http'}://${this.#options.images()}/images/${ticket}`;
    return { id, phase, ...(phase === 'transferring' ? { transfer_url: url } : {}) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}
