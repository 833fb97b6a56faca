// The API server, asked as an administrator.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Agent, request } from 'undici';
import { type Layout, places } from './layout.ts';
import { serverOf } from './pki.ts';

export interface Api extends AsyncDisposable {
  /** JSON, or text where it answers that. A body of a PATCH is a merge patch unless `type` says otherwise. */
  ask<T = unknown>(method: string, path: string, body?: object, type?: string): Promise<T>;
  /** Undefined for what is not there. */
  find<T = unknown>(path: string): Promise<T | undefined>;
}

/** What the API server refused. */
export class Refused extends Error {
  override readonly name = 'Refused';
  readonly status: number;

  constructor(message: string, status: number) {
    super(message);
    this.status = status;
  }
}

/** Milliseconds for an answer. */
const PATIENCE = 30_000;

export async function apiOf(layout: Layout): Promise<Api> {
  const { pki } = places(layout);
  const [ca, cert, key] = await Promise.all(
    ['ca.crt', 'admin.crt', 'admin.key'].map((name) => readFile(join(pki, name))),
  );
  const agent = new Agent({
    connect: { ca, cert, key, timeout: 5000 },
    headersTimeout: PATIENCE,
    bodyTimeout: PATIENCE,
  });
  const ask = async <T>(
    method: string,
    path: string,
    body?: object,
    type = method === 'PATCH' ? 'application/merge-patch+json' : 'application/json',
  ): Promise<T> => {
    const answer = await request(`${serverOf(layout)}${path}`, {
      dispatcher: agent,
      method: method as 'GET',
      headers: { accept: 'application/json', 'content-type': type },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.body.text();
    if (answer.statusCode >= 300)
      throw new Refused(`${method} ${path}: ${answer.statusCode} ${text}`, answer.statusCode);
    return (answer.headers['content-type']?.includes('json') ? JSON.parse(text) : text) as T;
  };
  return {
    ask,
    find: <T>(path: string) =>
      ask<T>('GET', path).catch((error: unknown) => {
        if (error instanceof Refused && error.status === 404) return undefined;
        throw error;
      }),
    [Symbol.asyncDispose]: () => agent.destroy(),
  };
}
