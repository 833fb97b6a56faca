import type { Context } from './context.ts';
import type { Told } from './native.ts';

/** Bytes in order, in batches of chunks (about 512 KiB together: one await a chunk is too dear). */
export type ByteStream = AsyncIterable<readonly Uint8Array[]>;

/** Bytes from `from` on, up to `to`. */
export interface Extent {
  readonly from: number;
  readonly to: number;
}

/** `sha256:<64 hex>` or `sha512:<128 hex>`, or a weak one: `md5:<32 hex>`, `sha1:<40 hex>`, and what only a store promises, `crc32c:<8 hex>`; lower case. */
export interface Digest {
  readonly algorithm: 'sha256' | 'sha512' | 'md5' | 'sha1' | 'crc32c';
  readonly hex: string;
}

export interface SourceFacts {
  /** Bytes as transferred; undefined = not known before the end. */
  readonly length?: number;
  /** `read({ from > 0 })` is honoured and cheap. */
  readonly ranges: boolean;
  /** Strong ETag, generation, version id, digest: the same object on every reopen. Absent = cannot be resumed safely. */
  readonly validator?: string;
  /** What the source itself promises about its bytes: demanded at the end, as if a person had given it. */
  readonly digest?: Digest;
  /** Nobody writes to it as long as it is open: reads go on after a cut, a later run does not. */
  readonly locked?: boolean;
  /** Why there is no validator, where a person can do something about it. */
  readonly unidentified?: string;
  /** The source is an archive, and this is the disk in it (a registry's layer). */
  readonly disk?: Pick<Told, 'path' | 'directory'>;
  /** Labels that the image asks for, for the claim of its disk (KubeVirt). */
  readonly labels?: Readonly<Record<string, string>>;
  /** Nothing says where the bytes end, neither a length nor a framing: a cut looks like the end. */
  readonly openEnded?: boolean;
  /** The bytes come over a network: they may stall, be cut, and more connections may bring more. Absent = local. */
  readonly remote?: boolean;
  /** Format that the source says it has, which a person may contradict: what a guest wrote must not pass for an image. */
  readonly format?: 'raw';
  /** What is around the image, outermost first, where the source knows: nothing else is undone then. */
  readonly codecs?: readonly string[];
  /** Name of the state that the disk is in, among those that changes are told from. */
  readonly state?: string;
  /** State of the disk that `extents` tells the changes since. */
  readonly changedSince?: string;
  /** Milliseconds from the first request to the head of its answer, connecting included. */
  readonly latency?: number;
}

/** Things a person wants to know of a source that no decision needs: redirects followed, certificate, proxy or direct. */
export type SourceDetails = Readonly<Record<string, string | number | boolean | readonly string[]>>;

/**
 * An opened object whose bytes can be read. Implementations promise:
 * - `read` yields bytes [from, to) in order and nothing else; chunks of a driver belong to the consumer and are never
 *   reused (those of the filter `parallel` may be).
 * - `read` may be called again, and concurrently when `facts.ranges`; otherwise a second `read`, or one with
 *   `from > 0`, throws UNSUPPORTED before yielding.
 * - it throws CHANGED when the object is no longer the one that was opened, TRUNCATED when it ends before `to` (or
 *   before `facts.length`), ABORTED soon after the signal; leaving a `for await` early releases the connection.
 * - `to` undefined reads to the end.
 * - `extents` yields where the object can have data, ascending and disjoint, in batches of bounded length; every byte that
 *   it leaves out is zero or, with `facts.changedSince`, as it was then. Errors are those of `read`. Absent = not known.
 * - `nonzero` reads a range and yields no bytes, but which grains of `grain` bytes, counted from its `from`, are not all zero:
 *   ascending, adjacent ones as one; the list is as long as the range makes it. Errors are those of `read`. Absent = read it.
 * - `[Symbol.asyncDispose]` may be called any number of times and ends reads that are under way.
 */
export interface Source extends AsyncDisposable {
  readonly facts: SourceFacts;
  readonly details: SourceDetails;
  /** What identifies the object to people and in a checkpoint: no userinfo, no query, no secret. */
  readonly name: string;
  read(range: { from: number; to?: number }, signal: AbortSignal): ByteStream;
  extents?(signal: AbortSignal): AsyncIterable<readonly Extent[]>;
  nonzero?(range: Extent, grain: number, signal: AbortSignal): Promise<readonly Extent[]>;
}

/** Options that a person gives for a source; each driver takes what concerns it. */
export interface SourceOptions {
  /** Extra request headers, from a file or the environment. */
  readonly headers?: Readonly<Record<string, string>>;
  /** Basic credentials, from a file, the environment or the URL. */
  readonly credentials?: { readonly username: string; readonly password: string };
  /** PEM bundle that is trusted beside the system's. */
  readonly ca?: string;
  /** Nobody looks whose certificate a server shows, or whether it shows its own. Default false: http(s) and ovirt only. */
  readonly insecureTls?: boolean;
  /** Follow a redirect from https to http. Default false: it would give up what https promised. */
  readonly insecureRedirects?: boolean;
  /** `exec:` is allowed: a person at the command line gave the source. Default false. */
  readonly programs?: boolean;
  /** Ask for objects of a store without credentials, whatever the environment has. Default false. */
  readonly anonymous?: boolean;
  /** Ask the cloud's metadata service of this machine for credentials. Default true. */
  readonly instanceMetadata?: boolean;
  /** An S3 that is not Amazon's, as URL, and the region that requests are signed for. */
  readonly s3?: { readonly endpoint?: string; readonly region?: string };
  /** Path of the disk in an archive or image. */
  readonly path?: string;
  /** Of several disks in an archive the one of this name, or of this number from 1. */
  readonly disk?: string;
  /** Format of the image: nothing else is accepted. Default: by its header. */
  readonly format?: string;
  /** A person says that nobody writes to it: it may be resumed though nothing identifies it. Default false. */
  readonly unchanged?: boolean;
  /** Only what changed since this state of the disk is wanted: a dirty bitmap, a snapshot. */
  readonly changedSince?: string;
  /** Of an image that there is for several: `linux/amd64`. Default: this machine's. */
  readonly platform?: string;
  readonly registry?: {
    /** Hosts that are asked before the registry itself. */
    readonly mirrors?: readonly string[];
    /** By http, without TLS. Default false. */
    readonly insecure?: boolean;
    /** A docker config.json. */
    readonly authfile?: string;
  };
  /** Variables that proxies and credentials are looked up in. Default: those of the process. */
  readonly environment?: NodeJS.ProcessEnv;
  /** Standard input, or what takes its place. */
  readonly stdin?: NodeJS.ReadableStream;
}

export interface SourceDriver<Spec = unknown> {
  /** URL schemes without the colon; `file` stands for paths, `-` for standard input. */
  readonly schemes: readonly string[];
  /** Written as `scheme:rest`, without slashes. Default false. */
  readonly opaque?: boolean;
  parse(text: string, options: SourceOptions): Spec;
  open(spec: Spec, context: Context): Promise<Source>;
}

/** A wrapper that is itself a Source: retry, watchdog, parallel, rate, progress. */
export type SourceFilter = (next: Source, context: Context) => Source;
