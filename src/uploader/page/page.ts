// The page of `diskferry serve`: sends files, imports addresses, shows what there is.
import type { Volume } from '../../store/volume.ts';
import { guess, readable } from './image.ts';
import { messageOf, Refused, Sender } from './sender.ts';

const find = <T extends HTMLElement = HTMLElement>(id: string): T => document.getElementById(id) as T;
const [file, name, size, send] = [
  find<HTMLInputElement>('file'),
  find<HTMLInputElement>('name'),
  find<HTMLInputElement>('size'),
  find<HTMLButtonElement>('send'),
];
const [bar, doing, pause, problem] = [
  find<HTMLProgressElement>('bar'),
  find('doing'),
  find<HTMLButtonElement>('pause'),
  find('problem'),
];
/** Where the browser remembers an upload that was not finished. */
const KEPT = 'diskferry-upload';

interface Kept {
  readonly file: string;
  readonly length: number;
  readonly modified: number;
  readonly volume: string;
  readonly place: string;
}

let free: number | undefined;
let sender: Sender | undefined;

function kept(): Kept | undefined {
  const text = localStorage.getItem(KEPT);
  return text === null ? undefined : (JSON.parse(text) as Kept);
}

function tell(message: string | undefined): void {
  problem.hidden = message === undefined;
  problem.textContent = message ?? '';
}

function showUnfinished(): void {
  const before = kept();
  const line = find('unfinished');
  line.hidden = before === undefined || sender !== undefined;
  if (before)
    line.textContent = `The upload of ${before.file} into ${before.volume} is not finished: choose the file again to go on.`;
}

async function chosen(): Promise<void> {
  const one = file.files?.[0];
  send.disabled = one === undefined || sender !== undefined;
  tell(undefined);
  if (!one) return;
  const before = kept();
  const same = before && before.file === one.name && before.length === one.size && before.modified === one.lastModified;
  name.value = same
    ? before.volume
    : one.name
        .replace(/\.(img|raw|qcow2|vmdk|vhdx?|vdi|gz|xz|zst|bz2|lz4|sz|tar|ova)\b/gi, '')
        .replace(/[^A-Za-z0-9._-]/g, '-')
        .replace(/^[.-]+/, '') || 'disk';
  const found = guess(new Uint8Array(await one.slice(0, 4096).arrayBuffer()), one.size);
  const parts = [`${one.name}: ${found.kind}, ${readable(one.size)}`];
  if (found.size !== undefined) parts.push(`a disk of ${readable(found.size)}`);
  if (free !== undefined && one.size > free && found.kind === 'raw disk')
    parts.push(`which is more than the ${readable(free)} that are free, unless it has holes`);
  find('found').textContent = `${parts.join(', ')}.`;
  if (same && !sender) upload(one, before);
}

function upload(one: File, before?: Kept): void {
  const volume = before?.volume ?? name.value;
  const query = size.value === '' ? '' : `?size=${encodeURIComponent(size.value)}`;
  void run(new Sender(one, { volume, query }, before?.place));
}

/** Begins or goes on. */
async function run(mine: Sender): Promise<void> {
  const { file: one } = mine;
  const { volume } = mine.where;
  let began = performance.now();
  let first = -1;
  mine.seen = (sent, what) => {
    if (what === 'trying') {
      doing.textContent = 'The line was cut: trying again…';
      return;
    }
    if (what === 'reading') {
      doing.textContent = `${volume}: reading again what was sent before, ${readable(sent)}`;
      return;
    }
    if (first < 0) [first, began] = [sent, performance.now()];
    const rate = (sent - first) / Math.max(0.2, (performance.now() - began) / 1000);
    bar.value = (100 * sent) / one.size;
    bar.dataset.percent = String(Math.floor(bar.value));
    const left = rate > 0 ? `, ${duration((one.size - sent) / rate)} left` : '';
    doing.textContent =
      sent < one.size
        ? `${volume}: ${readable(sent)} of ${readable(one.size)}, ${readable(rate)}/s${left}`
        : `${volume}: all sent, verifying…`;
  };
  sender = mine;
  find('sending').hidden = false;
  pause.textContent = 'Pause';
  pause.hidden = false;
  find('cancel').hidden = false;
  send.disabled = true;
  showUnfinished();
  try {
    const made = await mine.run(() => {
      const keep: Kept = {
        file: one.name,
        length: one.size,
        modified: one.lastModified,
        volume,
        place: mine.place ?? '',
      };
      localStorage.setItem(KEPT, JSON.stringify(keep));
    });
    if (!made) return; // paused
    bar.value = 100;
    doing.textContent = `${volume} is whole and verified: ${readable(Number(made.size))}, sent as ${String(made.sourceDigest)}`;
    over();
  } catch (error) {
    tell(error instanceof Refused ? error.message : String(error));
    find('sending').hidden = true;
    // Nobody could go on with what is left of it.
    await mine.giveUp();
    over();
  }
}

