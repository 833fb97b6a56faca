import { type Command, Option } from 'commander';
import { addSourceFlags, refuseSecretsInArguments, type SourceFlags, sourceOptions } from '../credentials.ts';

interface InspectFlags extends SourceFlags {
  readonly as?: 'source' | 'target';
  readonly json?: boolean;
  readonly verbose?: boolean;
}

const EXAMPLES = `
A URL or - is looked at as a source: the image, the server and the plan that
import would choose. A device, and a file on which a transfer was begun or
finished, is looked at as a target. Nothing is ever written.

Examples:
  diskferry inspect https://example.org/disk.qcow2
  diskferry inspect https://example.org/disk.qcow2.xz /dev/vdb     will it fit there?
  diskferry inspect disk.img                                       how far is it?

Exit codes: 0 also where import would refuse the image (the answer says so);
otherwise as in docs/errors.md.`;

export function defineInspect(program: Command): void {
  const command = program
    .command('inspect')
    .summary('show what an image is and how it would be imported')
    .description(
      'Shows what an image is, whether it fits and can be resumed, from at most\n1 MiB of traffic; or what a target holds.',
    )
    .argument('<what>', 'source as for import, or a target')
    .argument('[target]', 'where it would go: the answer says whether it fits')
    .addOption(new Option('--as <end>', 'look at a local file or device as this').choices(['source', 'target']));
  addSourceFlags(command)
    .option('--json', 'print the answer as JSON on standard output')
    .option('-v, --verbose', 'say more on standard error')
    .addHelpText('after', EXAMPLES)
    .action(runInspect);
}

async function runInspect(what: string, target: string | undefined, flags: InspectFlags): Promise<void> {
  refuseSecretsInArguments(what);
  const [{ logTo, showProgress }, { listenForStop }, { stateDirectory }, { inspectSource, inspectTarget }, text] =
    await Promise.all([
      import('../progress.ts'),
      import('../stop.ts'),
      import('../state.ts'),
      import('../../dataplane/inspect.ts'),
      import('../inspection.ts'),
    ]);
  if (await isTarget(what, target, flags)) {
    const found = await inspectTarget(what, stateDirectory());
    // A file that no transfer has touched is more likely an image that somebody wants to import.
    if (flags.as === 'target' || found.kind === 'block' || !['nothing', 'foreign'].includes(found.recovered.kind)) {
      process.stdout.write(flags.json ? `${JSON.stringify({ target: found })}\n` : text.targetText(found));
      return;
    }
  }
  const destination = target === undefined ? undefined : { path: target, stateDirectory: stateDirectory() };
  const log = logTo(showProgress(process.stderr, 'none'), flags.verbose === true);
  const { signal } = listenForStop();
  const found = await inspectSource(what, await sourceOptions(flags), destination, signal, log);
  process.stdout.write(flags.json ? `${JSON.stringify(found)}\n` : text.sourceText(found));
}

async function isTarget(what: string, target: string | undefined, flags: InspectFlags): Promise<boolean> {
  if (flags.as) return flags.as === 'target';
  if (target !== undefined || what === '-' || /^[a-z][a-z0-9+.-]*:\/\//i.test(what)) return false;
  const { existsSync } = await import('node:fs');
  return existsSync(what);
}
