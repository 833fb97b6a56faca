/** Longest name of an object, and of a label's value or a service (RFC 1123; apimachinery, validation.go). Characters. */
const LONGEST = 253;
const LONGEST_LABEL = 63;
/** Of what stands for what was left out: 8 hexadecimal digits, and a dash on both sides. */
const HASH = 10;

/**
 * `base-suffix`, or where that is too long the beginning of `base`, its hash and `suffix`: the names that CDI gives to what it
 * makes of an object (pkg/util/naming/namer.go), so that clients find it. Names are ASCII.
 */
export function resourceName(base: string, suffix: string): string {
  return shortened(base, suffix, LONGEST);
}

/** Of the service, or in the label, of an object. */
export function serviceName(name: string): string {
  const label = name.replaceAll('.', '-');
  return label.length <= LONGEST_LABEL ? label : shortened(label, 'cdi', LONGEST_LABEL);
}

/** Of the pod that takes uploads into a claim. */
export function uploadPodName(claim: string): string {
  return resourceName('cdi-upload', claim);
}

function shortened(base: string, suffix: string, longest: number): string {
  const whole = `${base}-${suffix}`;
  if (whole.length <= longest) return whole;
  const room = longest - HASH - suffix.length;
  // A suffix that leaves no room for the base is left out.
  if (room < 0) return `${base.slice(0, longest - HASH + 1)}-${hash(whole)}`;
  return `${base.slice(0, room)}-${hash(base)}-${suffix}`;
}

/** FNV-1a of 32 bits (draft-eastlake-fnv, section 5: offset basis and prime). */
function hash(text: string): string {
  let value = 0x811c9dc5;
  for (const byte of Buffer.from(text)) value = Math.imul(value ^ byte, 0x01000193) >>> 0;
  return value.toString(16).padStart(8, '0');
}
