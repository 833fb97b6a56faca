//! Where everything lies in the first MiB of a target while a transfer runs, and the record in its first sector.
//!
//! docs/journal.md gives the same in tables. All integers are little-endian.

use crate::bytes::Aligned;
use crate::error::{Code, Error, Result, Stage};

use super::{Finishing, Key, Store};

/// Bytes at the start of a target that belong to the journal while a transfer runs.
pub const ROOM: usize = 1 << 20;
/// Shortest target on which a journal is begun: the block of sector 0 and the block after it.
pub const LEAST: u64 = 8192;
/// Everything below this offset is put in place in the last two steps only ("the front"): GPT headers and the first
/// superblock of nearly every file system lie there, the farthest at 68 KiB.
pub const FRONT: usize = 128 << 10;
pub const BLOCK: usize = 4096;
/// Offsets of the two slots, and the room of each. Both stay clear of the first 68 KiB, where magics of two bytes live.
pub const SLOTS: [usize; 2] = [128 << 10, 576 << 10];
pub const SLOT: usize = 384 << 10;
/// The caller's identity lies here when it fits, so that it survives until the front is written ...
pub const SMALL_BOX: (usize, usize) = (BLOCK, BLOCK);
/// ... else between the slots: offset and room.
pub const LARGE_BOX: (usize, usize) = ((512 << 10) + BLOCK, 32 << 10);
/// Not 0x00 (which would read as an empty disk), even (so that an Atari partition's flag, bit 0, is clear), no
/// letter or digit in Latin-1, no FAT media byte (0xF0, 0xF8..), and in no magic that we know of.
pub const FILLER: u8 = 0xA6;

/// Smallest sector that any device writes as one.
pub const SECTOR: usize = 512;
/// Where the record may stand while finishing: 0, or the sector of a magic in [`commit_place`].
const PLACES: [usize; 8] = [0, 512, 1024, 1536, 3584, 4096, 32 << 10, 64 << 10];
/// A piece of the disk's end is recognised at this grain: a torn write leaves whole sectors.
pub const PIECES: usize = BLOCK / SECTOR;

const RECORD_AT: usize = 64;
const FIELDS: usize = 344;
const MAC: usize = 32;
const MAGIC: &[u8; 8] = b"dfry-jr1";
const VERSION: u8 = 1;
/// Offsets of the four partition entries and of 55 AA in a master boot record.
const ENTRIES: usize = 446;
const SIGNATURE: usize = 510;
const TEXT: &[u8; 56] = b"diskferry: unfinished transfer; see `diskferry inspect`\n";
/// INT 18h (no boot from here), HLT, JMP $: what a BIOS runs that takes 55 AA for a boot sector.
const NO_BOOT: [u8; 5] = [0xcd, 0x18, 0xf4, 0xeb, 0xfd];

/// Who writes: fresh at every start of a run, so that an older run sees that it was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer {
    /// Drawn when the journal was begun; slots of another journal do not count.
    pub journal: [u8; 16],
    pub nonce: [u8; 16],
    /// 1 for the run that began the journal, one more for each that took it over.
    pub epoch: u64,
}

/// What only finishing needs, beside what the caller tells in [`Finishing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Offset of the sector that is written last; the record stands there until then. Not in the record's fields.
    pub place: usize,
    /// Offset of the end of the disk; its last block begins at the multiple of 4096 below.
    pub end: u64,
    pub mask_nonce: [u8; 16],
    /// Keyed hash of each 512-byte piece of the last block, in the clear.
    pub pieces: [[u8; 8]; PIECES],
}

