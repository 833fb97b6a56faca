// The page of `diskferry serve`, in Chromium: what a person does and sees. Makes the screenshots of docs/serve.md.
import { mkdir, readFile, rm, stat } from 'node:fs/promises';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { guess, readable } from '../../src/uploader/page/image.ts';
import { FaultProxy } from '../faults/proxy.ts';
import type { Cli } from '../support/cli.ts';
import { bootableDisk, difference, MiB, qcow2, sha256, shell } from '../support/images.ts';
import { freePort, nginx } from '../support/nginx.ts';
import { Served } from '../support/served.ts';
import { site } from '../support/site.ts';
import { tool } from '../support/tools.ts';

const SIZE = Number(process.env.PAGE_MIB ?? 1024) * MiB;
let program: Cli;
let server: Served;
let proxy: FaultProxy;
let port: number;
let browser: Browser;
let origin: string;
const at = site(async (opened) => {
  ({ program } = opened);
  origin = opened.server.url;
  await bootableDisk(at('www/raw'), SIZE);
  await qcow2(at('www/raw'), at('www/ubuntu.qcow2'));
});

beforeAll(async () => {
  port = await freePort();
  server = await Served.start(program, at('data'), ['--open', '--allow-address', '127.0.0.0/8'], port);
  proxy = await FaultProxy.start({ port });
  // Root has no user namespace to put its processes into.
  browser = await chromium.launch({ executablePath: tool('chromium', 'chromium'), args: ['--no-sandbox'] });
}, 90_000);
afterAll(async () => {
  await browser?.close();
  await proxy?.[Symbol.asyncDispose]();
  await server?.[Symbol.asyncDispose]();
});

async function opened(more = {}, url = proxy.url): Promise<Page> {
  const context = await browser.newContext({ viewport: { width: 900, height: 800 }, ...more });
  const page = await context.newPage();
  page.on('pageerror', (error) => {
    throw error;
  });
  await page.goto(url);
  return page;
}

/** Over a line that takes half a minute: there is something to see. */
async function slowly(page: Page): Promise<void> {
  const session = await page.context().newCDPSession(page);
  const line = { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: SIZE / 40 };
  await session.send('Network.emulateNetworkConditions', line);
}

const shot = async (page: Page, name: string): Promise<void> => {
  await mkdir('docs/serve', { recursive: true });
  if (process.env.SCREENSHOTS) await page.screenshot({ path: `docs/serve/${name}.png` });
};

test('a file is sent, over a line that is cut twice and a page that is loaded anew', async () => {
  const page = await opened();
  await shot(page, 'empty');
  const image = at('www/ubuntu.qcow2');
  const { size } = await stat(image);
  await page.setInputFiles('#file', image);
  await page.waitForSelector('#found:has-text("qcow2")');
  expect(await page.textContent('#found')).toBe(`ubuntu.qcow2: qcow2, ${readable(size)}, a disk of ${readable(SIZE)}.`);
  expect(await page.inputValue('#name')).toBe('ubuntu');
  const sent = async (share: number): Promise<void> => {
    const bar = page.locator('#bar');
    const percent = () => bar.evaluate((one) => Number(one.getAttribute('data-percent')));
    await expect.poll(percent, { timeout: 60_000, interval: 50 }).toBeGreaterThanOrEqual(share * 100);
  };
  await slowly(page);
  await page.click('#send');
  await sent(0.1);
  proxy.cutAll();
  await sent(0.25);
  await shot(page, 'sending');
  proxy.cutAll();
  await sent(0.4);
  await page.reload();
  await slowly(page);
  expect(await page.textContent('#unfinished')).toMatch(/The upload of ubuntu.qcow2 into ubuntu is not finished/);
  await page.setInputFiles('#file', image);
  await sent(0.6);
  await page.click('#pause');
  expect(await page.textContent('#doing')).toBe('Paused.');
  await page.click('#pause');
  await page.waitForSelector('#doing:has-text("whole and verified")', { timeout: 120_000 });
  expect(await page.textContent('#doing')).toContain(await sha256(image));
  expect(await difference(at('www/raw'), at('data/ubuntu.img'))).toBeUndefined();
  await page.waitForSelector('li:has-text("ready")');
  await shot(page, 'done');
  expect(proxy.sent).toBeLessThan(size + 64 * MiB);
  await page.context().close();
}, 240_000);

