import type { Command } from 'commander';

const EXAMPLES = `
What the transfer has written so far stays on the target, without a table that
would make it bootable; the next import begins anew.

Example:
  diskferry forget disk.img

Exit codes: docs/errors.md.`;

export function defineForget(program: Command): void {
  program
    .command('forget')
    .summary('drop an unfinished transfer from a target')
    .description('Drops the record of an unfinished transfer from a file or block device.')
    .argument('<target>', 'file or block device')
    .option('--json', 'print the answer as JSON on standard output')
    .addHelpText('after', EXAMPLES)
    .action(runForget);
}

async function runForget(target: string, flags: { readonly json?: boolean }): Promise<void> {
  const [{ forget }, { stateDirectory }] = await Promise.all([
    import('../../dataplane/inspect.ts'),
    import('../state.ts'),
  ]);
  const sentence = await forget(target, stateDirectory());
  process.stdout.write(flags.json ? `${JSON.stringify({ target, message: sentence })}\n` : `${sentence}\n`);
}
