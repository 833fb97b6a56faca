/** Why an object is refused, as a Status of Kubernetes tells it (apimachinery, meta/v1: StatusCause). */
export interface Cause {
  /** Where in the object, as `spec.source.http.url`. */
  readonly field: string;
  /** What is wrong, and what to do. Begins with the words of CDI's where clients look for them; never holds a secret. */
  readonly message: string;
  readonly type: 'FieldValueInvalid' | 'FieldValueDuplicate';
}

/** Characters of a value that a message repeats. */
const SHOWN = 40;

export function invalid(field: string, message: string): Cause {
  return { field, message, type: 'FieldValueInvalid' };
}

export function duplicate(field: string, message: string): Cause {
  return { field, message, type: 'FieldValueDuplicate' };
}

/** A value as a message repeats it: no more than a few characters, and none that would spoil a line. */
export function quoted(value: unknown): string {
  const text = String(value);
  return JSON.stringify(text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text);
}

/** Nothing, where it is short enough. */
export function checkLength(what: string, field: string, text: string | undefined, longest: number): Cause[] {
  const { length } = text ?? '';
  if (length <= longest) return [];
  return [invalid(field, `${what} cannot have more than ${longest} characters: ${quoted(text)} has ${length}`)];
}
