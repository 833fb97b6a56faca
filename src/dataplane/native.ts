import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import type { Log } from './context.ts';
import { type Code, FerryError, type Stage } from './errors.ts';

/** Bounds that hold whatever an image says of itself; bytes unless named otherwise. */
export interface Limits {
  readonly virtualSize?: number;
  readonly decoderWindow?: number;
  readonly decoderMemory?: number;
  readonly holdBack?: number;
  readonly workers?: number;
}

export interface Refusal {
  readonly code: Code;
  readonly stage: Stage;
  readonly message: string;
}

/** What is said of a source, and else found out. */
export interface Told {
  /**
   * The disk in an archive: at a path, the only file of a directory, or the disk of a name or number (from 1). None = its
   * only disk.
   */
  readonly path?: string;
  readonly directory?: string;
  readonly disk?: string;
  /** Name of the image's format ('raw' too): nothing else is accepted. */
  readonly format?: string;
  /** What is around the image, outermost first: what comes out of the last is the image, whatever it begins with. */
  readonly codecs?: readonly string[];
}

/** What the head of an image says. */
export interface Sniffed {
  /** Outermost first: 'gzip' | 'zstd' | 'xz' | 'lz4' | 'bzip2' | 'snappy' | 'tar' | 'zip'. */
  readonly codecs: readonly string[];
  /** 'raw', or the name of a driver: 'qcow2', 'vmdk', 'vhd', 'vdi', 'parallels', 'qed'. */
  readonly format: string;
  /** Bytes that the guest sees; undefined = known only at the end (a compressed raw image). */
  readonly virtualSize?: number;
  /** 'stream' = data can be placed as it comes; 'metadata' = tables lie behind the data, so it wants them first. */
  readonly order: 'stream' | 'metadata';
  /** For people: 'version 3', 'cluster size 65536', 'zstd clusters', 'extended L2', … */
  readonly features: readonly string[];
  /** What will not be carried over: 'internal snapshot "a"', 'bitmap "b"'. */
  readonly leftOut: readonly string[];
  /** Memory of the decoders: largest window, and all together. */
  readonly window: number;
  readonly decoderMemory: number;
  /** What was picked of an archive; `size` in bytes, holes counted, where it is known before the end. */
  readonly member?: { readonly name: string; readonly size?: number };
  /** The disk lies in an archive behind the head: a Probe finds it. */
  readonly unseen?: boolean;
  /** Bytes of the head that are needed to say what it is, where more than were given: then it is refused. */
  readonly wanted?: number;
  /** The archive, which was seen whole, takes what is picked away from the layers below it. */
  readonly hides?: boolean;
  readonly refusal?: Refusal;
  /** What of QEMU reads an image that is refused: native/engine/src/formats/bridged.rs. */
  readonly bridge?: string;
}

export interface TargetSpec {
  readonly path: string;
  /** 32 bytes that authenticate the journal. */
  readonly key: Uint8Array;
}

/** What a target is, found without changing it. */
export interface TargetFacts {
  readonly kind: 'file' | 'block' | 'null';
  readonly exists: boolean;
  /** Length of the file, size of the device. */
  readonly length: number;
  /** Bytes that can be written at most: the device's size, or what the file system has free plus what the file has. */
  readonly capacity: number;
  readonly logicalBlock: number;
  /** What is on it that is not ours, for people: 'a GPT partition table', 'a file with 4096 bytes'. */
  readonly foreign?: string;
}

/** What an earlier run left on the target. `identity` is the JSON that was given to Conversion.start. */
export type Recovered =
  | { readonly kind: 'nothing' }
  | { readonly kind: 'foreign' }
  | {
      readonly kind: 'checkpoint' | 'finishing';
      readonly identity: string;
      readonly virtualSize?: number;
      /** Lowest source offset whose data is not on the target yet. */
      readonly watermark: number;
      readonly way: string;
      /** Earlier resumes of the same transfer. */
      readonly resumes: number;
    }
  | {
      readonly kind: 'finished';
      readonly identity: string;
      readonly diskDigest: string;
      readonly virtualSize: number;
    };

export interface Range {
  readonly from: number;
  /** undefined = to the end of the source. */
  readonly to?: number;
}

/** Cheap counters; bytes and nanoseconds since the start. */
export interface Progress {
  readonly sourceBytes: number;
  /** Disk bytes accounted for: written, zeroed, skipped. */
  readonly diskBytes: number;
  readonly written: number;
  readonly zeroed: number;
  readonly skipped: number;
  readonly watermark: number;
  /** Decoder thread: waiting for input, waiting for room behind it, working. */
  readonly decodeStarved: number;
  readonly decodeBlocked: number;
  readonly decodeBusy: number;
  /** Workers together: inflating and hashing, writing, idle. */
  readonly workBusy: number;
  readonly writeBusy: number;
  readonly workIdle: number;
  readonly workers: number;
  /** Source offset that this run went on from. */
  readonly resumedAt: number;
}

