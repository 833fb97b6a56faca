/** OpenAPI v3 as a CustomResourceDefinition has it. */
export type Json = Readonly<Record<string, unknown>>;

declare const VALUE: unique symbol;

/**
 * A structural schema of values of the type T: what the API server checks, prunes and explains by. Types are plain interfaces,
 * and each `object` names the one that it is of, so that neither can have a field that the other lacks.
 */
export interface Schema<T> extends Json {
  /** Never there: carries the type. */
  readonly [VALUE]?: T;
}

/** A field that the API server demands. */
export interface Needed<T> {
  readonly needed: Schema<T>;
}

/** A schema for each field of T. What T cannot be without is `required`; what it can, may be. */
export type Fields<T> = {
  readonly [K in keyof T]-?: Record<never, never> extends Pick<T, K>
    ? Schema<NonNullable<T[K]>> | Needed<NonNullable<T[K]>>
    : Needed<T[K]>;
};

const named = <T>(type: string, description: string, more: Json = {}): Schema<T> => ({ description, type, ...more });

export const required = <T>(schema: Schema<T>): Needed<T> => ({ needed: schema });

/** Of whatever strings its field has: which those are, code knows and the API server does not ask. */
export const text = <T extends string>(description: string, more?: Json): Schema<T> =>
  named('string', description, more);

export const choice = <const T extends string>(description: string, values: readonly T[]): Schema<T> =>
  named('string', description, { enum: values });

/** RFC 3339. */
export const time = (description: string): Schema<string> => text(description, { format: 'date-time' });

export const flag = (description: string): Schema<boolean> => named('boolean', description);

export const int32 = (description: string): Schema<number> => named('integer', description, { format: 'int32' });

export const int64 = (description: string): Schema<number> => named('integer', description, { format: 'int64' });

export const list = <T>(description: string, items: Schema<T>, more?: Json): Schema<T[]> =>
  named('array', description, { items, ...more });

/** An object with keys of the user's. */
export const map = <T>(description: string, values: Schema<T>): Schema<Record<string, T>> =>
  named('object', description, { additionalProperties: values });

/** An object without fields: that it is there says all. */
export const empty = (description: string, more?: Json): Schema<Readonly<Record<string, never>>> =>
  named('object', description, more);

export const object = <T>(description: string, fields: Fields<T>, more: Json = {}): Schema<T> =>
  named('object', description, { ...structure(fields), ...more });

/** Of an object of the API: what all have comes by itself, and its metadata is the API server's matter. */
export const kindOf = <T>(
  description: string,
  fields: Fields<Omit<T, 'apiVersion' | 'kind' | 'metadata'>>,
  metadata: Json = {},
): Schema<T> =>
  named(
    'object',
    description,
    structure({
      apiVersion: text('Group and version of this object.'),
      kind: text('Kind of this object.'),
      metadata: { type: 'object', ...metadata },
      ...fields,
    }),
  );

function structure(fields: Readonly<Record<string, Schema<unknown> | Needed<unknown>>>): Json {
  const entries = Object.entries(fields);
  const needed = entries.flatMap(([name, field]) => (isNeeded(field) ? [name] : []));
  return {
    ...(needed.length > 0 ? { required: needed } : {}),
    properties: Object.fromEntries(entries.map(([name, field]) => [name, isNeeded(field) ? field.needed : field])),
  };
}

function isNeeded(field: Schema<unknown> | Needed<unknown>): field is Needed<unknown> {
  return 'needed' in field;
}
