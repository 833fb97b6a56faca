import { Agent, request } from 'undici';
import { ADMIN, type ApiServer } from './apiserver.ts';

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
}

/** What an API server answers to an administrator, whatever that is, with its headers. */
export class Answers implements AsyncDisposable {
  readonly #agent: Agent;
  readonly #url: string;

  constructor({ port, ca }: Pick<ApiServer, 'port' | 'ca'>) {
    this.#agent = new Agent({ connect: { ca } });
    this.#url = `https://127.0.0.1:${port}`;
  }

  /** A string as the body is YAML. */
  async to(
    method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE',
    path: string,
    body?: object | string,
    headers: Record<string, string> = {},
  ): Promise<Answer> {
    const json = method === 'PATCH' ? 'application/merge-patch+json' : 'application/json';
    const yaml = typeof body === 'string';
    const answer = await request(this.#url + path, {
      dispatcher: this.#agent,
      method,
      headers: { authorization: `Bearer ${ADMIN}`, 'content-type': yaml ? 'application/yaml' : json, ...headers },
      ...(body === undefined ? {} : { body: yaml ? body : JSON.stringify(body) }),
    });
    return { status: answer.statusCode, headers: answer.headers, text: await answer.body.text() };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#agent.destroy();
  }
}
