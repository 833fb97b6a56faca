//! Two L2 tables that name the same host cluster, and a transfer that is cut between them. Found by fuzzing.

use diskferry_engine::bytes::Bytes;
use diskferry_engine::error::{Code, Result};
use diskferry_engine::formats::Options;
use diskferry_engine::formats::mapped::Mapped;
use diskferry_engine::formats::qcow2::Header;
use diskferry_engine::formats::{Disk, Format, Packing, Wants};
use diskferry_engine::limits::Limits;

const CLUSTER: usize = 512;
/// Guest bytes of one L2 table: 64 entries of 8 bytes.
const SPAN: usize = CLUSTER / 8 * CLUSTER;
const COPIED: u64 = 1 << 63;

/// A disk as the engine has it: what comes from below the checkpoint is taken for written.
struct Target {
    bytes: Vec<u8>,
    skip_below: u64,
}

impl Target {
    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.bytes[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }
}

impl Disk for Target {
    fn data(&mut self, at: u64, origin: u64, bytes: Bytes) -> Result<()> {
        let skipped = self.skip_below.saturating_sub(origin).min(bytes.len() as u64);
        self.put(at + skipped, &bytes[skipped as usize..]);
        Ok(())
    }

    fn packed(&mut self, at: u64, len: usize, origin: u64, _how: Packing, bytes: Bytes) -> Result<()> {
        if origin >= self.skip_below {
            let mut out = vec![0; len];
            libdeflater::Decompressor::new().deflate_decompress(&bytes, &mut out).expect("it was compressed here");
            self.put(at, &out);
        }
        Ok(())
    }

    fn zero(&mut self, at: u64, len: u64) -> Result<()> {
        self.put(at, &vec![0; len as usize]);
        Ok(())
    }
}

/// The entry for host cluster `n`, with the flag that it has one reference ("Cluster mapping" in qcow2.txt).
fn plain(n: usize) -> u64 {
    COPIED | (n * CLUSTER) as u64
}

/// Clusters: header, L1, first table, data, data, second table, which names the first data cluster too. The disk is
/// two tables long.
fn image(entry: u64, data: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 6 * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    let number = |value: usize| (value as u64).to_be_bytes();
    put(0, b"QFI\xfb\x00\x00\x00\x02");
    put(20, &9_u32.to_be_bytes());
    put(24, &number(2 * SPAN));
    put(36, &2_u32.to_be_bytes());
    put(40, &number(CLUSTER));
    put(CLUSTER, &plain(2).to_be_bytes());
    put(CLUSTER + 8, &plain(5).to_be_bytes());
    put(2 * CLUSTER, &entry.to_be_bytes());
    put(2 * CLUSTER + 8, &plain(4).to_be_bytes());
    put(3 * CLUSTER, data);
    put(4 * CLUSTER, &[0x22; CLUSTER]);
    put(5 * CLUSTER, &entry.to_be_bytes());
    file
}

/// Feeds until `cut`, in pieces of a sector; false when cut.
fn run(format: &mut Mapped, file: &[u8], disk: &mut Target, cut: usize) -> Result<bool> {
    loop {
        let ranges = match format.wants()? {
            Wants::Nothing => break,
            Wants::Rest(from) => std::iter::once(from..file.len() as u64).collect(),
            Wants::Ranges(ranges) => ranges,
        };
        for range in ranges {
            let end = range.end.min(file.len() as u64) as usize;
            for at in (range.start as usize..end).step_by(CLUSTER) {
                if at >= cut {
                    return Ok(false);
                }
                format.take(at as u64, &Bytes::copy_of(&file[at..end.min(at + CLUSTER)]), disk)?;
                if format.turned() {
                    break;
                }
            }
        }
    }
    format.finish(Some(file.len() as u64), disk)?;
    Ok(true)
}

#[track_caller]
fn every_cut(file: &[u8], expected: &[u8]) {
    let limits = Limits::default();
    let length = Some(file.len() as u64);
    let header = Header::parse(file, length, &limits).unwrap();
    let options = Options { file_length: length, seekable: true, limits, ..Options::default() };
    for tables_first in [false, true] {
        let options = Options { metadata_first: tables_first, ..options.clone() };
        for cut in (0..=file.len()).step_by(CLUSTER) {
            // Neither data nor zero, so that what was never written is seen.
            let mut disk = Target { bytes: vec![0xee; expected.len()], skip_below: 0 };
            let mut format = Mapped::new(Box::new(header.clone()), options.clone()).unwrap();
            if run(&mut format, file, &mut disk, cut).unwrap() {
                assert!(disk.bytes == expected, "not cut, tables first: {tables_first}");
                continue;
            }
            let watermark = format.pinned().unwrap_or(cut as u64);
            disk.skip_below = watermark;
            let options = Options { from: Some(watermark), tables_first, metadata_first: true, ..options.clone() };
            let mut format = Mapped::new(Box::new(header.clone()), options).unwrap();
            assert!(run(&mut format, file, &mut disk, usize::MAX).unwrap());
            let wrong = disk.bytes.iter().zip(expected).position(|(found, expected)| found != expected);
            assert_eq!(wrong, None, "cut at {cut}, gone on from {watermark}, tables first: {tables_first}");
        }
    }
}