test('a pause keeps the file that it is of; one that changes is given up', async () => {
  const page = await opened();
  await slowly(page);
  await page.setInputFiles('#file', at('www/ubuntu.qcow2'));
  await page.fill('#name', 'first');
  await page.click('#send');
  await page.waitForSelector('#doing:has-text("left")');
  await page.click('#pause');
  await rm(at('other'), { force: true });
  await shell(`qemu-img create -q -f qcow2 ${at('other')} 20M`);
  await page.setInputFiles('#file', at('other'));
  await page.waitForSelector('#found:has-text("other")');
  expect(await page.isDisabled('#send')).toBe(true);
  await page.click('#pause');
  await page.waitForSelector('#doing:has-text("first: ")');
  await page.click('#cancel');
  await page.waitForSelector('li:has-text("first"):has-text("its sender gave it up")');
  // What is chosen then may be sent.
  expect(await page.isDisabled('#send')).toBe(false);
  await shell(`head -c 64M /dev/urandom > ${at('changing')}`);
  await page.setInputFiles('#file', at('changing'));
  await page.click('#send');
  await page.waitForSelector('#doing:has-text("left")');
  await shell(`echo more >> ${at('changing')}`);
  await page.waitForSelector('#problem:has-text("changing has changed or is gone")', { timeout: 60_000 });
  await page.waitForSelector('li:has-text("changing"):has-text("its sender gave it up")');
  await page.context().close();
}, 120_000);

test('through nginx with a body of 1 MiB, in parts that fit', async () => {
  const location = `location / { proxy_pass http://127.0.0.1:${port}; proxy_set_header Host $http_host; }`;
  await using front = await nginx({ root: at('www'), server: location });
  const page = await opened({}, front.url);
  await shell(`head -c 20M /dev/urandom > ${at('limited')}`);
  await page.setInputFiles('#file', at('limited'));
  await page.click('#send');
  await page.waitForSelector('#doing:has-text("whole and verified")', { timeout: 60_000 });
  expect(await difference(at('limited'), at('data/limited.img'))).toBeUndefined();
  expect((await front.requests()).filter((line) => line.startsWith('413 '))).toHaveLength(1);
  await page.context().close();
}, 90_000);

test('an address is imported, what fails is told, a volume is deleted; without a mouse', async () => {
  const page = await opened({ colorScheme: 'dark' });
  const type = async (id: string, text: string): Promise<void> => {
    await page.focus(`#${id}`);
    await page.keyboard.type(text);
  };
  await type('url', `${origin}/ubuntu.qcow2`);
  await page.keyboard.press('Tab');
  await page.keyboard.type('web');
  await page.keyboard.press('Enter');
  await page.waitForSelector('li:has-text("web"):has-text("ready")', { timeout: 60_000 });
  await page.fill('#url', `${origin}/none`);
  await page.fill('#import-name', 'gone');
  await page.keyboard.press('Enter');
  await page.waitForSelector('li .failure:has-text("there is no such object")');
  await shot(page, 'dark');
  page.once('dialog', (dialog) => void dialog.accept());
  await page.focus('[aria-label="Delete gone"]');
  await page.keyboard.press('Enter');
  await page.waitForSelector('li:has-text("gone")', { state: 'detached' });
  await page.fill('#url', `${origin}/ubuntu.qcow2`);
  await page.fill('#import-name', 'web');
  await page.keyboard.press('Enter');
  await page.waitForSelector('#problem:has-text("web holds a disk already")');
  // Nothing of what is shown is true for certain while nobody answers.
  await server.kill();
  await page.waitForSelector('#room:has-text("does not answer")');
  server = await Served.start(program, at('data'), ['--open', '--allow-address', '127.0.0.0/8'], port);
  await page.waitForSelector('#room:has-text("free")');
  await page.context().close();
}, 120_000);

test('on the width of a phone nothing is cut off', async () => {
  const page = await opened({ viewport: { width: 360, height: 740 } });
  await page.waitForSelector('li');
  const widths = await page.locator('html').evaluate((all) => [all.scrollWidth, all.clientWidth]);
  expect(widths[0]).toBe(widths[1]);
  await shot(page, 'phone');
  await page.context().close();
});

describe('what a file is, from its first bytes', () => {
  test.each([
    ['qcow2', [], 'qcow2'],
    ['vmdk', ['-o', 'subformat=streamOptimized'], 'VMDK'],
    ['vdi', [], 'VDI'],
    ['vpc', [], 'VHD'],
    ['vhdx', [], 'VHDX'],
  ])('%s', async (format, options, kind) => {
    const image = at(`guessed.${format}`);
    await shell(
      `qemu-img create -q -f raw ${at('small')} 20M && qemu-img convert -O ${format} ${options.join(' ')} ${at('small')} ${image}`,
    );
    const head = (await readFile(image)).subarray(0, 4096);
    const found = guess(head, 1);
    expect(found.kind).toBe(kind);
    if (format !== 'vhdx' && format !== 'vpc') expect(found.size).toBe(20 * MiB);
    await rm(image);
  });
  test('a raw disk, a page, something compressed', () => {
    expect(guess(new Uint8Array(4096), 5000)).toEqual({ kind: 'raw disk', size: 5000 });
    expect(guess(Buffer.from(`<!DOCTYPE html>${' '.repeat(1000)}`), 1000).kind).toContain('page');
    expect(guess(Buffer.from([0x1f, 0x8b, ...new Uint8Array(600)]), 1000).kind).toBe('compressed with gzip');
  });
});
