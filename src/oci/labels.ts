/** A name with a prefix, and a value, as Kubernetes takes them ("Labels and Selectors", Syntax and character set). */
const KEY = /^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\/[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/;
const VALUE = /^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$/;
/** What an image says of the machine that its disk is for stands in variables with this in their names (KubeVirt). */
const MARK = 'KUBEVIRT_IO_';

/** Labels that an image asks for in its configuration (image-spec config.md, `config.Env`); none when the text is none. */
export function labelsOf(configuration: string): Record<string, string> {
  try {
    return labelsOfVariables((JSON.parse(configuration) as { config?: { Env?: unknown } } | null)?.config?.Env);
  } catch {
    return {};
  }
}

/**
 * Of a list of `NAME=value`: `INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE=x` is
 * `instancetype.kubevirt.io/default-preference: x`. What is no label is left out.
 */
export function labelsOfVariables(variables: unknown): Record<string, string> {
  const labels: Record<string, string> = {};
  for (const one of Array.isArray(variables) ? (variables as unknown[]) : []) {
    const [, name = '', value = ''] = /^([^=]+)=(.*)$/s.exec(typeof one === 'string' ? one : '') ?? [];
    const at = name.indexOf(MARK);
    if (at < 0) continue;
    const before = name
      .slice(0, at)
      .replace(/^_+|_+$/g, '')
      .replaceAll('_', '.');
    const rest = name.slice(at + MARK.length).replaceAll('_', '-');
    const key = `${before === '' ? '' : `${before}.`}kubevirt.io/${rest}`.toLowerCase();
    if (KEY.test(key) && VALUE.test(value)) labels[key] = value;
  }
  return labels;
}
