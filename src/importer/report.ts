import { STATUS_CODES } from 'node:http';
import type { FerryError } from '../dataplane/errors.ts';
import { concernsSource, type Job, JobError } from './job.ts';

/** What the kubelet keeps of a termination message (Kubernetes: "Customizing the termination message"). */
const LONGEST = 4096;

/** What CDI's importer says whether the disk is there or scratch space is wanted. */
const COMPLETE = 'Import Complete';

/** How the pod ends: what CDI's controller reads from its termination message and exit code. */
export interface Ending {
  readonly exit: 0 | 1;
  readonly message: string;
}

/** `labels` as far as the message has room for them: one that is longer would be no JSON, and the import tried for ever. */
export function succeeded(preallocated: boolean, labels: Readonly<Record<string, string>> = {}): Ending {
  const result = { scratchSpaceRequired: false, preallocationApplied: preallocated, message: COMPLETE };
  let message = JSON.stringify(result);
  const fitting: Record<string, string> = {};
  for (const [name, value] of Object.entries(labels)) {
    const longer = JSON.stringify({ ...result, labels: { ...fitting, [name]: value } });
    if (Buffer.byteLength(longer) > LONGEST) break;
    fitting[name] = value;
    message = longer;
  }
  return { exit: 0, message };
}

/**
 * One line, as the controller takes only one. A checksum that differs ends with 0, so that the pod is not tried again, and
 * so does what the controller answers with a pod that has a scratch volume; `scratch`: this one has.
 */
export function failed(error: unknown, job: Job | undefined, scratch: boolean): Ending {
  const said = error instanceof Error ? error.message : String(error);
  if (error instanceof JobError || job === undefined) return { exit: 1, message: oneLine(said) };
  const { code } = error as FerryError;
  if (code === 'DIGEST_MISMATCH' && job.checksum) {
    const { algorithm, hex } = job.checksum;
    const calculated = /is ((?:md5|sha\d+):[0-9a-f]+)/.exec(said)?.[1] ?? 'another';
    const mismatch = `checksum validation failed: checksum mismatch: expected ${algorithm}:${hex}, calculated ${calculated}`;
    const place = job.content === 'archive' ? 'directory' : 'file';
    const message = `Unable to process data: Unable to transfer source data to target ${place}: ${mismatch}`;
    return { exit: 0, message: JSON.stringify({ message }) };
  }
  if (code === 'NEEDS_SCRATCH' && !scratch) {
    return {
      exit: 0,
      message: JSON.stringify({ scratchSpaceRequired: true, preallocationApplied: false, message: COMPLETE }),
    };
  }
  if (job.kind === 'none') return { exit: 1, message: oneLine(`Unable to create blank image: ${said}`) };
  // What is tried again in vain is told as an image that could not be pulled (the controller's ImagePullFailed).
  if (job.kind === 'registry' && concernsSource(error as FerryError)) {
    return { exit: 1, message: oneLine(`Unable to process data: failed to pull image: ${said}`) };
  }
  if (concernsSource(error as FerryError)) {
    return { exit: 1, message: oneLine(`Unable to connect to ${job.kind} data source: ${inStatus(job, said)}${said}`) };
  }
  if (code === 'NO_SPACE')
    return { exit: 1, message: oneLine(`Unable to process data: no space left on device: ${said}`) };
  return { exit: 1, message: oneLine(`Unable to process data: ${said}`) };
}

/** CDI's words for an answer of a web server that is no image, which clients look for. */
function inStatus({ kind }: Job, said: string): string {
  const status = kind === 'http' ? / answered ([45]\d\d)\b/.exec(said)?.[1] : undefined;
  if (status === undefined) return '';
  return `expected status code 200, got ${status}. Status: ${status} ${STATUS_CODES[status] ?? ''}: `;
}

function oneLine(text: string): string {
  return text.replace(/\s*[\r\n]+\s*/g, ' ').slice(0, LONGEST);
}
