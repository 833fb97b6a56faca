import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, test } from 'vitest';
import { openSource } from '../../src/dataplane/sources/index.ts';
import { testContext, thrown } from '../support/context.ts';

/** What is said of an answer with this body, to a request that had these headers and this address. */
async function said(type: string, body: string, status = 403): Promise<string> {
  const server = createServer((request, response) => {
    response.writeHead(status, { 'content-type': type });
    response.end(body.replaceAll('AUTH', request.headers.authorization ?? ''));
  }).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  try {
    const { port } = server.address() as AddressInfo;
    const options = { credentials: { username: 'me', password: 'a-password' }, headers: { 'x-key': 'value-of-key' } };
    const url = `http://127.0.0.1:${port}/disk?sig=c2lnbmF0dXJl`;
    return (await thrown(openSource(url, options, testContext({ patience: 200 })))).message;
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

test.each([
  [
    'S3',
    'application/xml',
    '<Error><Code>NoSuchKey</Code><Message>Gone.\nRequestId:1</Message></Error>',
    '403 (NoSuchKey: Gone.)',
  ],
  ['Google', 'application/json', '{"error":{"code":403,"message":"no access"}}', '403 (no access)'],
  ['registries', 'application/json', '{"errors":[{"code":"DENIED","message":"no"}]}', '403 (DENIED: no)'],
  ['others', 'application/problem+json', '{"message":"\\u0007odd\\u202e\\n text"}', '403 (odd text)'],
  ['no reason', 'application/json', '{"errors":[]}', 'answered 403: access'],
  ['no JSON', 'application/json', '{', 'answered 403: access'],
  ['a page', 'text/html', '<html><Message>x</Message></html>', 'answered 403: access'],
  ['much', 'application/json', `{"message":"${'x'.repeat(100_000)}"}`, 'answered 403: access'],
  ['long', 'application/json', `{"message":"${'y'.repeat(5_000)}"}`, `(${'y'.repeat(300)})`],
])('what %s say', async (_, type, body, expected) => {
  expect(await said(type, body)).toContain(expected);
});

test('what was sent is not shown when it is echoed', async () => {
  const basic = Buffer.from('me:a-password').toString('base64');
  const message = await said('application/json', '{"message":"you sent AUTH, value-of-key and c2lnbmF0dXJl, friend"}');
  expect(message).toMatch(/you sent …, … and …, friend/);
  for (const secret of [basic, 'value-of-key', 'c2lnbmF0dXJl']) expect(message).not.toContain(secret);
});
