//! The journal: whatever the first MiB of a target holds, nothing unauthenticated is taken for a journal of ours, and
//! what is authenticated but odd does no harm.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blake3::derive_key;
use diskferry_engine::error::{Code, Result};
use diskferry_engine::journal::{FILLER, Journal, Key, ROOM, Recovered, Store, hash, recover};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{memory, patches};

const KEY: [u8; 32] = [7; 32];
/// Twice the room (head and front), both slots sealed and open, and the store's own copy.
const BOUND: usize = 6 << 20;
/// Offsets of docs/journal.md.
const RECORD: usize = 64;
const FIELDS: usize = 344;
const PLACES: [usize; 8] = [0, 512, 1024, 1536, 3584, 4096, 32 << 10, 64 << 10];
const BOXES: [(usize, u8); 4] = [(4096, 1), (516 << 10, 1), (128 << 10, 0), (576 << 10, 0)];
/// Lengths of the targets: around the least that holds a record, the room, and odd ones.
const LENGTHS: [usize; 8] = [ROOM, ROOM + 8192, 2 * ROOM, 8192, 4096, ROOM - 4096, 132 << 10, ROOM + 5000];

/// A target in memory. Reading beyond its end is a finding.
pub struct Stored(Mutex<Vec<u8>>);

impl Stored {
    pub fn filled(length: usize) -> Self {
        Self(Mutex::new(vec![FILLER; length]))
    }

    pub fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Stored {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        into.copy_from_slice(&self.bytes()[at as usize..at as usize + into.len()]);
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        assert!(at.is_multiple_of(512), "a write at {at}");
        self.bytes()[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn length(&self) -> u64 {
        self.bytes().len() as u64
    }
}

pub fn key() -> Key {
    Key::new(KEY)
}

/// First byte: the length of the target; then patches.
pub fn check(input: &[u8]) {
    let Some((length, input)) = input.split_first() else { return };
    let stored = Stored::filled(LENGTHS[usize::from(*length) % LENGTHS.len()]);
    patches::apply(input, &mut stored.bytes());
    memory::within(BOUND, || go_on(Arc::new(stored), None));
}

fn go_on(store: Arc<Stored>, head: Option<&[u8]>) {
    let found = recover(&*store, &key()).expect("memory can be read");
    if matches!(found, Recovered::Nothing | Recovered::Foreign) {
        let refused = Journal::take_over(store.clone(), &key()).err().map(|error| error.code);
        assert_eq!(refused, Some(Code::Changed));
        return;
    }
    let (mut journal, again) = match Journal::take_over(store.clone(), &key()) {
        Ok(taken) => taken,
        // The epoch is at its end.
        Err(error) if error.code == Code::Corrupt => return,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(found, again);
    match found {
        Recovered::Checkpoint(checkpoint) => {
            assert!(checkpoint.restart.as_ref().is_none_or(|restart| restart.source_offset <= checkpoint.watermark));
            match journal.checkpoint(&checkpoint) {
                Ok(()) => {}
                Err(error) if error.code == Code::BadSpec => return,
                Err(error) => panic!("{error}"),
            }
            // Nothing was added, so that it fits its slot as it did before.
            assert_eq!(recover(&*store, &key()).expect("memory"), Recovered::Checkpoint(checkpoint));
        }
        Recovered::Finishing { .. } => {
            let Some(head) = head else { return };
            for sector in [4096, 512] {
                let Ok((journal, _)) = Journal::take_over(store.clone(), &key()) else { return };
                let _ = journal.finish_again(head, sector, &|| Ok(()), &|_| ());
            }
        }
        _ => {}
    }
}

fn mac(domain: &str, parts: &[&[u8]]) -> [u8; 32] {
    let own = derive_key("diskferry journal 1 authentication", &KEY);
    let mut mac = Hmac::<Sha256>::new_from_slice(&own).expect("HMAC takes keys of any length");
    mac.update(domain.as_bytes());
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// Reads fields of an input, zeros behind its end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (now, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        now
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn block(&mut self) -> &'a [u8] {
        let length = u16::from_le_bytes([self.byte(), self.byte()]);
        self.take(length.into())
    }
}

/// A target whose MACs are right, made by docs/journal.md alone, whatever the fields say: length, place and flags (a
/// byte each), then the length (2 bytes) and the bytes of: the record from its kind on, and for each box its header
/// from byte 48 on with the payload.
pub fn check_sealed(input: &[u8]) {
    let mut fields = Fields(input);
    let length = LENGTHS[usize::from(fields.byte()) % LENGTHS.len()];
    let place = PLACES[usize::from(fields.byte()) % PLACES.len()];
    let flags = fields.byte();
    let mut raw = [0; FIELDS];
    raw[..9].copy_from_slice(b"dfry-jr1\x01");
    let given = fields.block();
    let n = given.len().min(FIELDS - 9);
    raw[9..9 + n].copy_from_slice(&given[..n]);
    let head = vec![u8::from(flags & 1 != 0) * 0x33; ROOM];
    if flags & 2 != 0 {
        raw[155..187].copy_from_slice(&hash(&head));
    }
    let stored = Stored::filled(length);
    let mut bytes = stored.bytes();
    for (index, (at, content)) in BOXES.into_iter().enumerate() {
        let given = fields.block();
        let (numbers, payload) = given.split_at(given.len().min(16));
        if content == 1 && index == usize::from(flags >> 2 & 1) && flags & 8 == 0 {
            raw[50..82].copy_from_slice(&hash(payload));
        }
        let mut journal: [u8; 16] = raw[10..26].try_into().expect("16 bytes");
        journal[0] ^= u8::from(flags >> (4 + index) & 1 != 0);
        put_box(&mut bytes, at, content, &journal, numbers, payload);
    }
    if place + 512 <= bytes.len() {
        bytes[place + RECORD..place + RECORD + FIELDS].copy_from_slice(&raw);
        let mac = mac("record", &[&(place as u64).to_le_bytes(), &raw]);
        bytes[place + RECORD + FIELDS..place + RECORD + FIELDS + 32].copy_from_slice(&mac);
    }
    drop(bytes);
    memory::within(BOUND, || go_on(Arc::new(stored), Some(&head)));
}

/// `numbers`: epoch and sequence.
fn put_box(target: &mut [u8], at: usize, content: u8, journal: &[u8; 16], numbers: &[u8], payload: &[u8]) {
    let mut header = [0; 96];
    header[..8].copy_from_slice(b"dfryslot");
    header[8..10].copy_from_slice(&[1, content]);
    header[16..32].copy_from_slice(journal);
    header[48..48 + numbers.len()].copy_from_slice(numbers);
    header[80..84].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    let mut body = payload.to_vec();
    let mut pad = vec![0; body.len()];
    let mask = derive_key("diskferry journal 1 mask", &KEY);
    blake3::Hasher::new_keyed(&mask).update(&[0; 16]).finalize_xof().fill(&mut pad);
    body.iter_mut().zip(&pad).for_each(|(byte, pad)| *byte ^= pad);
    let sealed = [&header[..], &body, &mac("slot", &[&header, &body])].concat();
    if !payload.is_empty()
        && let Some(place) = target.get_mut(at..at + sealed.len())
    {
        place.copy_from_slice(&sealed);
    }
}
