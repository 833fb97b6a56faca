// Programs that are run to their end, within a time.
import { spawn } from 'node:child_process';
import { once } from 'node:events';

export interface CommandOptions {
  /** Until it is killed. */
  readonly seconds?: number;
  readonly stdin?: string | Uint8Array;
}

/** What it wrote. Throws with what it complained of. */
export async function command(
  program: string,
  args: readonly string[],
  { seconds = 60, stdin }: CommandOptions = {},
): Promise<string> {
  return (await bytesOf(program, args, { seconds, ...(stdin === undefined ? {} : { stdin }) })).toString();
}

/** The same in bytes. */
export async function bytesOf(
  program: string,
  args: readonly string[],
  { seconds = 60, stdin }: CommandOptions = {},
): Promise<Buffer> {
  const child = spawn(program, [...args], { timeout: seconds * 1000, killSignal: 'SIGKILL' });
  const [out, complaints]: [Buffer[], Buffer[]] = [[], []];
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => complaints.push(chunk));
  // It may end without having read everything: how it ended says more than EPIPE.
  child.stdin.on('error', () => undefined);
  child.stdin.end(stdin ?? '');
  const [code, signal]: [number | null, NodeJS.Signals | null] = (await once(child, 'close')) as never;
  if (code === 0) return Buffer.concat(out);
  const how = signal === null ? `ended with ${code}` : `was ended by ${signal}, perhaps after its ${seconds} s`;
  const said = Buffer.concat([...complaints, ...out])
    .toString()
    .trim();
  throw new Error(`${program} ${args.join(' ')} ${how}: ${said.slice(-4000)}`);
}
