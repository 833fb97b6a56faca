// Builds what a checkout needs to run: the native part with cargo, the TypeScript with esbuild. `npm ci` calls it as the
// package's `prepare` script, perhaps with an old Node, so it is plain JavaScript for Node 20.
//
//   node scripts/build.mjs [native|ts]
import { spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const LIBRARIES = { linux: 'libdiskferry_addon.so', darwin: 'libdiskferry_addon.dylib', win32: 'diskferry_addon.dll' };

const part = process.argv[2] ?? 'all';
if (!['all', 'native', 'ts'].includes(part)) give(`there is no part "${part}" to build: native or ts`);
if (part !== 'ts') buildNative();
if (part !== 'native') await buildTypeScript();

/** The library, under the name that src/dataplane/native.ts looks for, and the program that scripts/stage.sh takes. */
function buildNative() {
  const library = LIBRARIES[process.platform];
  if (!library) give(`diskferry does not know how libraries are called on ${process.platform}`);
  cargo('build', '-p', 'diskferry-addon');
  place(library, `diskferry-${process.platform}-${process.arch}.node`);
  // It runs in images of others, where no library is. Only pods need it, which are Linux.
  if (process.platform !== 'linux') return;
  cargo('rustc', '-p', 'diskferry-imageserver', '--', '-Ctarget-feature=+crt-static', '-Cstrip=symbols');
  place('diskferry-imageserver', `imageserver-${process.platform}-${process.arch}`);
}

/** One of cargo's commands, on the release build. */
function cargo(command, ...args) {
  const manifest = join(root, 'native', 'Cargo.toml');
  const program = findCargo();
  const all = [command, '--release', '--locked', '--manifest-path', manifest, ...args];
  const { status, error } = spawnSync(program, all, { stdio: 'inherit' });
  if (error)
    give(`${program} cannot be run (${error.message}): install Rust from https://rustup.rs and run npm ci again`);
  if (status !== 0)
    give('cargo could not build the native part; its messages above say why (a C compiler is needed too)');
}

/** Renamed into place: a process that has the old one loaded keeps it, and nobody ever sees half a file. */
function place(built, name) {
  const target = process.env.CARGO_TARGET_DIR ?? join(root, 'native', 'target');
  const at = join(root, 'native', name);
  const draft = `${at}.${process.pid}`;
  copyFileSync(join(target, 'release', built), draft);
  renameSync(draft, at);
}

/** cargo of PATH, else where rustup puts it. */
function findCargo() {
  const { status } = spawnSync('cargo', ['--version'], { stdio: 'ignore' });
  if (status === 0) return 'cargo';
  const home = join(process.env.CARGO_HOME ?? join(homedir(), '.cargo'), 'bin', 'cargo');
  if (existsSync(home)) return home;
  return give('Rust is missing: install it from https://rustup.rs and run npm ci again');
}

/** One ES module and the pieces that it loads when it needs them. */
async function buildTypeScript() {
  const { build } = await import('esbuild').catch(() =>
    give('esbuild is missing: run `npm ci` without --omit=dev, then `npm run build`'),
  );
  const out = join(root, 'dist');
  const draft = `${out}.${process.pid}`;
  rmSync(draft, { recursive: true, force: true });
  await build({
    absWorkingDir: root,
    entryPoints: [
      'src/cli/main.ts',
      'src/importer/main.ts',
      'src/uploader/pod/main.ts',
      'src/uploader/proxy/main.ts',
      'src/controller/main.ts',
      'src/apiserver/main.ts',
    ],
    outbase: 'src',
    outdir: draft,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    // ES modules where a package has both: only what is used of them is bundled.
    mainFields: ['module', 'main'],
    target: 'node22.19',
    sourcemap: true,
    sourcesContent: false,
    logLevel: 'warning',
    // undici is CommonJS and asks for Node's own modules by `require`, which ES modules do not have.
    banner: {
      js: "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);",
    },
    chunkNames: 'cli/[name]-[hash]',
  });
  await build({
    absWorkingDir: root,
    entryPoints: ['src/uploader/page/page.ts'],
    outdir: join(draft, 'page'),
    bundle: true,
    minify: true,
    format: 'esm',
    target: 'es2022',
    logLevel: 'warning',
  });
  for (const file of ['index.html', 'page.css'])
    copyFileSync(join(root, 'src/uploader/page', file), join(draft, 'page', file));
  chmodSync(join(draft, 'cli', 'main.js'), 0o755);
  const old = `${out}.old.${process.pid}`;
  mkdirSync(out, { recursive: true });
  renameSync(out, old);
  renameSync(draft, out);
  rmSync(old, { recursive: true, force: true });
}

/** One sentence, and the end. */
function give(sentence) {
  process.stderr.write(`diskferry: ${sentence}\n`);
  process.exit(1);
}
