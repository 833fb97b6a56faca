// Writes the tables of options into docs/use.md from the commands themselves, between markers. Wants Node 24, as npm
// scripts have it.
//
//   node scripts/docs.mjs            write
//   node scripts/docs.mjs --check    fail where the page is not what would be written
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { buildProgram } from '../src/cli/program.ts';

const page = fileURLToPath(new URL('../docs/use.md', import.meta.url));

const cell = (text) => text.replaceAll('|', '\\|');
const prose = (text) => cell(text).replaceAll('<', '&lt;');
const code = (text) => `\`${text}\``;

/** A Markdown table of what `diskferry <command> --help` lists. */
function table(command) {
  const help = command.createHelp();
  const rows = [
    ...help
      .visibleArguments(command)
      .map((argument) => [code(help.argumentTerm(argument)), help.argumentDescription(argument)]),
    ...help.visibleOptions(command).map((option) => [code(help.optionTerm(option)), help.optionDescription(option)]),
  ];
  const usage = `\`\`\`\n${help.commandUsage(command)}\n\`\`\`\n\n`;
  return `${usage}| | |\n|---|---|\n${rows.map(([term, text]) => `| ${cell(term)} | ${prose(text)} |\n`).join('')}`;
}

const before = readFileSync(page, 'utf8');
const program = buildProgram();
const missing = new Set(program.commands.map((command) => command.name()));
const after = before.replaceAll(/(<!-- options of (\w+) -->\n)[\s\S]*?(<!-- end -->)/g, (_, open, name, close) => {
  const command = program.commands.find((one) => one.name() === name);
  if (!command) throw new Error(`docs/use.md has a table for "${name}", which is no command`);
  missing.delete(name);
  return `${open}${table(command)}${close}`;
});

if (missing.size > 0) fail(`docs/use.md has no table of options for: ${[...missing].join(', ')}`);
else if (!process.argv.includes('--check')) writeFileSync(page, after);
else if (after !== before) fail('docs/use.md is not what the commands say: run `npm run docs` and commit it');

function fail(sentence) {
  process.stderr.write(`${sentence}\n`);
  process.exitCode = 1;
}
