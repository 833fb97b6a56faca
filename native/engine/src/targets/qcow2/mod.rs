//! A qcow2 file as the target (docs/interop/qcow2.txt): the disk is written into a draft beside it, which takes its name
//! when everything is verified. It keeps no journal: a second run starts over.

mod allocation;
mod draft;
mod packing;
mod tables;

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use self::allocation::{Allocation, REFCOUNT_ORDER};
use self::draft::Draft;
use self::packing::Packers;
use self::tables::{COMPRESSED, COPIED, ENTRY, MOST_L1, Tables, l1_entries};
use super::{Facts, Kind, Target};
use crate::digest::LEAF;
use crate::error::{Code, Error, Result, Stage};
use crate::zeros::{GRAIN, is_zero};

pub use self::packing::Compression;

/// Guests see whole sectors.
const SECTOR: u64 = 512;
/// Clusters that QEMU takes (block/qcow2.h, MIN_CLUSTER_BITS and MAX_CLUSTER_BITS).
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Bytes of the version 3 header with the compression type behind it, and padding to a multiple of 8.
const HEADER: u32 = 112;
/// Bit of the incompatible features: "Compression type", set where it is not zlib.
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
/// Offsets in entries: bits 9 to 55.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// What kind of file is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Bytes of a cluster: a power of two.
    pub cluster: u64,
    pub compression: Option<Compression>,
}

/// Bytes of a disk that QEMU shows whole: it leaves out a part of a sector.
pub fn whole_sectors(length: u64) -> u64 {
    length.next_multiple_of(SECTOR)
}

struct Map {
    room: Allocation,
    tables: Tables,
    /// Bytes that the guest sees; None = not known yet.
    length: Option<u64>,
    /// Where the L1 table lies, when room was left for it at the beginning.
    l1: Option<u64>,
}

pub struct Qcow2Target {
    facts: Facts,
    spec: Spec,
    draft: Draft,
    packers: Option<Packers>,
    /// Guards where everything lies in the file, not its contents: whoever was given a place writes there alone.
    map: Mutex<Map>,
    /// What the name stands for now; it stays locked until it is replaced.
    _replaced: Arc<dyn Target>,
}

/// A run of bytes to be written at one place.
struct Piece {
    host: u64,
    bytes: Range<usize>,
}

impl Qcow2Target {
    /// Begins a file that will replace `replaced`, opened from `path`. `length` of the disk in bytes, where it is known:
    /// then the tables that say where everything is lie in front of what they map, so that it can be read as a stream.
    ///
    /// BAD_SPEC for a cluster that QEMU does not take, or one too large to be compressed here; BUSY when another run
    /// writes the same file.
    pub fn begin(path: &Path, replaced: Arc<dyn Target>, spec: Spec, length: Option<u64>) -> Result<Self> {
        let bad = |what: String| Err(Error::new(Code::BadSpec, Stage::Target, what));
        if !spec.cluster.is_power_of_two() || !CLUSTER_BITS.contains(&spec.cluster.ilog2()) {
            return bad(format!("a cluster of {} bytes is no power of two from 512 to 2097152", spec.cluster));
        }
        if spec.compression.is_some() && spec.cluster > LEAF {
            return bad(format!("clusters of {} bytes cannot be compressed: give {LEAF} or less", spec.cluster));
        }
        if replaced.facts().kind != Kind::File {
            return bad(format!("{} is no file: only a file can be a qcow2", path.display()));
        }
        let most = (MOST_L1 / ENTRY).saturating_mul(spec.cluster / ENTRY).saturating_mul(spec.cluster);
        let l1 = length.map_or(0, |length| (l1_entries(length, spec.cluster) * ENTRY).div_ceil(spec.cluster));
        let map = Map {
            room: Allocation::new(spec.cluster, 1 + l1),
            tables: Tables::new(spec.cluster),
            length,
            l1: (l1 > 0).then_some(spec.cluster),
        };
        let facts = Facts {
            kind: Kind::Image,
            exists: true,
            length: 0,
            capacity: most.min(i64::MAX as u64),
            logical_block: SECTOR as u32,
            direct: false,
            zeroed: true,
            foreign: None,
        };
        Ok(Self {
            facts,
            spec,
            draft: Draft::begin(path)?,
            packers: spec.compression.map(Packers::new),
            map: Mutex::new(map),
            _replaced: replaced,
        })
    }

    fn map(&self) -> std::sync::MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes refcount blocks that are final.
    fn settle(&self, map: &mut Map) -> Result<()> {
        map.room.settled().iter().try_for_each(|block| self.draft.file().write(block.at, &block.bytes))
    }

