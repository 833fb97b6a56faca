/** One line of JSON for each: the key is what it is about, the same from the DataVolume to its pod. */
export type Log = (level: Level, message: string, about?: Readonly<Record<string, string | number>>) => void;
type Level = 'debug' | 'info' | 'warn';

/** To standard error. Debug where the configuration asks for more than little. */
export function logTo(write: (line: string) => void, isVerbose: () => boolean): Log {
  return (level, message, about = {}) => {
    if (level === 'debug' && !isVerbose()) return;
    write(`${JSON.stringify({ time: new Date().toISOString(), level, message, ...about })}\n`);
  };
}
