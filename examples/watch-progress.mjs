// Runs an import and follows it: node watch-progress.mjs <source> <target>
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

const [source, target] = process.argv.slice(2);
const child = spawn('diskferry', ['import', source, target, '--json', '--progress', 'json'], {
  stdio: ['ignore', 'pipe', 'pipe'],
});

// One object a line on standard error while it runs; docs/use.md has the fields.
createInterface(child.stderr).on('line', (line) => {
  if (!line.startsWith('{')) return;
  const { progress, note } = JSON.parse(line);
  if (note) console.log(`note: ${note}`);
  if (progress) console.log(`${progress.phase} ${progress.percent ?? '?'} %, waiting for ${progress.bottleneck}`);
});

// One object on standard output at the end: the report, or what went wrong.
let output = '';
child.stdout.on('data', (chunk) => {
  output += chunk;
});
child.on('close', (code) => {
  const report = output === '' ? {} : JSON.parse(output);
  if (report.error) console.error(`failed (${report.error.code}): ${report.error.message}`);
  else console.log(`${report.outcome}: ${report.virtualSize} bytes, ${report.diskDigest}`);
  process.exitCode = code ?? 1;
});
