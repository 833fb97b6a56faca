import { setTimeout } from 'node:timers/promises';
import { admitBase } from './base.ts';
import { bridged, type Detour, detourOf } from './bridge.ts';
import { diskSize } from './claim.ts';
import { contextOf, type Log } from './context.ts';
import { formatDigest, isStrong } from './digests.ts';
import { readDiskDigest } from './disk-digest.ts';
import { asFerryError, FerryError } from './errors.ts';
import { type Extents, extentsOf } from './extents.ts';
import { feed } from './feed.ts';
import { retrying } from './filters/retry.ts';
import { hostKey } from './hostkey.ts';
import { compareIdentity, type Identity, identityOf, parseIdentity } from './identity.ts';
import { DEFAULT_MEMORY, decoderLimits, transferLimits } from './memory-budget.ts';
import { Meter, type Snapshot } from './meter.ts';
import {
  type ConversionInit,
  fromEngine,
  type Limits,
  type NativeTarget,
  native,
  type Qcow2,
  type Recovered,
  type Report,
  type Sniffed,
  tellConfinement,
} from './native.ts';
import { type Plan, plan, takesExtents, type Way } from './plan.ts';
import { sniff, toldOf } from './sniff.ts';
import type { Digest, Source, SourceFacts } from './source.ts';
import { openSource } from './sources/index.ts';
import { stackFilters } from './stack.ts';
import type { TransferOptions, TransferReport } from './transfer-options.ts';

export type { Snapshot } from './meter.ts';
export type { TransferOptions, TransferReport } from './transfer-options.ts';

/** Milliseconds that a stop waits for the engine's threads. */
const ABORT_WAIT = 700;

/** The way of the bytes: open the source, peek at its head, plan, run the plan, verify, finish. */
export async function transfer(
  options: TransferOptions,
  signal: AbortSignal,
  watch: (snapshot: Snapshot) => void,
  log: Log,
): Promise<TransferReport> {
  const came = await carry(options, signal, watch, log);
  if (!('detour' in came)) return came;
  // What is landed is raw, and so is what QEMU shows of it: neither takes another detour.
  return bridged(
    options,
    came,
    log,
    signal,
    watch,
    (part, seen) => carry(part, signal, seen, log) as Promise<TransferReport>,
  );
}

