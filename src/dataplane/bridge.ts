import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Context, Log } from './context.ts';
import { asFerryError, FerryError } from './errors.ts';
import type { Identity } from './identity.ts';
import type { Snapshot } from './meter.ts';
import { type EndedProgram, fromEngine, native, type Sniffed } from './native.ts';
import type { ByteStream, Source } from './source.ts';
import { schemeOf } from './sources/index.ts';
import { nbd } from './sources/nbd.ts';
import type { TransferOptions, TransferReport } from './transfer-options.ts';
import { LONGEST_DESCRIPTOR, rewritten } from './vmdk-extents.ts';

/** What qemu-nbd is told of each kind of image: its driver, never a guess (qemu-block-drivers(7)). */
const DRIVERS: Readonly<Record<string, string>> = {
  luks: 'driver=luks,key-secret=key',
  'qcow2+luks': 'driver=qcow2,encrypt.format=luks,encrypt.key-secret=key',
  'qcow2+aes': 'driver=qcow2,encrypt.format=aes,encrypt.key-secret=key',
  qcow: 'driver=qcow',
  bochs: 'driver=bochs',
  cloop: 'driver=cloop',
  dmg: 'driver=dmg',
  vmdk: 'driver=vmdk',
};
/** Milliseconds that the end of a program may come later than that of its connections. */
const LATER = 500;
/** Exit code of a shell that does not find a program (POSIX, "2.8.2 Exit Status for Commands"). */
const NO_PROGRAM = 127;

type Watch = (snapshot: Snapshot) => void;

/** An image that only QEMU reads. */
export interface Detour {
  readonly detour: string;
  /** Of the source, so that the target is known again by what it came from. */
  readonly identity: Identity;
  /** Path of the image in an archive, where it lies in one. */
  readonly member?: string;
}

/** The detour, where what was given is enough for QEMU to read the image. */
export function detourOf(
  { bridge = '', member }: Pick<Sniffed, 'bridge' | 'member'>,
  options: TransferOptions,
): Omit<Detour, 'identity'> | undefined {
  const driver = DRIVERS[bridge];
  if (driver === undefined || options.scratch === undefined) return undefined;
  const described = bridge !== 'vmdk' || options.extents !== undefined || member !== undefined;
  const open = options.keyFile !== undefined || !driver.includes('key-secret');
  if (!described || !open) return undefined;
  return { detour: bridge, ...(member === undefined ? {} : { member: member.name }) };
}

/**
 * Puts the image into the scratch directory, out of its codecs and verified, and carries the disk from there that a
 * confined qemu-nbd shows. Both can be gone on with. The image goes when the disk is whole.
 */
export async function bridged(
  options: TransferOptions,
  { detour, identity, member }: Detour,
  log: Log,
  signal: AbortSignal,
  watch: Watch,
  carry: (options: TransferOptions, watch: Watch) => Promise<TransferReport>,
): Promise<TransferReport> {
  if (options.source === '-') {
    throw new FerryError('standard input can be read once only: save the image to a file, and import that', {
      code: 'UNSUPPORTED',
      stage: 'plan',
    });
  }
  const { size: _size, qcow2: _qcow2, diskDigest: _diskDigest, claim: _claim, digest, ...rest } = options;
  const hash = createHash('sha256').update(JSON.stringify(identity)).digest('hex').slice(0, 16);
  const image = resolve(options.scratch ?? '', `diskferry-${hash}.image`);
  log.warn(`only QEMU reads this image (${detour}): it is put into ${image} first, and decoded from there`);
  // Done is only the whole.
  const unfinished: Watch = (seen) => watch(seen.phase === 'done' ? { ...seen, phase: 'verifying' } : seen);
  const land = (source: string, target: string, inArchive?: string): Promise<TransferReport> => {
    const { disk: _disk, ...others } = options.sourceOptions;
    const picked = inArchive === undefined ? options.sourceOptions : { ...others, path: inArchive };
    const landing: TransferOptions = {
      ...rest,
      source,
      target,
      sourceOptions: { ...picked, format: 'raw' },
      preallocate: false,
      // Nothing tells whether it still is the same source.
      force: identity.validator === undefined && identity.digest === undefined,
      ...(digest === undefined || source !== options.source ? {} : { digest }),
    };
    return carry(landing, unfinished);
  };
  const landed = await land(options.source, image);
  let files = [image];
  const decoded = async (): Promise<TransferReport> => {
    let whole = identity;
    if (detour === 'vmdk') {
      const extents = (options.extents ?? []).map((one) => ({ source: one, name: nameOf(one) }));
      // What lies beside the descriptor, in the same archive.
      const beside = (name: string): Extent | undefined =>
        member === undefined ? undefined : { source: options.source, path: join(dirname(member), name) };
      const found = (name: string): Extent | undefined => extents.find((one) => one.name === name) ?? beside(name);
      const described = await describedFiles(image, found, land);
      files = described.files;
      whole = wholeOf(identity, described.versions);
    }
    await using server = await QemuServer.start(files, detour, options.keyFile, signal);
    const { digest: _demanded, ...decoding } = options;
    const opened = { open: (context: Context) => server.open(identity.name, hash, context), identity: whole };
    return await carry({ ...decoding, sourceOptions: { format: 'raw' }, opened }, watch);
  };
  const report = await decoded().catch((thrown: unknown) => {
    log.warn(`${image} stays where it is, for the next run: remove it if there is to be none`);
    throw thrown;
  });
  for (const file of [image, ...files]) if (file.startsWith(image)) await rm(file, { force: true });
  const seconds = landed.seconds + report.seconds;
  return {
    ...report,
    way: 'bridge',
    format: detour,
    codecs: landed.codecs,
    sourceBytes: landed.outcome === 'done' ? landed.sourceBytes : (identity.length ?? 0),
    receivedBytes: landed.receivedBytes,
    ...(landed.sourceDigest === undefined ? {} : { sourceDigest: landed.sourceDigest }),
    seconds,
    rate: landed.receivedBytes / seconds,
    retries: landed.retries + report.retries,
    resumes: landed.resumes + report.resumes,
  };
}

