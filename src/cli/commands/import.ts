import { type Command, Option } from 'commander';
import type { ArchiveOptions, ArchiveReport } from '../../dataplane/archive.ts';
import { FerryError } from '../../dataplane/errors.ts';
import type { Snapshot, TransferOptions, TransferReport } from '../../dataplane/transfer.ts';
import { addSourceFlags, refuseSecretsInArguments, type SourceFlags, sourceOptions } from '../credentials.ts';
import type { ProgressMode } from '../progress.ts';
import { PROGRESS_MODES } from '../progress.ts';
import { count, diskDigest, rate, seconds, size } from '../values.ts';

interface ImportFlags extends SourceFlags {
  readonly size?: number;
  readonly preallocate?: boolean;
  readonly targetFormat: 'raw' | 'qcow2';
  readonly compress?: 'zlib' | 'zstd';
  readonly clusterSize?: number;
  readonly archive?: boolean;
  readonly digest?: string;
  readonly digests?: string;
  readonly diskDigest?: string;
  readonly rate?: number;
  readonly connections: number;
  readonly memory?: number;
  readonly spill?: string;
  readonly scratch?: string;
  readonly keyFile?: string;
  readonly extent?: readonly string[];
  readonly fresh?: boolean;
  readonly force?: boolean;
  readonly stall: number;
  readonly patience: number;
  readonly progress: ProgressMode;
  readonly json?: boolean;
  readonly verbose?: boolean;
  readonly way?: 'stream' | 'seek' | 'spill';
}

const EXAMPLES = `
The same command again goes on where the last one stopped, after a kill or a
power cut too. A finished file is recognised and left alone.

Examples:
  diskferry import https://example.org/ubuntu.qcow2.xz disk.img
  diskferry import http://example.org/disk.raw.gz /dev/vdb --digest sha256:…
  diskferry import https://example.org/disk.img disk.img --digests https://example.org/SHA256SUMS
  diskferry import disk.qcow2 /dev/vdb --size 20Gi --rate 50MB/s
  cat disk.qcow2 | diskferry import - disk.img
  diskferry import s3://bucket/disk.qcow2 /dev/vdb
  diskferry import appliance.ova disk.img
  diskferry import blank:20Gi /dev/vdb
  diskferry import https://example.org/data.tar.zst data --archive
  diskferry import /dev/vdb backup.qcow2 --target-format qcow2 --compress zstd
  diskferry import nbd://host/disk disk.img --changed-since monday

Exit codes: 0 done, 2 the command line is wrong, 10 to 25 by what went wrong,
130 and 143 stopped by a signal. docs/errors.md lists them all.`;

/** Most connections to one server; beyond this nothing gets faster and administrators get angry. */
const MOST_CONNECTIONS = 64;

/** Bytes of a cluster where none are given, as qemu-img has it (docs/interop/qcow2.txt names no default). */
const DEFAULT_CLUSTER = 64 * 1024;