export interface Report {
  readonly virtualSize: number;
  readonly sourceBytes: number;
  readonly written: number;
  readonly zeroed: number;
  readonly skipped: number;
  /** sha256 over the whole source, when it was read whole. */
  readonly sourceDigest?: string;
  /** `dd1:<hex>`; see docs/disk-digest.md. */
  readonly diskDigest: string;
  /** Bytes read back from the target to complete the disk digest. */
  readonly reread: number;
  readonly resumes: number;
  readonly checkpoints: number;
}

/** A qcow2 file that is to be written. */
export interface Qcow2 {
  /** Bytes of a cluster, a power of two from 512 to 2 MiB; to 64 KiB where it is compressed. */
  readonly cluster: number;
  readonly compression?: 'zlib' | 'zstd';
}

export interface ConversionInit {
  /** The image's head, sniffed again by the engine: one parser, one answer. */
  readonly head: Uint8Array;
  readonly told?: Told;
  /** JSON text that identifies source and options; comes back in Recovered. */
  readonly identity: string;
  readonly way: 'stream' | 'seek' | 'spill';
  /** Length of the source where it is known. */
  readonly sourceLength?: number;
  /** The source honours ranges and is pinned, so that it may be read in pieces. */
  readonly seekable: boolean;
  /** Pairs of offsets, ascending: where a raw source can have data, all else being zeros. For the way `seek`. */
  readonly extents?: Float64Array;
  /** The target holds an earlier state of the disk: what the extents leave out stays as it is there. */
  readonly onto: boolean;
  /** Read everything, so that the source's digest is known, even where ranges would do. */
  readonly wholeSource: boolean;
  /** Go on from what the target's journal holds; otherwise begin anew. */
  readonly resume: boolean;
  /** Exact length of the disk in bytes; the image may be smaller. */
  readonly size?: number;
  readonly preallocate: boolean;
  /** Write a qcow2 file in place of a disk; it replaces the target at the end, and keeps no journal. */
  readonly qcow2?: Qcow2;
  /** Demanded at the end: `sha256:<hex>` of the source. */
  readonly digest?: string;
  /** Demanded at the end: `dd1:<hex>` of the disk. */
  readonly diskDigest?: string;
  readonly spillDirectory?: string;
  /**
   * A file beside the target for what must be remembered of a source that cannot be read again: with it and the journal
   * the rest from the watermark on is enough.
   */
  readonly kept?: string;
  /** A named step of finishing at which the process kills itself, for tests of recovery. */
  readonly failpoint?: string;
  readonly limits: Limits;
}

export interface NativeTarget {
  readonly facts: TargetFacts;
  readonly recovered: Recovered;
  /** Drops an unfinished transfer: the journal goes, the rest stays as it is. */
  forget(): Promise<void>;
  /** Releases the lock. May be called twice. */
  close(): Promise<void>;
}

/** The engine's side of a transfer: asks for ranges of the source and takes their bytes. */
export interface Intake {
  /** What to fetch next, ascending within its pass; [] = all asked for. Resolves when the engine has taken what it asked for before. */
  next(maxRanges: number): Promise<Range[]>;
  /**
   * Copies a chunk of at most 1 MiB: 1 = taken; 0 = full, push the same chunk again after drained();
   * -1 = the pass is over, ask next(). Throws the engine's error.
   */
  push(offset: number, chunk: Uint8Array): number;
  drained(): Promise<void>;
  /** The source ends here: `length` bytes in all. */
  end(length: number): void;
  progress(): Progress;
}

export interface Conversion extends Intake {
  /** Drains, verifies, flushes, writes the held ends: only now is the disk valid. */
  finish(): Promise<Report>;
  /** Leaves the journal, never a bootable disk. May be called twice. */
  abort(reason?: string): Promise<void>;
}

/** A disk that is put together in any order. No two calls at a time may touch the same byte of it. */
export interface Patch {
  /** Copies at most 8 MiB, and writes them. Throws BAD_SPEC beyond the disk's end, NO_SPACE, IO. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
  zero(offset: number, length: number): Promise<void>;
  /** What was written is durable, but for the held ends. */
  flush(): Promise<void>;
  /** Pairs of offsets: where there may be data. */
  extents(): Promise<Float64Array>;
  /** Makes it a disk; its digest. */
  finish(): Promise<string>;
  abort(): void;
}

export interface UnpackingInit {
  /** A directory, which is made if it does not exist. */
  readonly target: string;
  /** What is in it goes. */
  readonly replace: boolean;
  readonly sourceLength?: number;
  /** Demanded at the end: `sha256:<hex>` of the source. */
  readonly digest?: string;
  /** What is around the archive, outermost first; else it is found out. */
  readonly codecs?: readonly string[];
  readonly limits: Limits;
}

export interface Unpacked {
  /** Outermost first. */
  readonly codecs: readonly string[];
  readonly entries: number;
  /** Of files, without their holes. */
  readonly bytes: number;
  /** Entries of kinds that are not known, which were left out. */
  readonly passed: number;
  readonly sourceBytes: number;
  readonly sourceDigest: string;
}

