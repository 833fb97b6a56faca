/** An upload that was begun. */
export interface Known {
  readonly way: 'ietf' | 'tus' | 'ranges';
  /** Where it can be gone on with. A secret: whoever knows it can send to it. */
  readonly place: string;
  /** Which source, and in which shape it is sent: of another one nothing can be gone on with. */
  readonly of: string;
  /** In ranges: byte of the disk below which all is there. */
  readonly sent?: number;
}

/** What the next process must know of an upload of this file to this address. */
export interface Memory {
  readonly known: Known | undefined;
  keep(known: Known): Promise<void>;
  forget(): Promise<void>;
}
