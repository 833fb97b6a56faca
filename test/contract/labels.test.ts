// Labels that container images ask for, and the message that tells them.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { succeeded } from '../../src/importer/report.ts';
import { labelsOf } from '../../src/oci/labels.ts';

const of = (...Env: unknown[]): Record<string, string> => labelsOf(JSON.stringify({ config: { Env } }));

test('are what KubeVirt reads from the environment of an image', () => {
  expect(of('INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE=x')).toEqual({
    'instancetype.kubevirt.io/default-preference': 'x',
  });
  expect(of('A_B_KUBEVIRT_IO_C_D=')).toEqual({ 'a.b.kubevirt.io/c-d': '' });
  expect(of('KUBEVIRT_IO_SIZE=1')).toEqual({ 'kubevirt.io/size': '1' });
  expect(of('PATH=/bin', 'X', 7, null, 'KUBEVIRT_IO_=x', 'A_KUBEVIRT_IO_B=not a label', 'A_KUBEVIRT_IO_B\n=x')).toEqual(
    {},
  );
  for (const text of ['', 'null', '7', '{}', '{"config":null}', '{"config":{"Env":"x"}}'])
    expect(labelsOf(text)).toEqual({});
});

test('a message never gets too long for the kubelet, and is JSON', () => {
  const key = fc.string({ minLength: 1, maxLength: 60 });
  fc.assert(
    fc.property(fc.dictionary(key, fc.string({ maxLength: 63 }), { maxKeys: 200 }), (labels) => {
      const { message = '' } = succeeded(true, labels);
      expect(Buffer.byteLength(message)).toBeLessThanOrEqual(4096);
      expect(JSON.parse(message)).toMatchObject({ message: 'Import Complete', preallocationApplied: true });
    }),
  );
  const many = Object.fromEntries(Array.from({ length: 200 }, (_, n) => [`kubevirt.io/${n}`, 'x'.repeat(60)]));
  expect(Object.keys(JSON.parse(succeeded(false, many).message ?? '').labels).length).toBeGreaterThan(40);
});
