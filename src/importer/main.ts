// The import pod: what its environment says, done once; how it went, in the termination message.
import { accessSync, constants, existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { chmod, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { unpack } from '../dataplane/archive.ts';
import { FerryError } from '../dataplane/errors.ts';
import { scratchOf } from '../dataplane/scratch.ts';
import type { Snapshot } from '../dataplane/transfer.ts';
import { transfer } from '../dataplane/transfer.ts';
import { tlsRulesIn } from '../pki/tls.ts';
import { labelsServed } from './image-server.ts';
import { type Job, JobError, jobOf, type Mounts } from './job.ts';
import { type Metrics, serveMetrics } from './metrics.ts';
import { type Ending, failed, succeeded } from './report.ts';

/** Where everything is in a pod; tests put another directory in front. */
const ROOT = process.env.DISKFERRY_ROOT ?? '';
const DEVICE = join(ROOT, '/dev/cdi-block-volume');
const DIRECTORY = join(ROOT, '/data');
const FILE = join(DIRECTORY, 'disk.img');
/** Mounted when an earlier pod said that it needs it. */
const SCRATCH = join(ROOT, '/scratch');
const TERMINATION = join(ROOT, '/dev/termination-log');
const HEADERS = join(ROOT, '/extraheaders');
const METRICS_PORT = Number(process.env.DISKFERRY_METRICS_PORT ?? 8443);
/** Owner and group may write a disk, as virt-launcher wants it (CDI: 0660). */
const MODE = 0o660;

const mounts: Mounts = {
  certificates: (directory) => {
    const files = filesIn(join(ROOT, directory)).map((path) => readFileSync(path, 'utf8'));
    const found = files.filter((text) => text.includes('-----BEGIN CERTIFICATE-----'));
    return found.length === 0 ? undefined : found.join('\n');
  },
  headers: () =>
    (existsSync(HEADERS) ? readdirSync(HEADERS).sort(byNumber) : []).flatMap((n) =>
      filesIn(join(HEADERS, n)).map((path) => readFileSync(path, 'utf8').replace(/\r?\n$/, '')),
    ),
};

const byNumber = (a: string, b: string): number => Number(a) - Number(b);

/** Regular files of a mounted secret or map; what begins with a dot is Kubernetes' own. */
function filesIn(directory: string): string[] {
  if (!existsSync(directory)) return [];
  const names = readdirSync(directory).filter((name) => !name.startsWith('.'));
  return names.map((name) => join(directory, name)).filter((path) => statSync(path).isFile());
}

/** In each line, and in those of the controller about the same DataVolume. */
const id = process.env.DISKFERRY_CORRELATION_ID ? ` id=${process.env.DISKFERRY_CORRELATION_ID}` : '';
const say = (message: string): void => void process.stderr.write(`${new Date().toISOString()}${id} ${message}\n`);
const log = { info: say, warn: say };

async function run(signal: AbortSignal): Promise<Ending> {
  let job: Job | undefined;
  let metrics: Metrics | undefined;
  try {
    job = jobOf(process.env, mounts);
    const page = await serveMetrics(METRICS_PORT, job.owner, tlsRulesIn(process.env));
    metrics = page;
    const target = targetOf(job);
    say(`importing ${job.kind} into ${target}`);
    const labels = job.served && (await labelsServed(job.served, signal));
    const carried = {
      source: job.source,
      target,
      sourceOptions: job.options,
      connections: 4,
      replace: true,
      guard: job.guard,
      ...(job.checksum ? { digest: job.checksum } : {}),
    };
    const watch = (snapshot: Snapshot): void => told(snapshot, page);
    const { preallocate, claim, journalKey } = job;
    const place = scratchOf(SCRATCH);
    const scratch = place === undefined ? {} : { scratch: place, spill: place };
    const disk = { ...carried, ...scratch, preallocate, claim, journalKey, fresh: false, force: false };
    const report = await (job.content === 'archive'
      ? unpack(carried, signal, watch, log)
      : transfer(disk, signal, watch, log));
    if (target === FILE) await settle(FILE);
    page.progress = 100;
    say(`done: ${JSON.stringify({ ...report, source: undefined })}`);
    return succeeded(job.preallocate, labels ?? ('labels' in report ? report.labels : {}));
  } catch (error) {
    if (signal.aborted) return { exit: 1, message: String(signal.reason?.message ?? signal.reason) };
    return failed(error, job, scratchOf(SCRATCH) !== undefined);
  } finally {
    await metrics?.[Symbol.asyncDispose]();
  }
}

/** Throws JobError where there is no place for what is to be imported. */
function targetOf(job: Job): string {
  const device = existsSync(DEVICE);
  if (device) checkDevice();
  if (job.content === 'kubevirt') return device ? DEVICE : FILE;
  if (device) throw new JobError('an archive is unpacked into a file system: the volume mode of the claim is Block');
  return DIRECTORY;
}

/**
 * Before any traffic: a pod that is not root gets its device only where the node's runtime hands it over (Kubernetes blog,
 * "Non-root Containers And Devices"). Throws JobError with the setting.
 */
function checkDevice(): void {
  try {
    accessSync(DEVICE, constants.R_OK | constants.W_OK);
  } catch (cause) {
    const node = process.env.NODE_NAME ? `on node ${process.env.NODE_NAME}` : 'of its node';
    throw new JobError(
      `the volume's device cannot be written as user ${process.getuid?.()}: the container runtime ${node} does not hand devices over; set device_ownership_from_security_context = true there (containerd 1: under [plugins."io.containerd.grpc.v1.cri"]; containerd 2: under [plugins."io.containerd.cri.v1.runtime"]; CRI-O: under [crio.runtime]) and restart it, or use volumeMode Filesystem`,
      { cause },
    );
  }
}

/** 100 comes only when the disk is verified. */
function told(snapshot: Snapshot, metrics: Metrics): void {
  const { source } = snapshot;
  metrics.seen = snapshot;
  if (source.length) metrics.progress = Math.min(99, Math.floor((100 * source.bytes) / source.length));
}

/** The disk and its mode are on the volume before the pod says so. */
async function settle(path: string): Promise<void> {
  await chmod(path, MODE);
  await using file = await open(path, 'r+');
  await file.sync();
}

const stop = new AbortController();
for (const name of ['SIGTERM', 'SIGINT'] as const) {
  process.on(name, () => stop.abort(new FerryError(`stopped by ${name}`, { code: 'ABORTED', stage: 'plan' })));
}
try {
  const { exit, message } = await run(stop.signal);
  say(message);
  await writeFile(TERMINATION, message, { mode: 0o600 });
  // A server in this pod is to end, too, where it does not by itself (CDI); after an error it is needed again.
  const { IMPORTER_DONE_FILE: done } = process.env;
  if (exit === 0 && done) await writeFile(join(ROOT, done), '');
  process.exitCode = exit;
} catch (error) {
  // A message that could not be written: the pod is started again and goes on.
  say(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
