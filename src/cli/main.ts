#!/usr/bin/env node
import { CommanderError } from 'commander';
import { exitCode, OK, USAGE } from './exitcode.ts';
import { describeFailure, failureAsJson } from './failure.ts';
import { buildProgram } from './program.ts';
import { stoppedBy } from './stop.ts';

/** Runs the command line and returns the exit code. */
async function run(argv: readonly string[]): Promise<number> {
  const json = argv.includes('--json');
  try {
    await buildProgram().parseAsync([...argv], { from: 'user' });
    return OK;
  } catch (thrown) {
    if (thrown instanceof CommanderError) {
      // Commander has printed its sentence, or the help or version that was asked for, already.
      if (thrown.exitCode === 0) return OK;
      if (json) {
        const message = thrown.message.replace(/^error: /, '');
        process.stdout.write(
          `${JSON.stringify({ error: { code: 'BAD_SPEC', stage: 'plan', message, retryable: false } })}\n`,
        );
      }
      return USAGE;
    }
    process.stderr.write(describeFailure(thrown, Boolean(process.env.DISKFERRY_DEBUG)));
    if (json) process.stdout.write(failureAsJson(thrown));
    return exitCode(thrown, stoppedBy());
  }
}

// Who reads our output may leave early (`| head`): that is no failure of ours.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
  });
}

// Kept-alive connections must not keep a finished command waiting.
process.exit(await run(process.argv.slice(2)));
