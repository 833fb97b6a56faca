/** One line of JSON for each. */
export type Log = (level: 'info' | 'warn', message: string, about?: Readonly<Record<string, string | number>>) => void;

export function logTo(write: (line: string) => void): Log {
  return (level, message, about = {}) =>
    write(`${JSON.stringify({ time: new Date().toISOString(), level, message, ...about })}\n`);
}