function over(): void {
  sender = undefined;
  localStorage.removeItem(KEPT);
  pause.hidden = true;
  find('cancel').hidden = true;
  send.disabled = file.files?.length === 0;
  void look();
}

function duration(seconds: number): string {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  return seconds < 3600 ? `${Math.ceil(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

async function ask(method: string, url: string, body?: object): Promise<void> {
  tell(undefined);
  const answer = await fetch(url, { method, ...(body ? { body: JSON.stringify(body) } : {}) }).catch(() => undefined);
  if (!answer) tell('The server does not answer.');
  else if (!answer.ok) tell(messageOf(answer.status, await answer.text()));
  await look();
}

const of = (volume: Volume): string => `/volumes/${encodeURIComponent(volume.name)}`;

function shown(volume: Volume): HTMLLIElement {
  const item = document.createElement('li');
  const title = document.createElement('strong');
  title.textContent = volume.name;
  const acts = document.createElement('div');
  acts.className = 'acts';
  if (volume.state === 'ready') {
    const link = document.createElement('a');
    link.href = `${of(volume)}/disk`;
    link.download = `${volume.name}.img`;
    link.textContent = 'Download';
    acts.append(link);
  }
  const remove = document.createElement('button');
  remove.type = 'button';
  remove.textContent = volume.state === 'receiving' ? 'Stop' : 'Delete';
  remove.setAttribute('aria-label', `${remove.textContent} ${volume.name}`);
  remove.onclick = () => {
    if (confirm(`${remove.textContent} ${volume.name}?`)) void ask('DELETE', of(volume));
  };
  acts.append(remove);
  const facts = document.createElement('p');
  facts.className = 'facts';
  const { progress } = volume;
  const came = progress
    ? `${readable(progress.bytes)}${progress.length === undefined ? '' : ` of ${readable(progress.length)}`}, ${readable(progress.rate)}/s`
    : undefined;
  const digest = document.createElement('code');
  digest.textContent = volume.diskDigest?.slice(0, 20) ?? '';
  digest.title = volume.diskDigest ?? '';
  const takes =
    volume.state === 'ready' && volume.allocated !== undefined ? `takes ${readable(volume.allocated)}` : undefined;
  facts.append(
    [volume.state, volume.size === undefined ? undefined : readable(volume.size), takes, came]
      .filter(Boolean)
      .join(' · '),
    ' ',
    digest,
  );
  item.append(title, acts, facts);
  if (progress) {
    const line = document.createElement('progress');
    line.setAttribute('aria-label', `progress of ${volume.name}`);
    if (progress.length) {
      line.max = progress.length;
      line.value = progress.bytes;
    }
    item.append(line);
  }
  if (volume.failure) {
    const failure = document.createElement('p');
    failure.className = 'failure';
    failure.textContent = volume.failure.message;
    item.append(failure);
  }
  return item;
}

function show(state: { readonly volumes: readonly Volume[]; readonly free: number }): void {
  free = state.free;
  find('room').textContent = `${readable(state.free)} free`;
  find('none').hidden = state.volumes.length > 0;
  const list = find('volumes');
  // What has the focus stays where it is, if it is still there.
  const focused = document.activeElement?.getAttribute('aria-label');
  list.replaceChildren(...state.volumes.map(shown));
  if (focused) list.querySelector<HTMLElement>(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
}

async function look(): Promise<void> {
  const answer = await fetch('/volumes').catch(() => undefined);
  if (answer?.ok) show((await answer.json()) as Parameters<typeof show>[0]);
}

const drop = find('drop');
for (const type of ['dragover', 'dragleave', 'drop']) {
  drop.addEventListener(type, (event) => {
    event.preventDefault();
    drop.classList.toggle('over', type === 'dragover');
    const { dataTransfer } = event as DragEvent;
    if (type !== 'drop' || !dataTransfer) return;
    file.files = dataTransfer.files;
    void chosen();
  });
}
file.onchange = () => void chosen();
find('upload').onsubmit = (event) => {
  event.preventDefault();
  const one = file.files?.[0];
  if (!one || sender) return;
  upload(one);
};
find('import').onsubmit = (event) => {
  event.preventDefault();
  const into = find<HTMLInputElement>('import-name').value;
  void ask('POST', `/volumes/${encodeURIComponent(into)}/import`, { url: find<HTMLInputElement>('url').value });
};
pause.onclick = () => {
  if (!sender) return;
  if (sender.paused) void run(sender);
  else {
    sender.pause();
    pause.textContent = 'Go on';
    doing.textContent = 'Paused.';
  }
};
find('cancel').onclick = async () => {
  find('sending').hidden = true;
  await sender?.giveUp();
  over();
};
const events = new EventSource('/events');
events.onmessage = ({ data }) => show(JSON.parse(data as string) as Parameters<typeof show>[0]);
// The browser tries again by itself.
events.onerror = () => {
  find('room').textContent = 'The server does not answer: what is below may be old.';
};
showUnfinished();
void look();