/** Where a file is that a descriptor names: an address, and a path in it where that is an archive. */
interface Extent {
  readonly source: string;
  readonly path?: string;
}

/**
 * A descriptor with the files that it names, each put beside it unless it is a file of this machine already: first the
 * descriptor, which names them where they are now. NOT_FOUND for a file that is not `found`. `versions` tells of those that
 * do not come with the descriptor what they are.
 */
async function describedFiles(
  image: string,
  found: (name: string) => Extent | undefined,
  land: (source: string, target: string, inArchive?: string) => Promise<TransferReport>,
): Promise<{ readonly files: string[]; readonly versions: readonly string[] }> {
  if ((await stat(image)).size > LONGEST_DESCRIPTOR) {
    throw new FerryError(`the descriptor of the VMDK is longer than ${LONGEST_DESCRIPTOR} bytes`, {
      code: 'TOO_LARGE',
      stage: 'format',
    });
  }
  const files: string[] = [];
  const versions: string[] = [];
  const text = await rewritten(await readFile(image, 'utf8'), async (name) => {
    const extent = found(name);
    if (extent === undefined) {
      throw new FerryError(`the VMDK names the file ${JSON.stringify(name)}: give it with --extent`, {
        code: 'NOT_FOUND',
        stage: 'format',
      });
    }
    const { source, path } = extent;
    const here = path === undefined && schemeOf(source) === 'file';
    const place = here ? resolve(source) : resolve(`${image}.${files.length}`);
    if (/["\r\n]/.test(place)) {
      throw new FerryError(`a descriptor cannot name ${JSON.stringify(place)}: give it another name`, {
        code: 'BAD_SPEC',
        stage: 'plan',
      });
    }
    if (here) {
      const { size, mtimeNs, ino } = await stat(place, { bigint: true });
      versions.push(`${size} ${mtimeNs} ${ino}`);
    } else {
      const { diskDigest } = await land(source, place, path);
      if (path === undefined) versions.push(diskDigest);
    }
    files.push(place);
    return place;
  });
  const descriptor = `${image}.vmdk`;
  await writeFile(descriptor, text);
  return { files: [descriptor, ...files], versions };
}

/** What tells that a descriptor or one of its files is not what it was: a disk must not be put together of two versions. */
function wholeOf(identity: Identity, versions: readonly string[]): Identity {
  if (versions.length === 0) return identity;
  const version = createHash('sha256').update([identity.validator ?? '', ...versions].join('\n'));
  return { ...identity, validator: version.digest('hex').slice(0, 32) };
}

/** The last part of a path, or of an URL's. */
function nameOf(source: string): string {
  if (schemeOf(source) === 'file') return basename(source);
  const last = URL.parse(source)?.pathname.split('/').at(-1) ?? '';
  try {
    return decodeURIComponent(last);
  } catch {
    return last;
  }
}

/** qemu-nbd over one image, confined (native/engine/src/sandbox/program.rs). */
class QemuServer implements AsyncDisposable {
  readonly #home: string;
  readonly #stop: InstanceType<ReturnType<typeof native>['Stop']>;
  readonly #ended: Promise<FerryError>;
  readonly #gone = new AbortController();
  #dismissed = false;

  private constructor(home: string, command: readonly string[], readable: readonly string[]) {
    this.#home = home;
    this.#stop = new (native().Stop)();
    const running = native().runProgram({ command, socket: join(home, 'socket'), readable }, this.#stop);
    this.#ended = running.then(
      (ended) => failure(ended),
      (thrown: unknown) => asFerryError(fromEngine(thrown), 'format'),
    );
    void this.#ended.then((error) => this.#gone.abort(error));
  }

  /** Over the first of the files, which may name the others. */
  static async start(
    files: readonly string[],
    bridge: string,
    key: string | undefined,
    signal: AbortSignal,
  ): Promise<QemuServer> {
    const [image = ''] = files;
    signal.throwIfAborted();
    // Where nobody else can connect, and short: the path of a socket has 108 bytes (unix(7)). A pod has no other place to
    // write to than its volumes.
    const home = await mkdtemp(join(tmpdir(), 'diskferry-')).catch(() => mkdtemp(`${image}.`));
    const quoted = (path: string): string => path.replaceAll(',', ',,');
    const secret = key === undefined ? [] : ['--object', `secret,id=key,file=${quoted(key)}`];
    const file = `file.driver=file,file.filename=${quoted(image)}`;
    const options = ['--read-only', '--persistent', '--shared=0', '--image-opts', `${DRIVERS[bridge]},${file}`];
    return new QemuServer(home, ['qemu-nbd', ...secret, ...options], key === undefined ? files : [...files, key]);
  }

  /** The disk, as a source of this name that `validator` identifies. */
  async open(name: string, validator: string, context: Context): Promise<Source> {
    const address = `nbd+unix:///?socket=${encodeURIComponent(join(this.#home, 'socket'))}`;
    const signal = AbortSignal.any([context.signal, this.#gone.signal]);
    const disk = await this.#explained(nbd.open(nbd.parse(address, {}), { ...context, signal }));
    const { unidentified: _, ...facts } = disk.facts;
    const read = (range: { from: number; to?: number }, reading: AbortSignal): ByteStream =>
      this.#guarded(disk.read(range, AbortSignal.any([reading, this.#gone.signal])));
    const { extents } = disk;
    return {
      name,
      facts: { ...facts, validator },
      details: { ...disk.details, kind: 'disk that QEMU decodes' },
      read,
      ...(extents === undefined ? {} : { extents: (asking: AbortSignal) => this.#guarded(extents(asking)) }),
      [Symbol.asyncDispose]: () => disk[Symbol.asyncDispose](),
    };
  }

  async *#guarded<T>(stream: AsyncIterable<T>): AsyncIterable<T> {
    try {
      yield* stream;
    } catch (thrown) {
      throw await this.#reason(thrown);
    }
  }

  async #explained<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (thrown) {
      throw await this.#reason(thrown);
    }
  }

  /** Why it ended, where it did: the connection tells only that it is gone. */
  async #reason(thrown: unknown): Promise<unknown> {
    if (this.#dismissed) return thrown;
    const ended = await Promise.race([this.#ended, sleep(LATER, undefined, { ref: false })]);
    if (ended !== undefined) return ended;
    const { code } = asFerryError(thrown, 'format');
    if (code === 'ABORTED' || code === 'STALLED') return thrown;
    // No network is between it and us: it ends connections where it cannot read on.
    return new FerryError('qemu-nbd cannot decode the image to its end: it is damaged, or was cut', {
      code: 'CORRUPT',
      stage: 'format',
      cause: thrown,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#dismissed = true;
    this.#stop.stop();
    await this.#ended;
    await rm(this.#home, { recursive: true, force: true });
  }
}

function failure({ code, said }: EndedProgram): FerryError {
  if (code === NO_PROGRAM) {
    return new FerryError('qemu-nbd is not installed, which decodes this image: `apt-get install qemu-utils`', {
      code: 'UNSUPPORTED',
      stage: 'format',
    });
  }
  const how = code === undefined ? 'was killed, perhaps by its limits of memory and time' : `ended with ${code}`;
  const wrong = /[Ii]nvalid password/.test(said);
  return new FerryError(wrong ? 'the passphrase in --key-file does not open the image' : `qemu-nbd ${how}: ${said}`, {
    code: wrong ? 'ENCRYPTED' : 'CORRUPT',
    stage: 'format',
  });
}