async function carry(
  options: TransferOptions,
  signal: AbortSignal,
  watch: (snapshot: Snapshot) => void,
  log: Log,
): Promise<TransferReport | Detour> {
  const started = performance.now();
  const context = contextOf(options, signal, log);
  using meter = new Meter(watch, context);
  const engine = native();
  try {
    await using opened = await (options.opened?.open(context) ??
      openSource(options.source, options.sourceOptions, context));
    meter.phase('planning');
    await using target = disposable(
      await engine.openTarget({ path: options.target, key: await journalKeyOf(options) }),
    );
    const digest = options.digest ?? opened.facts.digest;
    const identity =
      options.opened?.identity ??
      identityOf(opened, digest, {
        ...options.sourceOptions,
        ...(options.size === undefined ? {} : { size: options.size }),
        ...(options.qcow2 === undefined ? {} : { output: outputOf(options.qcow2) }),
      });
    const finished = alreadyDone(options, target.native, identity);
    if (finished) return finished;
    const { changedSince, length = 0 } = opened.facts;
    const changes =
      changedSince === undefined
        ? undefined
        : { goesOn: admitBase(target.native, { identity, length, target: options.target, force: options.force }) };

    const source = stackFilters(opened, context, { verified: isStrong(digest) });
    const told = toldOf(opened.facts, options.sourceOptions);
    const { memory } = options;
    const shared = typeof memory === 'object' ? memory : undefined;
    const most = typeof memory === 'object' ? DEFAULT_MEMORY + memory.total : memory;
    const { head, sniffed, probe } = await sniff(source, decoderLimits(most), told, signal);
    const detour = detourOf(sniffed, options);
    if (detour) {
      // Refused now rather than when the image is there. What a descriptor names belongs to its identity, and is not known yet.
      if (detour.detour !== 'vmdk') admit(options, target.native, identity, log);
      return { ...detour, identity };
    }
    using share = shared?.take(sniffed.window);
    const limits = transferLimits(sniffed, share?.memory ?? most);
    const extents = takesExtents(source.facts, sniffed, readsAll(options, digest), options.way)
      ? await retrying(context, () => extentsOf(source, signal))
      : undefined;
    const size = sizeOf(options, opened.facts, sniffed, target.native, identity);
    const decided = decide(
      { ...options, ...(size === undefined ? {} : { size }) },
      source,
      sniffed,
      limits,
      target.native,
      digest,
      extents,
    );
    const held = await heldDisk(options, target.native, sniffed, signal);
    if (held) return doneBefore(options, identity, held);
    const goesOn = changes?.goesOn ?? admit(options, target.native, identity, log);
    const resume = goesOn && !decided.anew && !options.fresh;

    const init: ConversionInit = {
      head,
      told,
      identity: resume ? begunAs(target.native.recovered, identity) : JSON.stringify(identity),
      way: decided.way,
      seekable: decided.seekable,
      wholeSource: decided.wholeSource,
      ...(decided.extents && extents ? { extents: extents.pairs() } : {}),
      onto: changes !== undefined,
      resume,
      preallocate: options.preallocate,
      ...(options.qcow2 === undefined ? {} : { qcow2: options.qcow2 }),
      limits,
      ...(source.facts.length === undefined ? {} : { sourceLength: source.facts.length }),
      ...(size === undefined ? {} : { size }),
      ...(digest === undefined || !decided.wholeSource ? {} : { digest: formatDigest(digest) }),
      ...(options.diskDigest === undefined ? {} : { diskDigest: options.diskDigest }),
      ...(options.opened?.kept === undefined ? {} : { kept: options.opened.kept }),
      ...(options.spill === undefined ? {} : { spillDirectory: options.spill }),
      ...(process.env.DISKFERRY_FAILPOINT === undefined ? {} : { failpoint: process.env.DISKFERRY_FAILPOINT }),
    };
    const conversion = await engine.startConversion(target.native, init, probe);
    tellConfinement(log);
    const resumedAt = conversion.progress().resumedAt;
    const resumes = 'resumes' in target.native.recovered && resume ? target.native.recovered.resumes + 1 : 0;
    const disk = size ?? sniffed.virtualSize;
    meter.measures(
      conversion,
      {
        ...(source.facts.length === undefined ? {} : { source: source.facts.length }),
        ...(disk === undefined ? {} : { disk }),
      },
      resumes,
    );
    meter.phase('moving');
    let report: Report;
    const abort = (): void => void conversion.abort();
    signal.addEventListener('abort', abort, { once: true });
    try {
      await feed(conversion, source, options.connections, signal);
      meter.phase('verifying');
      report = await conversion.finish();
    } catch (thrown) {
      // A disk that hangs in a flush must not keep a person waiting: the journal is consistent at any moment.
      await Promise.race([conversion.abort(), setTimeout(ABORT_WAIT, undefined, { ref: false })]);
      throw thrown;
    } finally {
      signal.removeEventListener('abort', abort);
    }
    meter.phase('done');
    const seconds = (performance.now() - started) / 1000;
    return {
      outcome: 'done',
      source: source.name,
      target: options.target,
      way: decided.way,
      format: sniffed.format,
      codecs: sniffed.codecs,
      receivedBytes: context.counters.received,
      seconds,
      rate: context.counters.received / seconds,
      retries: context.counters.retries,
      ...(resume ? { resumedAt } : {}),
      leftOut: sniffed.leftOut,
      ...(opened.facts.labels === undefined ? {} : { labels: opened.facts.labels }),
      notes: decided.notes,
      ...report,
    };
  } catch (thrown) {
    if (signal.aborted)
      throw new FerryError('the transfer was stopped', { code: 'ABORTED', stage: 'source', cause: thrown });
    throw asFerryError(fromEngine(thrown), 'source');
  }
}

/** How an identity names what is written. */
function outputOf({ cluster, compression }: Qcow2): string {
  return ['qcow2', ...(compression === undefined ? [] : [compression]), cluster].join(' ');
}

function disposable(target: NativeTarget): AsyncDisposable & { readonly native: NativeTarget } {
  return { native: target, [Symbol.asyncDispose]: () => target.close() };
}

function journalKeyOf({ journalKey }: TransferOptions): Promise<Uint8Array> | Uint8Array {
  return journalKey instanceof Uint8Array ? journalKey : hostKey(journalKey.stateDirectory);
}

/**
 * Exact length that the disk is to have; of a claim's file the one that it was begun with, where it goes on. What changes
 * stays as long as it is.
 */
function sizeOf(
  { size, claim }: TransferOptions,
  { changedSince }: SourceFacts,
  sniffed: Sniffed,
  { facts, recovered }: NativeTarget,
  identity: Identity,
): number | undefined {
  if (changedSince !== undefined) return facts.kind === 'file' && facts.exists ? facts.length : undefined;
  if (claim === undefined || facts.kind !== 'file') return size;
  const found = recovered.kind === 'checkpoint' ? parseIdentity(recovered.identity) : undefined;
  if (recovered.kind === 'checkpoint' && found && compareIdentity(found, identity) === 'same') {
    if (recovered.virtualSize !== undefined) return recovered.virtualSize;
  }
  return diskSize(sniffed.virtualSize, facts.capacity, claim);
}

/** Whether every byte of the source is to be read: what only a store promises, of damage, is compared where it can be. */
function readsAll(options: TransferOptions, digest: Digest | undefined): boolean {
  return options.digest !== undefined || isStrong(digest);
}

