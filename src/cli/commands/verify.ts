import { type Command, Option } from 'commander';
import { diskDigest, size } from '../values.ts';

interface VerifyFlags {
  readonly diskDigest?: string;
  readonly size?: number;
  readonly json?: boolean;
}

const EXAMPLES = `
Examples:
  diskferry verify disk.img                                    print its disk digest
  diskferry verify /dev/vdb --size 20Gi --disk-digest dd1:…    a disk that is shorter than its device

Exit codes: 0 the digest is the one given, or none was given; 23 it is another;
otherwise as in docs/errors.md. docs/disk-digest.md says how it is computed.`;

export function defineVerify(program: Command): void {
  program
    .command('verify')
    .summary('compute the disk digest of a file or device')
    .description(
      'Reads a disk and computes its disk digest, the same that the report of an\nimport has, whatever format the image had.',
    )
    .argument('<target>', 'file or block device')
    .addOption(new Option('--disk-digest <digest>', 'what it must be: dd1:<hex>').argParser(diskDigest))
    .addOption(new Option('--size <size>', 'length of the disk, where the device is longer').argParser(size))
    .option('--json', 'print the answer as JSON on standard output')
    .addHelpText('after', EXAMPLES)
    .action(runVerify);
}

async function runVerify(target: string, flags: VerifyFlags): Promise<void> {
  const [{ listenForStop }, { verify }, { FerryError }, { formatExactSize, formatSize }, { columns }] =
    await Promise.all([
      import('../stop.ts'),
      import('../../dataplane/inspect.ts'),
      import('../../dataplane/errors.ts'),
      import('../../dataplane/sizes.ts'),
      import('../report.ts'),
    ]);
  let drawn = 0;
  const draw = (text: string) => {
    if (!process.stderr.isTTY) return;
    process.stderr.write(`\r${text.padEnd(drawn)}`);
    drawn = text.length;
  };
  const { signal } = listenForStop();
  const onProgress = (done: number, total: number) => draw(`reading ${formatSize(done)} of ${formatSize(total)}`);
  const result = await verify(target, flags.diskDigest, flags.size, onProgress, signal).finally(() => {
    if (drawn > 0) process.stderr.write(`\r${' '.repeat(drawn)}\r`);
  });
  if (result.matches === false) {
    throw new FerryError(
      `${target} does not hold the disk that was asked for: its ${result.bytes} bytes have ${result.diskDigest}, and ${flags.diskDigest} was given`,
      { code: 'DIGEST_MISMATCH', stage: 'verify' },
    );
  }
  if (flags.json) {
    process.stdout.write(`${JSON.stringify(result)}\n`);
    return;
  }
  process.stdout.write(
    columns([
      ['disk', `${target}, ${formatExactSize(result.bytes)}`],
      ['disk digest', result.diskDigest],
      ['verified', result.matches ? 'it is the one that was asked for' : undefined],
    ]),
  );
}