/** A whole archive on its way into a directory. */
export interface Unpacking extends Intake {
  /** Verifies, flushes, and puts what was unpacked in its place. */
  finish(): Promise<Unpacked>;
  /** Removes what was unpacked. May be called twice. */
  abort(): Promise<void>;
}

/** Looks for the disk in an archive behind the head of its source. */
export interface Probe {
  /** The next bytes of the source, from its beginning; true = enough. Throws what damage shows. */
  push(bytes: Uint8Array): boolean;
  /** Whether the archive hides what is wanted in the layers below it. */
  readonly hides: boolean;
  /** What is inside; `ended` when all of the source was given. Throws NOT_FOUND when there is no such member. */
  finish(ended: boolean): Sniffed;
}

export interface Stop {
  /** May be called twice, and before or after the reading. */
  stop(): void;
}

/** How a program ended. */
export interface EndedProgram {
  /** Undefined where a signal ended it. */
  readonly code?: number;
  /** The last of what it said on standard error. */
  readonly said: string;
}

export interface Native {
  sniff(head: Uint8Array, sourceLength: number | undefined, limits: Limits, told?: Told): Sniffed;
  readonly Probe: new (head: Uint8Array, limits: Limits, told?: Told) => Probe;
  /** Opens and locks; BUSY when another run has it. Creates nothing. */
  openTarget(spec: TargetSpec): Promise<NativeTarget>;
  /** With a probe that found the disk, what it found counts. */
  startConversion(target: NativeTarget, init: ConversionInit, probe?: Probe): Promise<Conversion>;
  /** A disk of `size` bytes of zeros on the target, to be written in any order. */
  beginPatch(
    target: NativeTarget,
    init: { readonly identity: string; readonly size: number; readonly preallocate: boolean },
  ): Promise<Patch>;
  startUnpacking(init: UnpackingInit): Promise<Unpacking>;
  /**
   * What the kernel refuses of the confinement of the engine's threads, as a sentence for people; undefined when it
   * grants all of it, and after the first call in a process.
   */
  sandboxNotice(): string | undefined;
  /**
   * Runs a program, confined to files it may read and a socket that is opened for it. Settled when it has ended, by
   * itself or by `stop`. Fails with UNSUPPORTED where the kernel does not confine it.
   */
  runProgram(
    init: { readonly command: readonly string[]; readonly socket: string; readonly readable: readonly string[] },
    stop: Stop,
  ): Promise<EndedProgram>;
  /** Pairs of offsets: data of an open file within [from, to), at most `most` (2^16) extents. Keep `fd` open meanwhile. */
  fileExtents(fd: number, from: number, to: number, most: number): Promise<Float64Array>;
  /**
   * Pairs of offsets: grains of `grain` bytes (at most 512 KiB) of [from, to) of an open file that are not all zero, adjacent
   * ones as one. Reads all of it. Keep `fd` open meanwhile.
   */
  fileNonzero(fd: number, from: number, to: number, grain: number): Promise<Float64Array>;
  /** Asks a reading to end: it then fails with ABORTED. */
  readonly Stop: new () => Stop;
  /** Disk digest of a file or device, `length` bytes of it (default all). Calls back with bytes done. */
  diskDigest(
    path: string,
    length: number | undefined,
    onProgress: (done: number, total: number) => void,
    stop: Stop,
  ): Promise<{ diskDigest: string; bytes: number }>;
}

interface EngineFailure extends Error {
  code: string;
}

/** An error that the addon threw carries JSON `{code, stage, message, retryable}` as its message. */
export function fromEngine(thrown: unknown): unknown {
  const text = (thrown as EngineFailure | undefined)?.message;
  if (typeof text !== 'string' || !text.startsWith('{"code"')) return thrown;
  const parsed = JSON.parse(text) as { code: Code; stage: Stage; message: string; retryable: boolean };
  return new FerryError(parsed.message, { code: parsed.code, stage: parsed.stage, retryable: parsed.retryable });
}

let loaded: Native | undefined;

/** Loads the addon once. Throws UNSUPPORTED with the remedy when it was not built for this machine. */
export function native(): Native {
  if (loaded) return loaded;
  const name = `diskferry-${process.platform}-${process.arch}.node`;
  const places = ['../../native/', '../native/', './'].map((up) => fileURLToPath(new URL(up + name, import.meta.url)));
  const found = places.find((place) => existsSync(place));
  if (!found) {
    throw new FerryError(
      `the native part of diskferry is not built for ${process.platform}-${process.arch}: install Rust (https://rustup.rs) and run \`npm run build:native\``,
      { code: 'UNSUPPORTED', stage: 'plan' },
    );
  }
  loaded = createRequire(import.meta.url)(found) as Native;
  return loaded;
}

/** Tells once what the kernel refuses of the confinement of the threads that read images. */
export function tellConfinement(log: Log): void {
  const notice = native().sandboxNotice();
  if (notice) log.info(notice);
}
