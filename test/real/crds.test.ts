// The CustomResourceDefinitions in deploy/crds as a real API server takes them.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parse } from 'yaml';
import { DEFINITIONS } from '../../src/api/schemas/definitions.ts';
import { type ApiServer, startApiServer } from '../support/apiserver.ts';

const CRDS = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';
const directory = fileURLToPath(new URL('../../deploy/crds', import.meta.url));
const files = readdirSync(directory).filter((name) => name !== 'kustomization.yaml');
const textOf = (file: string): string => readFileSync(join(directory, file), 'utf8');

interface Crd {
  readonly metadata: { readonly name: string };
  readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

let api: ApiServer;

beforeAll(async () => {
  api = await startApiServer();
  for (const file of files) {
    const answer = await api.send('POST', CRDS, textOf(file));
    expect(answer.status, answer.text).toBe(201);
    expect(answer.headers.warning, file).toBeUndefined();
  }
}, 120_000);
afterAll(() => api?.[Symbol.asyncDispose]());

async function established(name: string): Promise<Record<string, string>> {
  for (let tries = 0; ; tries += 1) {
    const { status } = await api.ask<Crd>('GET', `${CRDS}/${name}`);
    const conditions = Object.fromEntries((status?.conditions ?? []).map((one) => [one.type, one.status]));
    if (conditions.Established === 'True' || tries === 100) return conditions;
    await sleep(100);
  }
}

test('there is a file for each kind, and the kustomization lists all of them', () => {
  const names = DEFINITIONS.map(({ resource }) => `${resource.plural}.${resource.group}.yaml`).sort();
  expect(files.sort()).toEqual(names);
  expect(parse(textOf('kustomization.yaml')).resources).toEqual(names);
});

test.each(files)('%s is established and structural', async (file) => {
  const conditions = await established(file.replace('.yaml', ''));
  expect(conditions).toMatchObject({ Established: 'True', NamesAccepted: 'True' });
  expect(conditions.NonStructuralSchema ?? 'False').toBe('False');
});

// `kubectl apply` keeps the whole object in an annotation, and all annotations together have 256 KiB
// (apimachinery, pkg/api/validation/objectmeta.go).
test.each(files)('%s is small enough for kubectl apply', (file) => {
  expect(JSON.stringify(parse(textOf(file))).length).toBeLessThan(256 * 1024);
});
