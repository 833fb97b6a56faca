import { type Command, Option } from 'commander';
import { size } from '../values.ts';

const EXAMPLES = `
It makes a disk of real files, serves it as compressed qcow2 over HTTP on
loopback, imports it while you watch, cuts the connection, kills the import,
goes on, and compares the result with what it made. No connection leaves this
machine; everything lies in a temporary directory that is removed at the end.

Example:
  diskferry demo

Exit codes: 0 the disk is right; otherwise as in docs/errors.md.`;

export function defineDemo(program: Command): void {
  program
    .command('demo')
    .summary('watch an import survive a cut and a kill, on this machine alone')
    .description(
      'Shows an import from beginning to end, with a cut connection and a kill in\nthe middle. Takes less than half a minute.',
    )
    .addOption(
      new Option('--content <size>', 'how much content the disk gets')
        .argParser(size)
        .default(96 * 1024 * 1024, '96MiB'),
    )
    .addHelpText('after', EXAMPLES)
    .action(async (flags: { readonly content: number }) => {
      const [{ demonstrate }, { listenForStop }] = await Promise.all([
        import('../demo/demonstrate.ts'),
        import('../stop.ts'),
      ]);
      await demonstrate(flags.content, listenForStop().signal);
    });
}
