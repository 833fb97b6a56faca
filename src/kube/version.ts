/**
 * Whether version `a` of an object or a list comes after `b`, of the same kind of objects; undefined where the two say nothing
 * of it.
 *
 * API servers promise it since Kubernetes 1.35 (KEP-5504): versions of one kind are decimal numbers that grow. Earlier ones keep
 * it as well, since a version is a revision of etcd there, and client-go relied on it before it was promised. What is no number,
 * of an aggregated API server, can only be compared for equality.
 */
export function isAfter(a: string, b: string): boolean | undefined {
  if (!isNumber(a) || !isNumber(b)) return a === b ? false : undefined;
  // As text: they have 64 bits, which numbers of JavaScript do not.
  return a.length === b.length ? a > b : a.length > b.length;
}

function isNumber(version: string): boolean {
  return /^(0|[1-9]\d*)$/.test(version);
}
