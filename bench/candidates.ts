import { spawnSync } from 'node:child_process';
import { FILES, isOutput, type OutputRow, type Row } from './data.ts';

/** A way of getting one image onto the disk, or a limit of the machine. */
export interface Candidate {
  readonly name: string;
  /** Leaves the whole disk in the target, which is then compared with the original. */
  readonly makesDisk: boolean;
  /** For bash, with $url, $file (the same image, local), $payload, $target and $scratch set. */
  readonly script: string;
  /** Tools that must be there. */
  readonly needs: readonly string[];
}

/** Tools that say where data must be, for candidates that do not flush it themselves. */
const FLUSH = 'sync "$target"';
const UNPACK: Partial<Record<Row, { tool: string; command: string }>> = {
  'raw-gz': { tool: 'pigz', command: 'pigz -dc' },
  'raw-zst': { tool: 'zstd', command: 'zstd -dc' },
  'raw-xz': { tool: 'xz', command: 'xz -T0 -dc' },
};

export const DISKFERRY = 'diskferry';
export const LOCAL = 'qemu-img -m 16';
export const LOCAL_W = 'qemu-img -m 16 -W';
export const SCRATCH = 'curl to scratch, qemu-img';
export const PIPE = 'curl, unpack, dd';
export const PLAIN_GZ = 'the same qcow2.gz over HTTP';
export const CURL = 'curl to /dev/null';
export const SHA = 'curl, sha256sum';
export const DIRECT = 'direct write';

/** All candidates for a row; `diskferry` is the command that imports, for bash. */
export function candidatesFor(row: Row, diskferry: string): Candidate[] {
  const ours: Candidate = {
    name: DISKFERRY,
    makesDisk: true,
    script: `exec ${diskferry} import "$url" "$target" --json --progress none`,
    needs: [],
  };
  const received: Candidate = {
    name: CURL,
    makesDisk: false,
    script: 'exec curl -sSf -o /dev/null "$url"',
    needs: ['curl'],
  };
  if (row.startsWith('qcow2')) return [ours, ...convertCandidates('qcow2'), received];
  if (isOutput(row)) return outputCandidates(row, diskferry);
  if (row === 'vmdk') return [ours, ...convertCandidates('vmdk'), received];
  if (row === 'ova') {
    const unpacked = 'tar -xOf "$scratch/image" disk.vmdk >"$scratch/disk.vmdk"';
    const converted = 'qemu-img convert -f vmdk -O raw "$scratch/disk.vmdk" "$target"';
    const script = `curl -sSf -o "$scratch/image" "$url" && ${unpacked} && ${converted} && ${FLUSH}`;
    return [ours, { name: SCRATCH, makesDisk: true, script, needs: ['curl', 'tar', 'qemu-img'] }, received];
  }
  if (row === 'container') return containerCandidates(diskferry);
  const unpack = UNPACK[row];
  if (unpack) return [ours, pipe(`${unpack.command} |`, unpack.tool), received];
  return [
    ours,
    pipe('', 'curl'),
    received,
    { name: SHA, makesDisk: false, script: 'curl -sSf "$url" | sha256sum >/dev/null', needs: ['curl', 'sha256sum'] },
    {
      name: DIRECT,
      makesDisk: false,
      script: 'exec dd if="$payload" of="$target" bs=1M oflag=direct conv=fsync status=none',
      needs: ['dd'],
    },
  ];
}

function containerCandidates(diskferry: string): Candidate[] {
  const image = 'image=docker://$(echo "$url" | cut -d/ -f3)/bench/disk';
  const options = '--json --progress none';
  const found = `blobs=$(dirname "$url")/../blobs; digest=$(curl -sSf "$url" | grep -o 'sha256:[0-9a-f]*')`;
  const copied = 'curl -sSf -o "$scratch/layer" "$blobs/$digest"';
  const unpacked = 'tar -xOzf "$scratch/layer" disk/disk.qcow2 >"$scratch/disk.qcow2"';
  const converted = 'qemu-img convert -f qcow2 -O raw "$scratch/disk.qcow2" "$target"';
  return [
    {
      name: DISKFERRY,
      makesDisk: true,
      script: `${image}; exec ${diskferry} import "$image" "$target" --registry-insecure ${options}`,
      needs: [],
    },
    {
      name: PLAIN_GZ,
      makesDisk: true,
      script: `exec ${diskferry} import "$(dirname "$url")/../blobs/plain.qcow2.gz" "$target" ${options}`,
      needs: [],
    },
    {
      name: SCRATCH,
      makesDisk: true,
      script: `${found} && ${copied} && ${unpacked} && ${converted} && ${FLUSH}`,
      needs: ['curl', 'tar', 'qemu-img'],
    },
  ];
}