    /// Where parts of clusters go: to the place of their cluster, which they are given if it has none.
    fn place(&self, at: u64, length: usize) -> Result<Vec<Piece>> {
        let cluster = self.spec.cluster;
        let mut pieces: Vec<Piece> = Vec::new();
        let mut map = self.map();
        let Map { room, tables, .. } = &mut *map;
        let mut done = 0;
        while done < length {
            let (guest, within) = ((at + done as u64) / cluster, (at + done as u64) % cluster);
            let n = (cluster - within).min((length - done) as u64) as usize;
            let mut entry = tables.entry(guest, self.draft.file())?;
            if entry & COMPRESSED != 0 {
                let what = format!("disk offset {} was given twice", at + done as u64);
                return Err(Error::new(Code::Io, Stage::Target, what));
            }
            if entry == 0 {
                // The table first, so that it lies in front of what it maps.
                tables.set(guest, 0, room, self.draft.file())?;
                entry = room.clusters(1) | COPIED;
                tables.set(guest, entry, room, self.draft.file())?;
            }
            let host = (entry & OFFSET) + within;
            match pieces.last_mut() {
                Some(last) if last.host + last.bytes.len() as u64 == host => last.bytes.end = done + n,
                _ => pieces.push(Piece { host, bytes: done..done + n }),
            }
            done += n;
        }
        self.settle(&mut map)?;
        Ok(pieces)
    }

    fn write_plain(&self, at: u64, bytes: &[u8]) -> Result<()> {
        for piece in self.place(at, bytes.len())? {
            self.draft.file().write(piece.host, &bytes[piece.bytes])?;
        }
        Ok(())
    }

    /// Writes whole clusters, compressed where that makes them shorter. The disk's last one may be short.
    fn write_packed(&self, packers: &Packers, at: u64, bytes: &[u8]) -> Result<()> {
        let cluster = self.spec.cluster as usize;
        let mut packed = Vec::new();
        let mut lengths = Vec::new();
        let mut last = Vec::new();
        for bytes in bytes.chunks(cluster) {
            // A guest cluster beyond the end of the disk reads as zeros, and is compressed whole.
            if bytes.len() < cluster {
                last = bytes.to_vec();
                last.resize(cluster, 0);
            }
            let whole = if bytes.len() < cluster { &last[..] } else { bytes };
            let place = at + (lengths.len() * cluster) as u64;
            lengths.push(match is_zero(whole) {
                true => None,
                // What has come in part has an uncompressed place already.
                false if self.has_place(place)? => Some(None),
                false => Some(packers.pack(whole, &mut packed)),
            });
        }
        let mut pieces: Vec<Piece> = Vec::new();
        let mut from = 0;
        for (n, length) in lengths.iter().enumerate() {
            let here = n * cluster..bytes.len().min((n + 1) * cluster);
            match length {
                None => {}
                Some(None) => self.write_plain(at + here.start as u64, &bytes[here])?,
                Some(Some(length)) => {
                    let host = self.place_packed(at + here.start as u64, *length as u64)?;
                    match pieces.last_mut() {
                        Some(last) if last.host + last.bytes.len() as u64 == host => last.bytes.end += length,
                        _ => pieces.push(Piece { host, bytes: from..from + length }),
                    }
                    from += length;
                }
            }
        }
        pieces.into_iter().try_for_each(|piece| self.draft.file().write_behind(piece.host, &packed[piece.bytes]))
    }

    fn has_place(&self, at: u64) -> Result<bool> {
        Ok(self.map().tables.entry(at / self.spec.cluster, self.draft.file())? != 0)
    }

    /// Where the compressed cluster of disk offset `at` goes. Its descriptor has the offset in its low bits and the
    /// sectors that it reaches into beyond the first above them ("Compressed Clusters Descriptor").
    fn place_packed(&self, at: u64, length: u64) -> Result<u64> {
        let guest = at / self.spec.cluster;
        let mut map = self.map();
        let Map { room, tables, .. } = &mut *map;
        tables.set(guest, 0, room, self.draft.file())?;
        let host = room.packed(length);
        let sectors = (host + length - 1) / SECTOR - host / SECTOR;
        let shift = 62 - (self.spec.cluster.ilog2() - 8);
        tables.set(guest, COMPRESSED | sectors << shift | host, room, self.draft.file())?;
        self.settle(&mut map)?;
        Ok(host)
    }

    /// Undoes [`Self::place_packed`]: the offset of a compressed cluster, and the bytes that hold it.
    fn extent(&self, entry: u64) -> (u64, u64) {
        let shift = 62 - (self.spec.cluster.ilog2() - 8);
        let host = entry & ((1 << shift) - 1);
        let sectors = (entry & !(COMPRESSED | COPIED)) >> shift;
        (host, (host / SECTOR + sectors + 1) * SECTOR - host)
    }

    fn header(&self, length: u64, l1: u64, refcounts: (u64, usize)) -> Vec<u8> {
        let zstd = self.spec.compression == Some(Compression::Zstd);
        let mut header = Vec::with_capacity(self.spec.cluster as usize);
        let mut put = |bytes: &[u8]| header.extend_from_slice(bytes);
        put(b"QFI\xfb");
        put(&3u32.to_be_bytes());
        // No backing file: its offset and length.
        put(&[0; 12]);
        put(&self.spec.cluster.ilog2().to_be_bytes());
        put(&length.to_be_bytes());
        put(&0u32.to_be_bytes()); // encryption
        put(&(l1_entries(length, self.spec.cluster) as u32).to_be_bytes());
        put(&l1.to_be_bytes());
        put(&refcounts.0.to_be_bytes());
        put(&((refcounts.1 as u64 / self.spec.cluster) as u32).to_be_bytes());
        put(&[0; 12]); // snapshots: their number and offset
        put(&(if zstd { INCOMPATIBLE_COMPRESSION } else { 0 }).to_be_bytes());
        put(&[0; 16]); // compatible and autoclear features
        put(&REFCOUNT_ORDER.to_be_bytes());
        put(&HEADER.to_be_bytes());
        put(&[u8::from(zstd)]);
        // Padding of the header, then the end of the header extensions, which is all zeros.
        header.resize(self.spec.cluster as usize, 0);
        header
    }
}