export function defineImport(program: Command): void {
  const command = program
    .command('import')
    .summary('carry an image onto a file or block device')
    .description(
      'Carries a disk image onto a file or a block device: fetched, decompressed,\ndecoded, verified and written in one pass, without scratch space.',
    )
    .argument(
      '<source>',
      'http(s)://, s3://, gs://, az://, docker://, nbd://, imageio+https:// or ovirt+https:// URL, path of a local file, oci:DIRECTORY, oci-archive:FILE or docker-archive:FILE, - for standard input, blank:SIZE or exec:COMMAND',
    )
    .argument('<target>', 'file (made if it does not exist) or block device; with --archive a directory')
    .addOption(new Option('--size <size>', 'make the disk exactly this long, such as 20Gi').argParser(size))
    .option('--preallocate', 'reserve all space of the disk at the start')
    .addOption(
      new Option('--target-format <format>', 'what the target becomes: the disk itself, or a qcow2 file that holds it')
        .choices(['raw', 'qcow2'])
        .default('raw'),
    )
    .addOption(new Option('--compress <how>', 'compress the qcow2 that is written').choices(['zlib', 'zstd']))
    .addOption(new Option('--cluster-size <size>', 'of the qcow2 that is written (default: 64Ki)').argParser(size))
    .option('--archive', 'unpack a tar archive, in any codec, into a directory: all of it or nothing')
    .option('--digest <digest>', 'what the source must hash to: sha256:<hex> or sha512:<hex>')
    .option('--digests <list>', 'file or URL such as SHA256SUMS that has the digest of the source by its name')
    .addOption(new Option('--disk-digest <digest>', 'what the disk must hash to: dd1:<hex>').argParser(diskDigest))
    .addOption(new Option('--rate <rate>', 'fetch at most this much, such as 50MB/s').argParser(rate))
    .addOption(
      new Option('--connections <n>', 'most connections at once').argParser(count(MOST_CONNECTIONS)).default(4),
    )
    .addOption(
      new Option(
        '--memory <size>',
        'allow the process this much, for large windows and data without a place (default: 160Mi)',
      ).argParser(size),
    )
    .option('--spill <directory>', 'where data may wait that arrives before its place is known')
    .option(
      '--scratch <directory>',
      'where an image may be put that only QEMU reads; qemu-nbd then decodes it, confined',
    )
    .option('--key-file <file>', 'its bytes are the passphrase of a LUKS image; with --scratch')
    .option(
      '--extent <file>',
      'a file that the descriptor of a VMDK names, or its URL; once for each; with --scratch',
      (file: string, before: readonly string[] = []) => [...before, file],
    )
    .option('--fresh', 'begin anew, whatever an earlier run left on the target')
    .option('--force', 'overwrite a target that holds something else');
  addSourceFlags(command)
    .addOption(
      new Option('--stall <seconds>', 'silence after which a connection is given up')
        .argParser(seconds)
        .default(30_000, '30'),
    )
    .addOption(
      new Option('--patience <seconds>', 'how long to go on trying without any progress')
        .argParser(seconds)
        .default(120_000, '120'),
    )
    .addOption(
      new Option('--progress <mode>', 'how progress is shown on standard error')
        .choices(PROGRESS_MODES)
        .default('auto'),
    )
    .option('--json', 'print the report as JSON on standard output')
    .option('-v, --verbose', 'say more on standard error')
    .addOption(new Option('--way <way>', 'insist on one way').choices(['stream', 'seek', 'spill']).hideHelp())
    .addHelpText('after', EXAMPLES)
    .action(runImport);
}

async function runImport(source: string, target: string, flags: ImportFlags): Promise<void> {
  refuseSecretsInArguments(source);
  const qcow2 = qcow2Of(flags);
  if (flags.archive) refuseDiskOptions(flags);
  if (flags.changedSince !== undefined && (flags.size !== undefined || qcow2 !== undefined)) {
    throw badOptions('--changed-since leaves a disk as long as it is, and raw: leave out --size and --target-format');
  }
  const [{ howToGoOn, logTo, showProgress }, { listenForStop }] = await Promise.all([
    import('../progress.ts'),
    import('../stop.ts'),
  ]);
  const stop = listenForStop();
  const display = showProgress(process.stderr, flags.progress);
  const log = logTo(display, flags.verbose === true);
  const watch = (snapshot: Snapshot): void => display.update(snapshot);
  const fromSource = await sourceOptions(flags);
  let report: TransferReport | ArchiveReport;
  try {
    const digest = await demandedDigest(source, flags, fromSource, stop.signal, log);
    const carried: ArchiveOptions = {
      source,
      target,
      sourceOptions: fromSource,
      replace: flags.force === true,
      connections: flags.connections,
      stall: flags.stall,
      patience: flags.patience,
      ...(flags.rate === undefined ? {} : { rate: flags.rate }),
      ...(flags.memory === undefined ? {} : { memory: flags.memory }),
      ...(digest === undefined ? {} : { digest }),
    };
    if (flags.archive) {
      const { unpack } = await import('../../dataplane/archive.ts');
      report = await unpack(carried, stop.signal, watch, log);
    } else {
      const { transfer } = await import('../../dataplane/transfer.ts');
      report = await transfer(await diskOptions(carried, flags, qcow2), stop.signal, watch, log);
    }
  } catch (thrown) {
    display.close();
    if (stop.by && thrown instanceof FerryError && thrown.code === 'ABORTED') {
      const goesOn = qcow2 === undefined && !flags.archive;
      throw new FerryError(howToGoOn(display.last, source, goesOn), {
        code: 'ABORTED',
        stage: thrown.stage,
        retryable: true,
        cause: thrown,
      });
    }
    throw thrown;
  }
  display.close();
  const { archiveText, reportText } = await import('../report.ts');
  const text = 'entries' in report ? archiveText(report) : reportText(report);
  process.stdout.write(flags.json ? `${JSON.stringify(report)}\n` : text);
}

