import { FerryError } from '../dataplane/errors.ts';

/** What people read on stderr: the sentence, then a line that names code and stage. */
export function describeFailure(thrown: unknown, debug: boolean): string {
  const lines: string[] = [];
  if (thrown instanceof FerryError) {
    lines.push(`diskferry: ${thrown.message}`);
    const retry = thrown.retryable ? ', may succeed when tried again' : '';
    lines.push(`           ${thrown.code} (${thrown.stage})${retry}`);
  } else {
    lines.push(`diskferry: unexpected error: ${thrown instanceof Error ? thrown.message : String(thrown)}`);
    lines.push('           this is a defect; DISKFERRY_DEBUG=1 shows where it happened');
  }
  if (debug && thrown instanceof Error) {
    for (let at: unknown = thrown; at instanceof Error; at = at.cause) lines.push(at.stack ?? at.message);
  }
  return `${lines.join('\n')}\n`;
}

/** The same for programs: one line on stdout with `--json`. */
export function failureAsJson(thrown: unknown): string {
  const error =
    thrown instanceof FerryError
      ? { code: thrown.code, stage: thrown.stage, message: thrown.message, retryable: thrown.retryable }
      : {
          code: 'UNEXPECTED',
          stage: 'plan',
          message: thrown instanceof Error ? thrown.message : String(thrown),
          retryable: false,
        };
  return `${JSON.stringify({ error })}\n`;
}