impl Ends {
    pub fn last_at(&self) -> u64 {
        (self.end - 1) / BLOCK as u64 * BLOCK as u64
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Started,
    Finishing(Box<Finishing>, Ends),
}

/// The sector whose writing makes the disk visible to probes, so that it is written last: sector 0 where a partition
/// table or boot sector is there or nothing is recognised, else the sector of the file system's magic (a multiple
/// of 512; offsets as in libblkid 2.38). `head` is at least the front.
pub fn commit_place(head: &[u8]) -> usize {
    const MAGICS: &[(usize, &[u8])] = &[
        (512, b"LABELONE"),
        (1024, b"LABELONE"),
        (1536, b"LABELONE"),
        (0x438, b"\x53\xef"),
        (0x400, b"\x10\x20\xf5\xf2"),
        (0x400, b"\xe2\xe1\xf5\xe0"),
        (0x400, b"BD"),
        (0x400, b"H+"),
        (0x400, b"HX"),
        (0x406, b"\x34\x34"),
        (4086, b"SWAP"),
        (4096, b"\xfc\x4e\x2b\xa9"),
        (4120, b"\xc6\x85\x73\xf6"),
        (0x8000, b"JFS1"),
        (0x8001, b"CD001"),
        (0x8001, b"BEA01"),
        (0x10000, b"\x01\x16\x19\x70"),
        (0x10034, b"ReIsEr"),
        (0x10040, b"_BHRfS_M"),
    ];
    let is = |(at, magic): &(usize, &[u8])| head[*at..].starts_with(magic);
    if [(SIGNATURE, &b"\x55\xaa"[..]), (512, b"EFI PART"), (4096, b"EFI PART")].iter().any(is) {
        return 0;
    }
    MAGICS.iter().find(|magic| is(magic)).map_or(0, |(at, _)| at / SECTOR * SECTOR)
}

/// The authenticated record in sector 0, or while finishing at [`Ends::place`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub writer: Writer,
    /// BLAKE3 of the caller's identity.
    pub identity: [u8; 32],
    pub kind: Kind,
}

/// What was found at the places of the record.
pub enum Found {
    Nothing,
    Foreign,
    Ours(Record),
}

struct Fields<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Fields<'_> {
    fn put(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }

    fn get<const N: usize>(&mut self) -> [u8; N] {
        let field = self.bytes[self.at..self.at + N].try_into().expect("N bytes");
        self.at += N;
        field
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.get())
    }
}

impl Record {
    /// The block of 4096 bytes at the record's place; only its first 512 bytes matter. While finishing, sector 0 ends like a master boot record whose
    /// entries no kernel and no libblkid accepts: sgdisk, which would otherwise trust a GPT whose headers are
    /// already in place, then refuses the disk (docs/journal.md, "What probes see").
    pub fn encode(&self, key: &Key, guard: bool) -> Aligned {
        let guard = guard && self.place() == 0;
        let mut block = Aligned::zeroed(BLOCK);
        block.fill(FILLER);
        let text_at = if guard { NO_BOOT.len() } else { 0 };
        block[..text_at].copy_from_slice(&NO_BOOT[..text_at]);
        block[text_at..text_at + TEXT.len()].copy_from_slice(TEXT);

        let mut raw = [0_u8; FIELDS];
        let mut fields = Fields { bytes: &mut raw, at: 0 };
        fields.put(MAGIC);
        fields.put(&[VERSION, u8::from(matches!(self.kind, Kind::Finishing(..)))]);
        fields.put(&self.writer.journal);
        fields.put(&self.writer.nonce);
        fields.put(&self.writer.epoch.to_le_bytes());
        fields.put(&self.identity);
        if let Kind::Finishing(finishing, ends) = &self.kind {
            fields.put(&finishing.virtual_size.to_le_bytes());
            fields.put(&finishing.disk_digest);
            fields.put(&[u8::from(finishing.source_digest.is_some())]);
            fields.put(&finishing.source_digest.unwrap_or_default());
            fields.put(&finishing.head_hash);
            fields.put(&finishing.resumes.to_le_bytes());
            fields.put(&finishing.written.to_le_bytes());
            fields.put(&finishing.zeroed.to_le_bytes());
            fields.put(&finishing.skipped.to_le_bytes());
            fields.put(&ends.end.to_le_bytes());
            fields.put(&ends.mask_nonce);
            ends.pieces.iter().for_each(|piece| fields.put(piece));
        }
        block[RECORD_AT..RECORD_AT + FIELDS].copy_from_slice(&raw);
        let mac = key.mac("record", &[&(self.place() as u64).to_le_bytes(), &raw]);
        block[RECORD_AT + FIELDS..RECORD_AT + FIELDS + MAC].copy_from_slice(&mac);
        if guard {
            // Boot indicators that are neither 0x00 nor 0x80: the kernel (block/partitions/msdos.c) and libblkid
            // (partitions/dos.c) reject the table. Type 0 and no sectors: nothing for those that don't look.
            for entry in block[ENTRIES..SIGNATURE].as_chunks_mut::<16>().0 {
                *entry = [0; 16];
                entry[0] = FILLER;
            }
            block[SIGNATURE..SECTOR].copy_from_slice(&[0x55, 0xaa]);
        }
        block
    }

    /// Offset of the sector that the record stands in.
    pub fn place(&self) -> usize {
        match &self.kind {
            Kind::Started => 0,
            Kind::Finishing(_, ends) => ends.place,
        }
    }

