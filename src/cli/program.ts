import { Command } from 'commander';
import { defineDemo } from './commands/demo.ts';
import { defineForget } from './commands/forget.ts';
import { defineImport } from './commands/import.ts';
import { defineInspect } from './commands/inspect.ts';
import { defineServe } from './commands/serve.ts';
import { defineUpload } from './commands/upload.ts';
import { defineVerify } from './commands/verify.ts';
import { version } from './root.ts';

const OVERVIEW = `
Examples:
  diskferry import https://example.org/ubuntu.qcow2.xz disk.img
  diskferry import http://example.org/disk.raw.gz /dev/vdb --digest sha256:…
  diskferry inspect https://example.org/disk.qcow2
  diskferry serve --data /srv/disks --open
  diskferry upload disk.img http://127.0.0.1:8090/volumes/disk
  diskferry demo

Exit codes: 0 done, 2 the command line is wrong, 10 to 25 by what went wrong,
130 and 143 stopped by a signal. docs/errors.md lists them all.`;

/** The whole command line. Actions load what they need when they run, so that `--help` costs nothing. */
export function buildProgram(): Command {
  const program = new Command('diskferry')
    .description(
      'Carries disk images from the network onto files and block devices in one pass:\nstreamed, decoded, verified, resumable.',
    )
    .version(version(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .helpCommand('help [command]', 'print the help of a command')
    .addHelpText('after', OVERVIEW);
  for (const define of [defineImport, defineInspect, defineVerify, defineForget, defineServe, defineUpload, defineDemo])
    define(program);
  for (const command of [program, ...program.commands]) {
    command
      .exitOverride()
      .helpOption('-h, --help', 'print this help')
      .showHelpAfterError(
        command === program ? '(see `diskferry --help`)' : `(see \`diskferry ${command.name()} --help\`)`,
      )
      .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'diskferry: ')) });
  }
  return program;
}