#[test]
fn a_cut_between_the_tables_loses_nothing() {
    let mut expected = vec![0; 2 * SPAN];
    expected[..CLUSTER].fill(0x11);
    expected[CLUSTER..2 * CLUSTER].fill(0x22);
    expected[SPAN..SPAN + CLUSTER].fill(0x11);
    every_cut(&image(plain(3), &[0x11; CLUSTER]), &expected);

    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let mut packed = [0; CLUSTER];
    let length = compressor.deflate_compress(&[0x11; CLUSTER], &mut packed).unwrap();
    // Bit 62, no sectors beyond the first (docs/interop/qcow2.txt, "Compressed Clusters Descriptor").
    every_cut(&image((1 << 62) | (3 * CLUSTER) as u64, &packed[..length]), &expected);
}

/// The source cannot seek: it is given again from its first byte, in another piece than before, so that both tables are
/// known when the data passes.
#[test]
fn what_is_given_again_reaches_both_tables() {
    let mut expected = vec![0; 2 * SPAN];
    expected[..CLUSTER].fill(0x11);
    expected[CLUSTER..2 * CLUSTER].fill(0x22);
    expected[SPAN..SPAN + CLUSTER].fill(0x11);
    let mut packed = [0; CLUSTER];
    let length = libdeflater::Compressor::new(libdeflater::CompressionLvl::default())
        .deflate_compress(&[0x11; CLUSTER], &mut packed);
    let entry = (1 << 62) | (3 * CLUSTER) as u64;
    for file in [image(plain(3), &[0x11; CLUSTER]), image(entry, &packed[..length.unwrap()])] {
        let limits = Limits::default();
        let header = Header::parse(&file, None, &limits).unwrap();
        let options = Options { limits, ..Options::default() };
        for cut in (CLUSTER..6 * CLUSTER).step_by(CLUSTER) {
            let mut disk = Target { bytes: vec![0xee; expected.len()], skip_below: 0 };
            let mut format = Mapped::new(Box::new(header.clone()), options.clone()).unwrap();
            assert!(!run(&mut format, &file, &mut disk, cut).unwrap());
            disk.skip_below = format.pinned().unwrap_or(cut as u64);
            let options = Options { skip_below: Some(disk.skip_below), ..options.clone() };
            let mut format = Mapped::new(Box::new(header.clone()), options).unwrap();
            assert_eq!(format.wants().unwrap(), Wants::Rest(0));
            format.take(0, &Bytes::copy_of(&file), &mut disk).unwrap();
            format.finish(Some(file.len() as u64), &mut disk).unwrap();
            assert!(disk.bytes == expected, "cut at {cut}, skipped below {}", disk.skip_below);
        }
    }
}

/// No spill holds what was given away, so the refusal does not name one.
#[test]
fn without_ranges_the_refusal_says_what_helps() {
    let file = image(plain(3), &[0x11; CLUSTER]);
    let spill = std::env::temp_dir();
    let options = Options { spill: Some(spill), ..Options::default() };
    let header = Header::parse(&file, None, &options.limits).unwrap();
    let mut disk = Target { bytes: vec![0; 2 * SPAN], skip_below: 0 };
    let error = run(&mut Mapped::new(Box::new(header), options).unwrap(), &file, &mut disk, usize::MAX).unwrap_err();
    assert_eq!(error.code, Code::NeedsScratch);
    assert!(error.message.contains("ranges") && !error.message.contains("--spill"), "{error}");
}

/// A compressed cluster may overlap a plain one in a damaged image; both ways must then tell the same.
#[test]
fn what_overlaps_is_read_again() {
    let mut packed = [0; CLUSTER];
    let length = libdeflater::Compressor::new(libdeflater::CompressionLvl::default())
        .deflate_compress(&[0x11; CLUSTER], &mut packed);
    let inside = 16;
    packed.copy_within(..length.unwrap(), inside);
    let mut file = image(plain(3), &packed);
    let entry = (1 << 62) | (3 * CLUSTER + inside) as u64;
    file[2 * CLUSTER + 16..2 * CLUSTER + 24].copy_from_slice(&entry.to_be_bytes());
    let mut expected = vec![0; 2 * SPAN];
    expected[..CLUSTER].copy_from_slice(&packed);
    expected[CLUSTER..2 * CLUSTER].fill(0x22);
    expected[2 * CLUSTER..3 * CLUSTER].fill(0x11);
    expected[SPAN..SPAN + CLUSTER].copy_from_slice(&packed);
    let limits = Limits::default();
    let length = Some(file.len() as u64);
    let header = Header::parse(&file, length, &limits).unwrap();
    let options = Options { file_length: length, seekable: true, limits, ..Options::default() };
    let mut disk = Target { bytes: vec![0xee; expected.len()], skip_below: 0 };
    let mut format = Mapped::new(Box::new(header), options).unwrap();
    // A piece ends inside of both.
    let pieces = [0..3 * CLUSTER + 20, 3 * CLUSTER + 20..file.len()];
    assert_eq!(format.wants().unwrap(), Wants::Rest(0));
    for piece in pieces {
        format.take(piece.start as u64, &Bytes::copy_of(&file[piece]), &mut disk).unwrap();
        if format.turned() {
            break;
        }
    }
    run(&mut format, &file, &mut disk, usize::MAX).unwrap();
    assert!(disk.bytes == expected);
}