    fn decode(block: &[u8], place: usize, key: &Key) -> Found {
        let mut raw: [u8; FIELDS] = block[RECORD_AT..RECORD_AT + FIELDS].try_into().expect("FIELDS bytes");
        let mac = &block[RECORD_AT + FIELDS..RECORD_AT + FIELDS + MAC];
        if !raw.starts_with(MAGIC) {
            return Found::Nothing;
        }
        if !key.verify("record", &[&(place as u64).to_le_bytes(), &raw], mac) || raw[8] != VERSION {
            return Found::Foreign;
        }
        let mut fields = Fields { bytes: &mut raw, at: MAGIC.len() + 1 };
        let [kind] = fields.get();
        let writer = Writer { journal: fields.get(), nonce: fields.get(), epoch: fields.number() };
        let identity = fields.get();
        let kind = match kind {
            0 if place == 0 => Kind::Started,
            1 => {
                let virtual_size = fields.number();
                let disk_digest = fields.get();
                let [has_source] = fields.get();
                let source: [u8; 32] = fields.get();
                let finishing = Finishing {
                    identity_hash: identity,
                    virtual_size,
                    disk_digest,
                    source_digest: (has_source == 1).then_some(source),
                    head_hash: fields.get(),
                    resumes: u32::from_le_bytes(fields.get()),
                    written: fields.number(),
                    zeroed: fields.number(),
                    skipped: fields.number(),
                };
                let ends = Ends {
                    place,
                    end: fields.number(),
                    mask_nonce: fields.get(),
                    pieces: std::array::from_fn(|_| fields.get()),
                };
                if ends.end == 0 {
                    return Found::Foreign;
                }
                Kind::Finishing(Box::new(finishing), ends)
            }
            _ => return Found::Foreign,
        };
        Found::Ours(Record { writer, identity, kind })
    }

    /// Looks at each place. A record of finishing counts before that of the start, which may still stand in
    /// sector 0. On a target shorter than [`LEAST`] one stands where a small disk's file has its length but not yet
    /// its sector 0.
    pub fn find(store: &dyn Store, key: &Key) -> Result<Found> {
        let length = store.length().min(FRONT as u64) as usize / SECTOR * SECTOR;
        let mut front = Aligned::zeroed(length);
        store.read(0, &mut front)?;
        let mut found = Found::Nothing;
        for place in PLACES.into_iter().filter(|place| place + SECTOR <= length) {
            match Self::decode(&front[place..place + SECTOR], place, key) {
                Found::Ours(record) if record.kind != Kind::Started => return Ok(Found::Ours(record)),
                Found::Ours(record) => found = Found::Ours(record),
                Found::Foreign if matches!(found, Found::Nothing) => found = Found::Foreign,
                Found::Foreign | Found::Nothing => {}
            }
        }
        Ok(found)
    }
}

/// Whether the record of a start stands in sector 0, of whatever key.
pub fn is_started(store: &dyn Store) -> Result<bool> {
    if store.length() < SECTOR as u64 {
        return Ok(false);
    }
    let mut sector = Aligned::zeroed(SECTOR);
    store.read(0, &mut sector)?;
    let fields = &sector[RECORD_AT..];
    Ok(fields.starts_with(MAGIC) && fields[MAGIC.len() + 1] == 0)
}

/// Fails with BUSY unless the target still carries this writer's record.
pub fn ensure_ours(store: &dyn Store, key: &Key, ours: &Writer) -> Result<()> {
    let what = match Record::find(store, key)? {
        Found::Ours(record) if record.writer == *ours => return Ok(()),
        Found::Ours(record) if record.writer.journal == ours.journal => {
            format!("another run took over this target (epoch {}, ours was {})", record.writer.epoch, ours.epoch)
        }
        Found::Ours(_) => "another run began a new transfer on this target".to_owned(),
        Found::Foreign => "a run with another key began a transfer on this target".to_owned(),
        Found::Nothing => "another program wrote over the journal of this target".to_owned(),
    };
    Err(Error::new(Code::Busy, Stage::Target, format!("{what}; this run stopped without touching it again")))
}

/// Writes bytes of any alignment through an aligned buffer, in pieces of at most 1 MiB.
pub fn write_aligned(store: &dyn Store, at: u64, bytes: &[u8]) -> Result<()> {
    let mut at = at;
    let mut buffer = Aligned::zeroed(bytes.len().min(ROOM));
    for piece in bytes.chunks(ROOM) {
        buffer[..piece.len()].copy_from_slice(piece);
        store.write(at, &buffer[..piece.len()])?;
        at += piece.len() as u64;
    }
    Ok(())
}
