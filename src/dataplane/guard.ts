import { lookup as resolve } from 'node:dns';
import { BlockList, isIP, isIPv6, type LookupFunction } from 'node:net';
import { FerryError } from './errors.ts';

/** What no image is fetched from on behalf of somebody else: what only this machine reaches, and what is no single host. */
const REFUSED: readonly (readonly [net: string, what: string])[] = [
  // RFC 6890, section 2.2: this host, loopback, link-local (cloud metadata), multicast and reserved.
  ['0.0.0.0/8', 'an address of this host'],
  ['127.0.0.0/8', 'a loopback address'],
  ['169.254.0.0/16', 'a link-local address'],
  ['224.0.0.0/4', 'a multicast address'],
  ['240.0.0.0/4', 'a reserved address'],
  ['::/128', 'an address of this host'],
  ['::1/128', 'a loopback address'],
  ['fe80::/10', 'a link-local address'],
  ['ff00::/8', 'a multicast address'],
  // Metadata of Amazon's instances, and of Alibaba's, which lie elsewhere.
  ['fd00:ec2::/32', "an address of the cloud's metadata"],
  ['100.100.100.200/32', "an address of the cloud's metadata"],
];
/** IPv6 addresses that stand for IPv4 ones in their last 32 bits: NAT64 (RFC 6052, section 2.1). */
const NAT64 = listOf([['64:ff9b::/96', '']]);
const CLUSTER = 'an address of the cluster';
const SERVICES = "an address of the cluster's services";
const API = "the cluster's API server";

/** Where a cluster's own addresses are. */
export interface ClusterNetworks {
  /** Address of its API server: to which nobody is led, whatever it is called. */
  readonly api?: string;
  /** Network of its services. */
  readonly services?: string;
  /** Hosts that whoever asks has named himself: those may be services. Where they redirect to may not. */
  readonly named?: readonly string[];
}

/** Which addresses may be connected to. A name is admitted by what it resolves to, at the moment of connecting. */
export class Guard {
  readonly #refused: readonly (readonly [BlockList, string])[];
  readonly #allowed: BlockList;
  readonly #remedy: string;
  /** Names, in lower case, that may be services of the cluster. */
  readonly #named: ReadonlySet<string>;

  /**
   * `refused`, `allowed`: networks such as 10.96.0.0/12, or single addresses; what is allowed is never refused. `remedy` ends
   * the message. Throws BAD_SPEC.
   */
  constructor(refused: readonly string[], allowed: readonly string[], remedy: string, cluster: ClusterNetworks = {}) {
    const { api, services, named = [] } = cluster;
    const all = [
      ...REFUSED,
      ...(api ? [[api, API] as const] : []),
      ...refused.map((net) => [net, CLUSTER] as const),
      ...(services ? [[services, SERVICES] as const] : []),
    ];
    this.#refused = all.map((one) => [listOf([one]), one[1]] as const);
    this.#allowed = listOf(allowed.map((net) => [net, ''] as const));
    this.#remedy = remedy;
    this.#named = new Set(named.map((host) => host.toLowerCase().replace(/^\[|\]$/g, '')));
  }

  /** A URL's host that is an address is checked here: nothing looks it up. Throws UNSAFE. */
  admitHost(host: string): void {
    const bare = host.replace(/^\[|\]$/g, '');
    const error = isIP(bare) ? this.#refusal(bare, bare) : undefined;
    if (error) throw error;
  }

  /** In place of dns.lookup: gives only what may be connected to, so that a name cannot change its mind in between. */
  readonly lookup: LookupFunction = (host, options, callback) => {
    resolve(host, { ...options, all: true }, (failed, found) => {
      if (failed) return callback(failed, '', 0);
      const admitted = found.filter(({ address }) => this.#refusal(host, address) === undefined);
      const [first] = admitted;
      if (first === undefined) return callback(this.#refusal(host, found[0]?.address ?? '') ?? null, '', 0);
      if (options.all) return callback(null, admitted);
      return callback(null, first.address, first.family);
    });
  };

  #refusal(host: string, address: string): FerryError | undefined {
    const family = isIPv6(address) ? 'ipv6' : 'ipv4';
    if (this.#allowed.check(address, family)) return undefined;
    const inner = embedded(address);
    if (inner !== undefined) return this.#refusal(host, inner);
    const [, what] = this.#refused.find(([list]) => list.check(address, family)) ?? [];
    if (what === undefined || (what === SERVICES && this.#named.has(host.toLowerCase()))) return undefined;
    const named = host === address ? `${address} is` : `${host} leads to ${address},`;
    return new FerryError(`${named} ${what}, which is not connected to: ${this.#remedy}`, {
      code: 'UNSAFE',
      stage: 'source',
    });
  }
}

/** The IPv4 address in an IPv6 one of NAT64; a BlockList knows ::ffff:0:0/96 by itself. */
function embedded(address: string): string | undefined {
  if (!isIPv6(address) || !NAT64.check(address, 'ipv6')) return undefined;
  // The URL parser writes the last 32 bits as two groups, unless the first of them is zero.
  const groups = new URL(`http://[${address}]/`).hostname.slice(1, -1).split(':');
  const [high = 0, low = 0] = groups.slice(-2).map((group) => Number.parseInt(group || '0', 16));
  return [high >> 8, high & 255, low >> 8, low & 255].join('.');
}

function listOf(nets: readonly (readonly [net: string, what: string])[]): BlockList {
  const list = new BlockList();
  for (const [net] of nets) {
    const [address = '', bits] = net.split('/');
    const family = isIPv6(address) ? 'ipv6' : 'ipv4';
    const most = family === 'ipv6' ? 128 : 32;
    const prefix = bits === undefined ? most : Number(bits);
    if (!isIP(address) || !(Number.isInteger(prefix) && prefix >= 0 && prefix <= most) || bits === '') {
      throw new FerryError(
        `'${net.slice(0, 80)}' is no network: write an address, or one with a prefix, as 10.0.0.0/8`,
        {
          code: 'BAD_SPEC',
          stage: 'plan',
        },
      );
    }
    list.addSubnet(address, prefix, family);
  }
  return list;
}
