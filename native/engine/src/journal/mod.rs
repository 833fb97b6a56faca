//! The journal: how far a transfer has come, kept in the target itself where the held-back head will be.
//!
//! While a transfer runs, the first MiB of the target holds an authenticated record in sector 0, the caller's
//! identity, and two slots for checkpoints, written in turn. Nothing in it looks like a partition table or a file
//! system. The format and the steps of finishing are in docs/journal.md.

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::error::{Code, Error, Result, Stage};

mod checkpoint;
mod finishing;
mod layout;
mod probes;
mod slot;

pub use checkpoint::{Checkpoint, ZeroKnown};
pub use finishing::STEPS;
pub use layout::{FILLER, LEAST, ROOM};
use layout::{Found, Kind, LARGE_BOX, Record, SLOT, SLOTS, SMALL_BOX, Writer, ensure_ours};
use slot::Content;

/// Longest identity, in bytes.
pub const IDENTITY: usize = 16 << 10;

/// The target as the journal sees it. Buffers are aligned to 4096 bytes in memory; offsets and lengths are
/// multiples of 4096 except where a single sector, the front behind it, or an odd end of the disk is written.
pub trait Store: Send + Sync {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<()>;
    fn write(&self, at: u64, bytes: &[u8]) -> Result<()>;
    /// All that was written before is durable when this returns.
    fn flush(&self) -> Result<()>;
    /// Bytes of the file or device now.
    fn length(&self) -> u64;
}

/// Authenticates and masks the journal; an earlier owner of the volume must not know it.
#[derive(Clone)]
pub struct Key {
    mac: [u8; 32],
    mask: [u8; 32],
    piece: [u8; 32],
}

impl Key {
    pub fn new(key: [u8; 32]) -> Self {
        Self {
            mac: blake3::derive_key("diskferry journal 1 authentication", &key),
            mask: blake3::derive_key("diskferry journal 1 mask", &key),
            piece: blake3::derive_key("diskferry journal 1 last block", &key),
        }
    }

    fn hmac(&self, domain: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.mac).expect("HMAC takes keys of any length");
        mac.update(domain.as_bytes());
        parts.iter().for_each(|part| mac.update(part));
        mac
    }

    fn mac(&self, domain: &str, parts: &[&[u8]]) -> [u8; 32] {
        self.hmac(domain, parts).finalize().into_bytes().into()
    }

    fn verify(&self, domain: &str, parts: &[&[u8]], mac: &[u8]) -> bool {
        self.hmac(domain, parts).verify_slice(mac).is_ok()
    }

    /// Masks or unmasks in place.
    fn mask(&self, nonce: &[u8; 16], bytes: &mut [u8]) {
        let mut stream = blake3::Hasher::new_keyed(&self.mask).update(nonce).finalize_xof();
        let mut pad = [0_u8; 4096];
        for chunk in bytes.chunks_mut(pad.len()) {
            stream.fill(&mut pad[..chunk.len()]);
            chunk.iter_mut().zip(&pad).for_each(|(byte, pad)| *byte ^= pad);
        }
    }

    /// Recognises a piece of the last block again.
    fn piece(&self, nonce: &[u8; 16], index: usize, piece: &[u8]) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new_keyed(&self.piece);
        hasher.update(nonce).update(&(index as u64).to_le_bytes()).update(piece);
        hasher.finalize().as_bytes()[..8].try_into().expect("8 of 32 bytes")
    }
}

/// A disk that is verified and whose held ends are being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finishing {
    /// BLAKE3 of the identity's bytes.
    pub identity_hash: [u8; 32],
    pub virtual_size: u64,
    pub disk_digest: [u8; 32],
    pub source_digest: Option<[u8; 32]>,
    /// BLAKE3 of the held head, 1 MiB.
    pub head_hash: [u8; 32],
    pub resumes: u32,
    pub written: u64,
    pub zeroed: u64,
    pub skipped: u64,
}

/// What the first MiB of a target holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// No journal. What else is there is for the caller to find out.
    Nothing,
    /// A journal of another key or version: never resumed.
    Foreign,
    /// Begun, no checkpoint yet.
    Started {
        identity_hash: [u8; 32],
        identity: Option<String>,
    },
    Checkpoint(Box<Checkpoint>),
    /// Verified; only the ends are missing. The identity's text is lost in the last step but one.
    Finishing {
        finishing: Box<Finishing>,
        identity: Option<String>,
    },
}

/// BLAKE3 of an identity or a held head.
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

fn random() -> Result<[u8; 16]> {
    let mut bytes = [0_u8; 16];
    // getrandom(2): up to 256 bytes are never cut short once the pool is ready.
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(16) => Ok(bytes),
        Ok(n) => Err(Error::new(Code::Io, Stage::Target, format!("the system's random source gave {n} of 16 bytes"))),
        Err(cause) => Err(Error::target("random source", &cause.into())),
    }
}