async function diskOptions(
  { replace: force, stream: _, ...carried }: ArchiveOptions,
  flags: ImportFlags,
  qcow2: TransferOptions['qcow2'],
): Promise<TransferOptions> {
  const { stateDirectory } = await import('../state.ts');
  return {
    ...carried,
    preallocate: flags.preallocate === true,
    fresh: flags.fresh === true,
    force,
    journalKey: { stateDirectory: stateDirectory() },
    ...(qcow2 === undefined ? {} : { qcow2 }),
    ...(flags.size === undefined ? {} : { size: flags.size }),
    ...(flags.spill === undefined ? {} : { spill: flags.spill }),
    ...(flags.scratch === undefined ? {} : { scratch: flags.scratch }),
    ...(flags.keyFile === undefined ? {} : { keyFile: flags.keyFile }),
    ...(flags.extent === undefined ? {} : { extents: flags.extent }),
    ...(flags.way === undefined ? {} : { way: flags.way }),
    ...(flags.diskDigest === undefined ? {} : { diskDigest: flags.diskDigest }),
  };
}

/** An archive is no disk: what is said of one means nothing to it. BAD_SPEC with the option. */
function refuseDiskOptions(flags: ImportFlags): void {
  const { size, preallocate, diskDigest, spill, scratch, keyFile, extent, fresh } = flags;
  const { path, disk, sourceFormat, changedSince } = flags;
  const ofDisk = { path, disk, sourceFormat, changedSince };
  const given = { size, preallocate, diskDigest, spill, scratch, keyFile, extent, fresh, ...ofDisk };
  const [name] = Object.entries(given).find(([, value]) => value !== undefined) ?? [];
  if (name === undefined && flags.targetFormat === 'raw') return;
  const option = (name ?? 'targetFormat').replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  throw badOptions(`--${option} is for disks: leave it out with --archive`);
}

/** What kind of qcow2 is to be written, if one is. BAD_SPEC where the options do not go together. */
function qcow2Of({ targetFormat, compress, clusterSize, preallocate }: ImportFlags): TransferOptions['qcow2'] {
  if (targetFormat === 'qcow2') {
    if (preallocate) throw badOptions('--preallocate is for raw disks: leave it out for a qcow2');
    return { cluster: clusterSize ?? DEFAULT_CLUSTER, ...(compress === undefined ? {} : { compression: compress }) };
  }
  if (compress === undefined && clusterSize === undefined) return undefined;
  throw badOptions('--compress and --cluster-size are of a qcow2: give --target-format qcow2 too');
}

function badOptions(message: string): FerryError {
  return new FerryError(message, { code: 'BAD_SPEC', stage: 'plan' });
}

async function demandedDigest(
  source: string,
  flags: ImportFlags,
  fromSource: TransferOptions['sourceOptions'],
  signal: AbortSignal,
  log: Parameters<typeof import('../../dataplane/transfer.ts').transfer>[3],
): Promise<TransferOptions['digest']> {
  if (flags.digest === undefined && flags.digests === undefined) return undefined;
  const { digestFromOptions } = await import('../demand.ts');
  return digestFromOptions({ source, ...flags }, fromSource, signal, log);
}
