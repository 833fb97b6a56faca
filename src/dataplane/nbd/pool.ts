import { FerryError } from '../errors.ts';
import type { Connection } from './connection.ts';

/** A connection, or one that is being opened, and the reads that use it. */
interface Slot {
  readonly opening: Promise<Connection>;
  opened?: Connection;
  users: number;
}

export interface Lease {
  readonly connection: Connection;
  /** Gives it back. `owed` = answers are still to come that nobody waits for. May be called once. */
  back(owed: boolean): void;
}

/** The connections of one export, opened as they are needed. */
export class Pool {
  readonly #connect: () => Promise<Connection>;
  readonly #most: number;
  #slots: Slot[] = [];
  #closed = false;

  /** `most` connections at once; `first` is open already. */
  constructor(connect: () => Promise<Connection>, most: number, first: Connection) {
    this.#connect = connect;
    this.#most = most;
    this.#slots.push({ opening: Promise.resolve(first), opened: first, users: 0 });
  }

  /** A connection that nobody uses, a new one, or the one with the fewest reads. Errors are those of connecting. */
  async take(): Promise<Lease> {
    if (this.#closed) throw stopped();
    this.#slots = this.#slots.filter(({ opened }) => opened === undefined || opened.usable);
    const [idlest] = [...this.#slots].sort((one, other) => one.users - other.users);
    const slot = idlest && (idlest.users === 0 || this.#slots.length >= this.#most) ? idlest : this.#open();
    slot.users += 1;
    try {
      const connection = await slot.opening;
      return { connection, back: (owed) => this.#back(slot, connection, owed) };
    } catch (error) {
      this.#slots = this.#slots.filter((one) => one !== slot);
      throw error;
    }
  }

  /** Ends all connections; no other is opened. May be called twice. */
  close(): void {
    this.#closed = true;
    for (const { opened } of this.#slots) opened?.end(stopped());
  }

  #open(): Slot {
    const slot: Slot = { opening: this.#connect(), users: 0 };
    slot.opening.then(
      (connection) => {
        slot.opened = connection;
        if (this.#closed) connection.end(stopped());
      },
      () => undefined, // told where it is awaited
    );
    this.#slots.push(slot);
    return slot;
  }

  #back(slot: Slot, connection: Connection, owed: boolean): void {
    slot.users -= 1;
    // What is owed may never come: nothing else is to wait behind it.
    if (owed) connection.retired = true;
    if (slot.users === 0 && connection.retired) connection.end(stopped());
  }
}

export function stopped(): FerryError {
  return new FerryError('the transfer was stopped', { code: 'ABORTED', stage: 'source' });
}