/// What `recover` reads, with what a writer needs to go on.
struct Survey {
    record: Record,
    identity: Option<String>,
    /// The newest checkpoint: its slot and sequence.
    newest: Option<(usize, u64, Checkpoint)>,
    epoch: u64,
}

fn survey(store: &dyn Store, key: &Key, record: Record) -> Result<Survey> {
    let mut identity = None;
    for (at, room) in [SMALL_BOX, LARGE_BOX] {
        let text = slot::open(store, key, Content::Identity, at, room)?
            .filter(|opened| opened.writer.journal == record.writer.journal && hash(&opened.payload) == record.identity)
            .and_then(|opened| String::from_utf8(opened.payload).ok());
        identity = identity.or(text);
    }
    let mut newest: Option<(u64, u64, usize, Checkpoint)> = None;
    for (index, at) in SLOTS.into_iter().enumerate() {
        let Some(opened) = slot::open(store, key, Content::Checkpoint, at, SLOT)? else { continue };
        if opened.writer.journal != record.writer.journal {
            continue;
        }
        // The epoch comes first: an old run that was held up between its check and its write must not win.
        let order = (opened.writer.epoch, opened.sequence);
        if newest.as_ref().is_some_and(|(epoch, sequence, ..)| (*epoch, *sequence) >= order) {
            continue;
        }
        if let Some(checkpoint) = Checkpoint::decode(&opened.payload) {
            newest = Some((order.0, order.1, index, checkpoint));
        }
    }
    let epoch = newest.as_ref().map_or(0, |found| found.0).max(record.writer.epoch);
    let newest = newest.map(|(_, sequence, index, checkpoint)| (index, sequence, checkpoint));
    Ok(Survey { record, identity, newest, epoch })
}

impl Survey {
    fn recovered(&self) -> Recovered {
        match (&self.record.kind, &self.newest) {
            (Kind::Finishing(finishing, _), _) => {
                Recovered::Finishing { finishing: finishing.clone(), identity: self.identity.clone() }
            }
            (Kind::Started, Some((.., checkpoint))) => Recovered::Checkpoint(Box::new(checkpoint.clone())),
            (Kind::Started, None) if self.identity.is_some() => {
                Recovered::Started { identity_hash: self.record.identity, identity: self.identity.clone() }
            }
            // A small disk was being put over the journal: whose it was is gone, and nothing can go on from it.
            (Kind::Started, None) => Recovered::Nothing,
        }
    }
}

/// Reads what a run left on the target, without changing it.
pub fn recover(store: &dyn Store, key: &Key) -> Result<Recovered> {
    match Record::find(store, key)? {
        Found::Nothing => Ok(Recovered::Nothing),
        Found::Foreign => Ok(Recovered::Foreign),
        Found::Ours(record) => Ok(survey(store, key, record)?.recovered()),
    }
}

/// Whether [`recover`] found nothing because a transfer was cut where its journal does not tell whose it was: while it
/// was laid out (the filler stands and no record yet), or while a small disk was put over it (the record stands alone).
/// Nothing else is there, so a transfer may begin.
pub fn was_beginning(store: &dyn Store) -> Result<bool> {
    if layout::is_started(store)? {
        return Ok(true);
    }
    if store.length() < ROOM as u64 {
        return Ok(false);
    }
    // Between the small box and the first slot there is nothing else.
    let from = SMALL_BOX.0 + SMALL_BOX.1;
    let mut front = crate::bytes::Aligned::zeroed(SLOTS[0] - from);
    store.read(from as u64, &mut front)?;
    Ok(front.iter().all(|byte| *byte == FILLER))
}

/// Overwrites the journal with zeros, durably. On a target whose transfer finished this destroys the disk's head:
/// the caller asks [`recover`] first.
pub fn forget(store: &dyn Store) -> Result<()> {
    let room = store.length().min(ROOM as u64) as usize;
    // Sector 0 last, so that a cut leaves the record, and forgetting can be repeated.
    let head = room.min(layout::BLOCK);
    layout::write_aligned(store, head as u64, &vec![0; room - head])?;
    store.flush()?;
    layout::write_aligned(store, 0, &vec![0; head])?;
    store.flush()
}

/// The right to write one target's journal, until another run takes over.
pub struct Journal {
    store: Arc<dyn Store>,
    key: Key,
    record: Record,
    /// False for targets shorter than [`LEAST`], which hold no record.
    armed: bool,
    slot: usize,
    sequence: u64,
}

