/** One line of JSON for each; `about` are fields of it. */
export type Log = (level: Level, message: string, about?: Readonly<Record<string, string | number>>) => void;
type Level = 'debug' | 'info' | 'warn';

/** The log of a program in a cluster. Debug is told while `isVerbose`. */
export function logTo(write: (line: string) => void, isVerbose: () => boolean = () => false): Log {
  return (level, message, about = {}) => {
    if (level === 'debug' && !isVerbose()) return;
    write(`${JSON.stringify({ time: new Date().toISOString(), level, message, ...about })}\n`);
  };
}