/** A qcow2 is written, from the same qcow2 for all: a local one for qemu-img, over HTTP for us. */
function outputCandidates(row: OutputRow, diskferry: string): Candidate[] {
  const how = row.split('-')[2];
  const ours = `--target-format qcow2 ${how === undefined ? '' : `--compress ${how}`} --json --progress none`;
  const options = how === undefined ? '' : `-c -o compression_type=${how}`;
  const convert = (name: string, more: string): Candidate => ({
    name,
    makesDisk: true,
    script: `qemu-img convert -m 16 ${more} -f qcow2 -O qcow2 ${options} "$file" "$target" && ${FLUSH}`,
    needs: ['qemu-img'],
  });
  return [
    { name: DISKFERRY, makesDisk: true, script: `exec ${diskferry} import "$url" "$target" ${ours}`, needs: [] },
    convert(LOCAL, ''),
    convert(LOCAL_W, '-W'),
  ];
}

function pipe(unpack: string, tool: string): Candidate {
  return {
    name: PIPE,
    makesDisk: true,
    script: `curl -sSf "$url" | ${unpack} dd of="$target" bs=1M conv=sparse status=none && ${FLUSH}`,
    needs: ['curl', tool, 'dd'],
  };
}

function convertCandidates(format: 'qcow2' | 'vmdk'): Candidate[] {
  const convert = (name: string, how: string): Candidate => ({
    name,
    makesDisk: true,
    script: `${how} && ${FLUSH}`,
    needs: ['qemu-img'],
  });
  return [
    convert(LOCAL, `qemu-img convert -m 16 -f ${format} -O raw "$file" "$target"`),
    convert(LOCAL_W, `qemu-img convert -m 16 -W -f ${format} -O raw "$file" "$target"`),
    {
      ...convert(
        SCRATCH,
        `curl -sSf -o "$scratch/image" "$url" && qemu-img convert -f ${format} -O raw "$scratch/image" "$target"`,
      ),
      needs: ['curl', 'qemu-img'],
    },
    // With more than one request at a time its curl driver (7.2 with libcurl 7.88) waits for ever.
    convert('qemu-img -m 1 from URL', `qemu-img convert -m 1 -f ${format} -O raw "$url" "$target"`),
    {
      ...convert(
        'nbdkit-curl, qemu-img',
        `nbdkit -U - curl url="$url" --run 'qemu-img convert -m 16 -f ${format} -O raw "$uri" "$target"'`,
      ),
      needs: ['nbdkit', 'qemu-img'],
    },
  ];
}

/** Why a candidate cannot run here, or undefined. */
export function missing(candidate: Candidate): string | undefined {
  const tool = candidate.needs.find((name) => spawnSync('bash', ['-c', `command -v ${name}`]).status !== 0);
  if (tool) return `${tool} is not installed`;
  if (candidate.script.includes('-O raw "$url"') && !qemuReadsHttp()) {
    return 'qemu-img has no driver for http (Debian: qemu-block-extra)';
  }
  if (candidate.script.startsWith('nbdkit') && spawnSync('nbdkit', ['curl', '--dump-plugin']).status !== 0) {
    return 'nbdkit has no curl plugin';
  }
  return undefined;
}

/** Port 9 (discard) answers nobody; without the driver qemu-img does not even try. */
function qemuReadsHttp(): boolean {
  const { stderr } = spawnSync('qemu-img', ['info', 'http://127.0.0.1:9/'], { encoding: 'utf8' });
  return !/Unknown (protocol|driver)/.test(stderr);
}

/** The command line for `measure`. */
export function commandOf(
  candidate: Candidate,
  row: Row,
  places: { url: string; directory: string; payload: string; target: string; scratch: string },
): string[] {
  const variables = {
    url: `${places.url}/${FILES[row]}`,
    file: `${places.directory}/${FILES[row]}`,
    payload: places.payload,
    target: places.target,
    scratch: places.scratch,
  };
  const assignments = Object.entries(variables).map(([name, value]) => `${name}=${value}`);
  return ['env', ...assignments, 'bash', '-c', `set -o pipefail; ${candidate.script}`];
}
