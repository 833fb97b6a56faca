// What the compiler refuses is checked by `npm run check`: a line that it does not refuse is an error of its own.
import { expect, test } from 'vitest';
import { flag, int32, list, object, required, text } from '../../src/api/schemas/schema.ts';

interface Thing {
  readonly name: string;
  readonly sizes?: readonly number[];
  readonly fast?: boolean;
}

const fields = {
  name: required(text<string>('Its name.')),
  sizes: list('Its sizes.', int32('A size.')),
  fast: flag('Whether it is fast.'),
};

test('a schema has the fields of its type, and demands what the type cannot be without', () => {
  expect(object<Thing>('A thing.', fields)).toEqual({
    description: 'A thing.',
    type: 'object',
    required: ['name'],
    properties: {
      name: { description: 'Its name.', type: 'string' },
      sizes: {
        description: 'Its sizes.',
        type: 'array',
        items: { description: 'A size.', type: 'integer', format: 'int32' },
      },
      fast: { description: 'Whether it is fast.', type: 'boolean' },
    },
  });
  // It may demand more than the type.
  expect(object<Thing>('A thing.', { ...fields, fast: required(fields.fast) })).toMatchObject({
    required: ['name', 'fast'],
  });
});

test('a schema that its type does not agree with is not compiled', () => {
  const { name, sizes, fast } = fields;
  // @ts-expect-error a field is missing
  object<Thing>('A thing.', { name, sizes });
  // @ts-expect-error a field is one too many
  object<Thing>('A thing.', { name, sizes, fast, slow: fast });
  // @ts-expect-error the type cannot be without it
  object<Thing>('A thing.', { name: name.needed, sizes, fast });
  // @ts-expect-error no number
  object<Thing>('A thing.', { name, sizes: list('Its sizes.', flag('A size.')), fast });
  // @ts-expect-error no list
  object<Thing>('A thing.', { name, sizes: int32('Its size.'), fast });
});