/** The plan, when it is not to refuse. */
function decide(
  options: TransferOptions,
  source: Source,
  sniffed: Sniffed,
  limits: Limits,
  target: NativeTarget,
  digest: Digest | undefined,
  extents: Extents | undefined,
): Plan & { way: Way } {
  const decided = plan({
    facts: source.facts,
    sniffed,
    holdBack: limits.holdBack ?? 0,
    target: target.facts,
    digest: readsAll(options, digest),
    identified: isStrong(digest),
    diskDigest: options.diskDigest !== undefined,
    preallocate: options.preallocate,
    ...(extents === undefined ? {} : { data: extents.bytes }),
    ...(options.size === undefined ? {} : { size: options.size }),
    ...(options.way === undefined ? {} : { way: options.way }),
    ...(options.spill === undefined ? {} : { spill: options.spill }),
  });
  if (decided.way === 'refuse') {
    const refusal = decided.refusal ?? { code: 'UNSUPPORTED' as const, stage: 'plan' as const, message: decided.why };
    throw new FerryError(refusal.message, refusal);
  }
  return { ...decided, way: decided.way };
}

/** Whether the target may be written, and whether it goes on from a checkpoint. Throws when it holds something else. */
function admit(options: TransferOptions, target: NativeTarget, identity: Identity, log: Log): boolean {
  const { recovered, facts } = target;
  if (recovered.kind === 'checkpoint' || recovered.kind === 'finishing') {
    if (options.fresh) return false;
    const found = parseIdentity(recovered.identity);
    // The last steps of finishing write over the identity: the engine compares its hash.
    if (found === undefined && recovered.kind === 'finishing') return true;
    const likeness = found === undefined ? 'other' : compareIdentity(found, identity);
    if (likeness === 'same') return true;
    if (likeness === 'changed') {
      log.warn('the source has changed since the unfinished transfer on the target began: starting over');
      return false;
    }
    if (options.replace) {
      log.warn('the target holds an unfinished transfer of another source: starting over');
      return false;
    }
    throw new FerryError(
      `${options.target} holds an unfinished transfer of ${found?.name ?? 'another source'}: run that command again to go on, give --fresh to drop it, or see \`diskferry inspect ${options.target}\``,
      { code: 'CHANGED', stage: 'target' },
    );
  }
  if (options.force || options.replace) return false;
  if (recovered.kind === 'foreign') {
    throw new FerryError(
      `${options.target} holds an unfinished transfer that was begun by another host or user: go on there, or give --force to overwrite it`,
      { code: 'DENIED', stage: 'target' },
    );
  }
  if (recovered.kind === 'finished') {
    throw new FerryError(
      `${options.target} holds a finished disk of ${parseIdentity(recovered.identity)?.name ?? 'another source'}: give --force to overwrite it`,
      { code: 'DENIED', stage: 'target' },
    );
  }
  if (facts.foreign !== undefined) {
    throw new FerryError(`${options.target} holds ${facts.foreign}: give --force to overwrite it`, {
      code: 'DENIED',
      stage: 'target',
    });
  }
  return false;
}

/** The identity that the journal was begun with: from another mirror, the same disk has another name. */
function begunAs(recovered: Recovered, identity: Identity): string {
  const found = 'identity' in recovered ? recovered.identity : '';
  return parseIdentity(found) === undefined ? JSON.stringify(identity) : found;
}

/** The report of a file that the same command finished before. */
function alreadyDone(options: TransferOptions, target: NativeTarget, identity: Identity): TransferReport | undefined {
  const { recovered } = target;
  if (recovered.kind !== 'finished' || options.fresh || options.force) return undefined;
  const found = parseIdentity(recovered.identity);
  if (found === undefined || compareIdentity(found, identity) !== 'same') return undefined;
  if (options.diskDigest !== undefined && options.diskDigest !== recovered.diskDigest) return undefined;
  // Without a validator or a digest the source may have changed unseen.
  if (identity.validator === undefined && identity.digest === undefined) return undefined;
  return doneBefore(options, identity, recovered);
}

/** A device keeps no trace of a finished transfer: with `--disk-digest` it is read and compared. */
async function heldDisk(
  options: TransferOptions,
  target: NativeTarget,
  sniffed: Sniffed,
  signal: AbortSignal,
): Promise<{ diskDigest: string; virtualSize: number } | undefined> {
  const { facts, recovered } = target;
  const virtualSize = options.size ?? sniffed.virtualSize;
  const { diskDigest } = options;
  if (facts.kind !== 'block' || recovered.kind !== 'nothing' || options.force || options.fresh) return undefined;
  if (facts.foreign === undefined || diskDigest === undefined || virtualSize === undefined) return undefined;
  const found = await readDiskDigest(options.target, virtualSize, () => undefined, signal);
  return found.diskDigest === diskDigest ? { diskDigest, virtualSize } : undefined;
}

function doneBefore(
  options: TransferOptions,
  identity: Identity,
  disk: { readonly diskDigest: string; readonly virtualSize: number },
): TransferReport {
  return {
    outcome: 'already-done',
    source: identity.name,
    target: options.target,
    way: 'stream',
    format: 'raw',
    codecs: [],
    sourceBytes: 0,
    receivedBytes: 0,
    virtualSize: disk.virtualSize,
    written: 0,
    zeroed: 0,
    skipped: 0,
    reread: 0,
    diskDigest: disk.diskDigest,
    seconds: 0,
    rate: 0,
    resumes: 0,
    retries: 0,
    leftOut: [],
    notes: ['the target holds this disk already'],
  };
}