impl Target for Qcow2Target {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn create(&self) -> Result<()> {
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let Some(packers) = &self.packers else { return self.write_plain(at, bytes) };
        let cluster = self.spec.cluster;
        let end = at + bytes.len() as u64;
        // What is left of clusters that came in parts stays as it is: a cluster is compressed once, and whole.
        let first = at.next_multiple_of(cluster).min(end);
        let ends = self.map().length == Some(end);
        let last = if ends { end } else { (end / cluster * cluster).max(first) };
        let (lead, rest) = ((first - at) as usize, (last - at) as usize);
        if lead > 0 {
            self.write_plain(at, &bytes[..lead])?;
        }
        self.write_packed(packers, at + lead as u64, &bytes[lead..rest])?;
        if rest < bytes.len() {
            self.write_plain(at + rest as u64, &bytes[rest..])?;
        }
        Ok(())
    }

    fn grain(&self) -> usize {
        // A cluster that is to be compressed must come whole.
        if self.packers.is_some() { LEAF as usize } else { GRAIN }
    }

    fn zero(&self, at: u64, len: u64) -> Result<()> {
        let cluster = self.spec.cluster;
        let (mut from, end) = (at, at + len);
        while from < end {
            let upto = end.min((from / cluster + 1) * cluster);
            let entry = self.map().tables.entry(from / cluster, self.draft.file())?;
            if entry & COMPRESSED != 0 {
                let what = format!("disk offset {from} was given twice");
                return Err(Error::new(Code::Io, Stage::Target, what));
            }
            if entry != 0 {
                self.draft.file().write_zeros((entry & OFFSET) + from % cluster, upto - from)?;
            }
            from = upto;
        }
        Ok(())
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        let cluster = self.spec.cluster;
        let mut done = 0;
        while done < into.len() {
            let (guest, within) = ((at + done as u64) / cluster, (at + done as u64) % cluster);
            let n = (cluster - within).min((into.len() - done) as u64) as usize;
            let part = &mut into[done..done + n];
            let entry = {
                let mut map = self.map();
                // What is not written yet is not in the file yet either. Nobody is given a place meanwhile.
                self.draft.reach(map.room.end())?;
                map.tables.entry(guest, self.draft.file())?
            };
            if entry == 0 {
                part.fill(0);
            } else if let Some(packers) = self.packers.as_ref().filter(|_| entry & COMPRESSED != 0) {
                let (host, length) = self.extent(entry);
                let (mut packed, mut whole) = (vec![0; length as usize], vec![0; cluster as usize]);
                self.draft.file().read(host, &mut packed)?;
                packers.unpack(&packed, &mut whole)?;
                part.copy_from_slice(&whole[within as usize..within as usize + n]);
            } else {
                self.draft.file().read((entry & OFFSET) + within, part)?;
            }
            done += n;
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.draft.file().flush(true)
    }

    fn set_length(&self, len: u64) -> Result<()> {
        if len > self.facts.capacity {
            let what = format!(
                "the disk needs {len} bytes, a qcow2 with clusters of {} holds {}: give larger clusters",
                self.spec.cluster, self.facts.capacity
            );
            return Err(Error::new(Code::TooLarge, Stage::Target, what));
        }
        self.map().length = Some(len);
        Ok(())
    }

    fn preallocate(&self, _len: u64) -> Result<()> {
        Err(Error::new(Code::Unsupported, Stage::Target, "a qcow2 is not preallocated here"))
    }

    fn data_ranges(&self, from: u64, to: u64) -> Result<Vec<Range<u64>>> {
        Ok(std::iter::once(from..to).collect())
    }

    fn drop_cache(&self, _at: u64, _len: u64) {}

    fn commit(&self) -> Result<()> {
        let mut map = self.map();
        let file = self.draft.file();
        let length = map.length.ok_or_else(Error::aborted)?;
        let Map { room, tables, l1, .. } = &mut *map;
        let table = tables.finish(length, file)?;
        let l1 = match *l1 {
            Some(at) => at,
            None if table.is_empty() => 0,
            None => room.clusters((table.len() as u64).div_ceil(self.spec.cluster)),
        };
        file.write(l1, &table)?;
        let (refcount_table, bytes, blocks) = room.finish();
        file.write(refcount_table, &bytes)?;
        blocks.iter().try_for_each(|block| file.write(block.at, &block.bytes))?;
        file.write(0, &self.header(length, l1, (refcount_table, bytes.len())))?;
        self.draft.reach(room.end())?;
        self.draft.take_name()
    }
}
