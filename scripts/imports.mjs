// Checks the import rules of ARCHITECTURE.md: who may import whom, no cycles, no undeclared package. Part of `npm run lint`.
// (dependency-cruiser cannot read TypeScript with typescript 7 yet, and passes without having seen a file.)
import { readdirSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { dirname, join, posix, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Parts of src, and the other parts that each may import. A new part gets its line here. */
const ALLOWED = {
  api: [],
  kube: ['api'],
  pki: ['api'],
  oci: ['dataplane'],
  dataplane: ['oci', 'api'],
  profile: ['api'],
  controller: ['kube', 'api', 'pki', 'profile'],
  apiserver: ['kube', 'api', 'pki', 'profile'],
  ...Object.fromEntries(['cli', 'uploader', 'cloner', 'store'].map((part) => [part, ['dataplane', 'oci', 'pki']])),
  uploader: ['dataplane', 'store', 'pki', 'kube', 'api'],
  importer: ['dataplane', 'oci', 'pki', 'api'],
  cli: ['dataplane', 'oci', 'store', 'uploader'],
};
/** Controllers decide and pods carry: no file is opened and no native code loaded in these. */
const WITHOUT_FILES = ['controller', 'apiserver', 'kube', 'api', 'profile'];
/** The one exception: who a pod is, and whom it trusts, is told to it in files. */
const PODS_OWN_FILES = 'src/kube/in-cluster.ts';
/** The one file that loads the addon, and types it. */
const DOOR_TO_THE_ENGINE = 'src/dataplane/native.ts';

/** What only types come from is gone when the program runs, and may be of a package for developers. */
const ERASED = /^\s*(?:import|export)\s+type\b/;
const IMPORTS =
  /^\s*(?:import|export)\b[^'";]*?\bfrom\s*'([^']+)'|^\s*import\s*'([^']+)'|\bimport\(\s*'([^']+)'\s*\)|\brequire\(\s*'([^']+)'\s*\)/gm;

/** File (relative to the root, with slashes) → what its text imports, as written. */
function readImports() {
  const files = new Map();
  for (const entry of readdirSync(join(root, 'src'), { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !/\.[cm]?tsx?$/.test(entry.name)) continue;
    const path = join(entry.parentPath ?? entry.path, entry.name);
    const found = [...readFileSync(path, 'utf8').matchAll(IMPORTS)];
    const names = found.map((match) => match.slice(1).find(Boolean));
    const kept = names.filter((name, n) => name.startsWith('.') || !ERASED.test(found[n][0]));
    files.set(relative(root, path).split(sep).join('/'), kept);
  }
  return files;
}

/** Sentences about what breaks the rules. */
export function violations(files, packages) {
  const found = [];
  const edges = new Map();
  for (const [file, names] of files) {
    const part = file.split('/')[1] ?? '';
    if (!(part in ALLOWED))
      found.push(`${file}: src/${part} has no import rules; give it a line in scripts/imports.mjs`);
    const targets = [];
    for (const name of names) {
      if (name.endsWith('.node') && file !== DOOR_TO_THE_ENGINE)
        found.push(`${file}: only ${DOOR_TO_THE_ENGINE} loads the addon`);
      if (name.startsWith('.')) {
        const target = posix.join(dirname(file), name);
        const other = target.split('/')[1] ?? '';
        if (!files.has(target)) found.push(`${file}: imports ${name}, which does not exist`);
        else if (other !== part && !ALLOWED[part]?.includes(other))
          found.push(`${file}: src/${part} must not import src/${other} (${name})`);
        targets.push(target);
      } else if (name.startsWith('node:') || builtinModules.includes(name)) {
        if (!name.startsWith('node:')) found.push(`${file}: write node:${name}`);
        if (WITHOUT_FILES.includes(part) && file !== PODS_OWN_FILES && /^(node:)?fs(\/|$)/.test(name))
          found.push(`${file}: src/${part} opens no files (${name})`);
      } else {
        const owner = name
          .split('/')
          .slice(0, name.startsWith('@') ? 2 : 1)
          .join('/');
        if (!packages.includes(owner)) found.push(`${file}: ${owner} is not among the dependencies of package.json`);
      }
    }
    edges.set(file, targets);
  }
  return [...found, ...cycles(edges)];
}

/** One sentence a cycle, found by depth-first search. */
function cycles(edges) {
  const found = [];
  const state = new Map();
  const visit = (file, trail) => {
    if (state.get(file) === 'done') return;
    if (state.get(file) === 'open') {
      found.push(`a cycle: ${[...trail.slice(trail.indexOf(file)), file].join(' → ')}`);
      return;
    }
    state.set(file, 'open');
    for (const target of edges.get(file) ?? []) visit(target, [...trail, file]);
    state.set(file, 'done');
  };
  for (const file of edges.keys()) visit(file, []);
  return found;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const files = readImports();
  const found = violations(files, Object.keys(dependencies));
  for (const sentence of found) process.stderr.write(`${sentence}\n`);
  process.stdout.write(
    `imports: ${files.size} files, ${found.length} ${found.length === 1 ? 'rule' : 'rules'} broken\n`,
  );
  process.exitCode = found.length > 0 ? 1 : 0;
}
