import { expect, test } from 'vitest';
import { rewritten } from '../../src/dataplane/vmdk-extents.ts';
import { thrown } from '../support/context.ts';

const HEAD = '# Disk DescriptorFile\nversion=1\nCID=1234abcd\nparentCID=ffffffff\ncreateType="x"\n';

test('every name is replaced, by the last part that is asked for', async () => {
  const asked: string[] = [];
  const text = `${HEAD}RW 100 FLAT "disk-flat.vmdk" 8
RW 100 SPARSE "/etc/passwd"
RDONLY 8 VMFS "..\\..\\C:\\x.vmdk" 0
RW 8 ZERO
parentFileNameHint="/etc/shadow"
ddb.adapterType = "ide"`;
  const found = await rewritten(text, async (name) => `/scratch/${asked.push(name)}`);
  expect(asked).toEqual(['disk-flat.vmdk', 'passwd', 'x.vmdk']);
  expect(found).toBe(`${HEAD}RW 100 FLAT "/scratch/1" 8
RW 100 SPARSE "/scratch/2"
RDONLY 8 VMFS "/scratch/3" 0
RW 8 ZERO
ddb.adapterType = "ide"`);
});

test.each([
  ['a difference', `${HEAD.replace('ffffffff', '12345678')}RW 1 FLAT "a"`, 'UNSAFE'],
  ['a device', `${HEAD}RW 1 VMFSRDM "/dev/sda"`, 'UNSUPPORTED'],
  ['no name', `${HEAD}RW 1 FLAT`, 'UNSUPPORTED'],
  ['a number that is none', `${HEAD}RW +1 FLAT "/etc/passwd"`, 'CORRUPT'],
  ['no extents', HEAD, 'CORRUPT'],
  ['extents without end', HEAD + 'RW 1 ZERO\n'.repeat(40_000), 'TOO_LARGE'],
])('%s is refused', async (_, text, code) => {
  expect(await thrown(rewritten(text, async () => 'x'))).toMatchObject({ code });
});