impl Journal {
    /// Fills the head room and writes the record, durably. Whatever was there is lost.
    pub fn begin(store: Arc<dyn Store>, key: &Key, identity: &str) -> Result<Self> {
        if identity.len() > IDENTITY {
            let message = format!("the source's identity has {} bytes, at most {IDENTITY} are kept", identity.len());
            return Err(Error::new(Code::BadSpec, Stage::Target, message));
        }
        let writer = Writer { journal: random()?, nonce: random()?, epoch: 1 };
        let record = Record { writer, identity: hash(identity.as_bytes()), kind: Kind::Started };
        let length = store.length();
        let armed = length >= LEAST;
        let journal = Self { store, key: key.clone(), record, armed, slot: 0, sequence: 0 };
        if !armed {
            return Ok(journal);
        }
        let store = &*journal.store;
        let mut room = crate::bytes::Aligned::zeroed(length.min(ROOM as u64) as usize);
        room.fill(FILLER);
        for (at, space) in [SMALL_BOX, LARGE_BOX] {
            if at + space > room.len() {
                continue;
            }
            let sealed = slot::seal(key, Content::Identity, &writer, 0, identity.as_bytes(), at, space)?;
            if let Some(sealed) = sealed {
                room[at..at + sealed.len()].copy_from_slice(&sealed);
                break;
            }
        }
        // The record only stands once old slots and old content are durably gone from the room.
        store.write(layout::BLOCK as u64, &room[layout::BLOCK..])?;
        store.flush()?;
        journal.write_record(false)?;
        Ok(journal)
    }

    /// Drops every checkpoint, durably, and leaves the record of a transfer that has just begun.
    pub fn begin_again(&self, identity: &str) -> Result<()> {
        Self::begin(Arc::clone(&self.store), &self.key, identity).map(drop)
    }

    /// Goes on with the journal that is there, with a new nonce and the next epoch, durable when this returns: the
    /// run that wrote it before stops with BUSY at its next step. Fails with CHANGED where no journal of ours is.
    pub fn take_over(store: Arc<dyn Store>, key: &Key) -> Result<(Self, Recovered)> {
        let none = || {
            let message = "the target holds no journal of this key; begin again with --fresh";
            Error::new(Code::Changed, Stage::Target, message)
        };
        let Found::Ours(record) = Record::find(&*store, key)? else { return Err(none()) };
        let survey = survey(&*store, key, record)?;
        let recovered = survey.recovered();
        if recovered == Recovered::Nothing {
            return Err(none());
        }
        let Survey { mut record, newest, epoch, .. } = survey;
        record.writer.nonce = random()?;
        record.writer.epoch = epoch.checked_add(1).ok_or_else(|| {
            Error::new(Code::Corrupt, Stage::Target, "the journal's epoch is at its end; begin again with --fresh")
        })?;
        let (slot, sequence) = newest.map_or((0, 0), |(slot, sequence, _)| (1 - slot, sequence));
        let finishing = matches!(record.kind, Kind::Finishing(..));
        let journal = Self { store, key: key.clone(), record, armed: true, slot, sequence };
        journal.write_record(finishing)?;
        Ok((journal, recovered))
    }

    /// 1 for the run that began the journal, one more for each that took it over.
    pub fn epoch(&self) -> u64 {
        self.record.writer.epoch
    }

    /// Makes a checkpoint durable in the older slot. The caller has flushed the data that it speaks of. Targets
    /// shorter than the head room keep none: their disks are held whole. Fails with BUSY when another run took over.
    pub fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        if self.store.length() < ROOM as u64 {
            return Ok(());
        }
        let payload = checkpoint.encode()?;
        let at = SLOTS[self.slot];
        let sequence = self.sequence + 1;
        let sealed = slot::seal(&self.key, Content::Checkpoint, &self.record.writer, sequence, &payload, at, SLOT)?
            .ok_or_else(|| Error::new(Code::Io, Stage::Target, "a checkpoint outgrew its slot without its state"))?;
        self.ensure_ours()?;
        self.store.write(at as u64, &sealed)?;
        self.store.flush()?;
        self.sequence = sequence;
        self.slot = 1 - self.slot;
        Ok(())
    }

    /// Fails with BUSY when another run took over. Cheap: one read of 128 KiB.
    pub fn ensure_ours(&self) -> Result<()> {
        if !self.armed {
            return Ok(());
        }
        ensure_ours(&*self.store, &self.key, &self.record.writer)
    }

    fn write_record(&self, guard: bool) -> Result<()> {
        let place = self.record.place();
        let block = self.record.encode(&self.key, guard);
        // Elsewhere than at a multiple of 4096 the target writes sectors of 512.
        let length = if place.is_multiple_of(layout::BLOCK) { layout::BLOCK } else { layout::SECTOR };
        self.store.write(place as u64, &block[..length])?;
        self.store.flush()
    }
}
