import type { Claim } from './claim.ts';
import type { Context } from './context.ts';
import type { Guard } from './guard.ts';
import type { Identity } from './identity.ts';
import type { SharedWindows } from './memory-budget.ts';
import type { Qcow2 } from './native.ts';
import type { Pace } from './pace.ts';
import type { Way } from './plan.ts';
import type { Digest, Source, SourceOptions } from './source.ts';

export interface TransferOptions {
  readonly source: string;
  readonly target: string;
  readonly sourceOptions: SourceOptions;
  /** Exact length of the disk, bytes. */
  readonly size?: number;
  readonly preallocate: boolean;
  /** The target becomes a qcow2 file with the disk in it. */
  readonly qcow2?: Qcow2;
  /** Bytes a second, or what several transfers share. */
  readonly rate?: number | Pace;
  readonly connections: number;
  /** Bytes that the whole process may use, default 160 MiB; or what several transfers of a process share for windows. */
  readonly memory?: number | SharedWindows;
  /** Ignore what an earlier run left. */
  readonly fresh: boolean;
  /** Overwrite what is not ours. */
  readonly force: boolean;
  readonly digest?: Digest;
  /** `dd1:<hex>`. */
  readonly diskDigest?: string;
  /** Directory for clusters that have no place yet. */
  readonly spill?: string;
  readonly way?: Way;
  /** Overwrite whatever is not of this source, unfinished transfers of others too; go on where it is. */
  readonly replace?: boolean;
  /** The target is a claim's volume: a file's disk fills what is usable of it. */
  readonly claim?: Claim;
  /** 32 bytes that authenticate the journal; or the directory that holds this host's key. */
  readonly journalKey: Uint8Array | { readonly stateDirectory: string };
  /** Milliseconds; see TransportLimits. */
  readonly stall?: number;
  readonly patience?: number;
  /** Directory with room for an image that only QEMU reads. */
  readonly scratch?: string;
  /** Files that the descriptor of a VMDK may name: addresses as `source` is one. */
  readonly extents?: readonly string[];
  /** File whose bytes are the passphrase of an encrypted image. */
  readonly keyFile?: string;
  /** The source, already opened, and what it is known as: for what is not at an address. */
  readonly opened?: {
    readonly open: (context: Context) => Promise<Source>;
    readonly identity: Identity;
    /** File for what must be remembered of it, because it cannot be read again. */
    readonly kept?: string;
  };
  /** Which addresses may be connected to. Absent = all. */
  readonly guard?: Guard;
}

export interface TransferReport {
  readonly outcome: 'done' | 'already-done';
  readonly source: string;
  readonly target: string;
  readonly way: Way | 'bridge';
  readonly format: string;
  readonly codecs: readonly string[];
  readonly sourceBytes: number;
  /** Bytes that came from the source in this run, retries included. */
  readonly receivedBytes: number;
  readonly virtualSize: number;
  readonly written: number;
  readonly zeroed: number;
  readonly skipped: number;
  /** Bytes read back from the target to complete the disk digest. */
  readonly reread: number;
  readonly sourceDigest?: string;
  readonly diskDigest: string;
  readonly seconds: number;
  /** Bytes received a second, on average. */
  readonly rate: number;
  readonly resumes: number;
  readonly retries: number;
  /** Source offset that this run went on from. */
  readonly resumedAt?: number;
  readonly leftOut: readonly string[];
  /** Labels that the image asks for. */
  readonly labels?: Readonly<Record<string, string>>;
  readonly notes: readonly string[];
}
