//! VMDK, VHD, VDI, Parallels and QED: qemu-img and qemu-io make the images and say what is on the disk.

use diskferry_engine::bytes::Bytes;
use diskferry_engine::error::{Code, Result};
use diskferry_engine::formats::{Disk, Named, Options, Packing, Wants};
use diskferry_engine::sniff::{Told, sniff_told};

mod guest;
use guest::{Images, Memory, Random, content, decode, every_way, image, in_order, same, seek, write};

/// Name for `qemu-img -f`, options, bytes that its sizes are multiples of.
const FORMATS: &[(&str, &str, u64)] = &[
    ("vmdk", "subformat=monolithicSparse", 512),
    ("vpc", "subformat=dynamic,force_size=on", 512),
    ("vdi", "static=off", 512),
    ("vdi", "static=on", 512),
    ("vhdx", "subformat=dynamic,block_size=1M", 512),
    ("vhdx", "subformat=fixed,block_size=1M", 512),
    ("parallels", "cluster_size=64k", 512),
    ("parallels", "cluster_size=1M", 512),
    ("qed", "cluster_size=4096,table_size=4", 512),
    ("qed", "cluster_size=65536,table_size=4", 512),
];

#[test]
fn what_convert_writes() {
    let images = Images::new();
    for (n, (format, options, grain)) in FORMATS.iter().enumerate() {
        for size in [*grain, 3 << 20, (5 << 20) + 7 * grain] {
            write(&images.path("in.raw"), &content(size as usize, size + n as u64));
            images.must("qemu-img", &["convert", "-f", "raw", "-O", format, "-o", options, "in.raw", "out"]);
            every_way(&format!("{format} {options} {size}"), &images.read("out"), &images.raw_of("out"));
        }
    }
}

#[test]
fn what_a_guest_writes_at_random() {
    let images = Images::new();
    for (n, (format, options, _)) in FORMATS.iter().enumerate() {
        let mut random = Random(n as u64 + 5);
        images.must("qemu-img", &["create", "-f", format, "-o", options, "g", "24M"]);
        let commands: Vec<String> = (0..60)
            .map(|_| {
                let (at, len) = (random.below(24 << 11) * 512, (1 + random.below(300)) * 512);
                format!("write -P {} {at} {}", 1 + random.below(255), len.min((24 << 20) - at))
            })
            .collect();
        let mut args = vec!["-f", format];
        commands.iter().for_each(|command| args.extend(["-c", command]));
        images.must("qemu-io", &[&args[..], &["g"]].concat());
        every_way(&format!("{format} {options}, written at random"), &images.read("g"), &images.raw_of("g"));
    }
}

#[test]
fn the_size_of_a_vhd_is_what_qemu_takes_it_for() {
    let images = Images::new();
    write(&images.path("in.raw"), &content(5 << 20, 1));
    // Without `force_size` the geometry counts, and the disk is rounded up to it.
    for options in ["subformat=dynamic", "subformat=dynamic,force_size=on"] {
        images.must("qemu-img", &["convert", "-f", "raw", "-O", "vpc", "-o", options, "in.raw", "out"]);
        let expected = images.raw_of("out");
        same(options, &decode(&images.read("out"), in_order(&images.read("out")), None).unwrap(), &expected);
    }
}

/// What QEMU writes: tables in front, no footer.
fn streamed(images: &Images, raw: &[u8]) -> Vec<u8> {
    write(&images.path("in.raw"), raw);
    let options = "subformat=streamOptimized";
    images.must("qemu-img", &["convert", "-f", "raw", "-O", "vmdk", "-o", options, "in.raw", "out"]);
    images.read("out")
}

/// What VMware's programs write ("Stream-Optimized Compressed Sparse Extents"): tables behind the grains, a directory,
/// a footer, a mark of the end.
fn vmware(raw: &[u8]) -> Vec<u8> {
    const GRAIN: usize = 64 << 10;
    let sectors = raw.len() as u64 / 512;
    let mut file = vec![0; GRAIN];
    let header = |directory: u64| {
        let mut header = [0; 512];
        header[..4].copy_from_slice(b"KDMV");
        header[4..8].copy_from_slice(&3u32.to_le_bytes());
        header[8..12].copy_from_slice(&(1u32 | 1 << 16 | 1 << 17).to_le_bytes());
        for (at, value) in [(12, sectors), (20, 128), (28, 1), (36, 20), (56, directory), (64, 128)] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[44..48].copy_from_slice(&512u32.to_le_bytes());
        header[73..77].copy_from_slice(b"\n \r\n");
        header[77] = 1;
        header
    };
    file[..512].copy_from_slice(&header(u64::MAX));
    let descriptor = format!(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\
         RDONLY {sectors} SPARSE \"disk.vmdk\"\n"
    );
    file[512..512 + descriptor.len()].copy_from_slice(descriptor.as_bytes());
    let pad = |file: &mut Vec<u8>| file.resize(file.len().next_multiple_of(512), 0);
    let marker = |file: &mut Vec<u8>, value: u64, kind: u32| {
        file.extend_from_slice(&value.to_le_bytes());
        file.extend_from_slice(&0u32.to_le_bytes());
        file.extend_from_slice(&kind.to_le_bytes());
        file.resize(file.len().next_multiple_of(512), 0);
    };
    let mut directory = Vec::new();
    let mut deflate = libdeflater::Compressor::new(libdeflater::CompressionLvl::new(1).unwrap());
    for (t, span) in raw.chunks(512 * GRAIN).enumerate() {
        let mut table = [0u32; 512];
        for (n, grain) in span.chunks(GRAIN).enumerate() {
            if grain.iter().all(|&b| b == 0) {
                continue;
            }
            let mut out = vec![0; deflate.zlib_compress_bound(grain.len())];
            let len = deflate.zlib_compress(grain, &mut out).unwrap();
            table[n] = (file.len() / 512) as u32;
            file.extend_from_slice(&((t * 512 + n) as u64 * 128).to_le_bytes());
            file.extend_from_slice(&(len as u32).to_le_bytes());
            file.extend_from_slice(&out[..len]);
            pad(&mut file);
        }
        if table.iter().all(|&sector| sector == 0) {
            directory.push(0);
            continue;
        }
        marker(&mut file, 4, 1);
        directory.push((file.len() / 512) as u32);
        table.iter().for_each(|sector| file.extend_from_slice(&sector.to_le_bytes()));
    }
    marker(&mut file, (directory.len() as u64 * 4).div_ceil(512), 2);
    let at = file.len() as u64 / 512;
    directory.iter().for_each(|sector| file.extend_from_slice(&sector.to_le_bytes()));
    pad(&mut file);
    marker(&mut file, 1, 3);
    file.extend_from_slice(&header(at));
    marker(&mut file, 0, 0);
    file
}

/// Text, noise and holes over more than one grain table (32 MiB), with a last grain that is cut.
fn disk() -> Vec<u8> {
    let mut raw = content(35 << 20, 7);
    raw[9 << 20..30 << 20].fill(0);
    raw.truncate((34 << 20) + 3 * 512);
    raw[34 << 20..].fill(0x5a);
    raw
}

#[test]
fn streams_are_taken_as_they_come() {
    let images = Images::new();
    let raw = disk();
    for (what, file) in [("qemu's", streamed(&images, &raw)), ("vmware's", vmware(&raw))] {
        // The oracle reads both.
        write(&images.path("oracle.vmdk"), &file);
        assert!(images.raw_of("oracle.vmdk") == raw, "{what}: qemu-img reads something else");
        for (length, random) in [(true, None), (false, None), (true, Some(Random(3))), (false, Some(Random(4)))] {
            let options = if length { in_order(&file) } else { Options::default() };
            same(what, &decode(&file, options, random).unwrap(), &raw);
        }
        same(what, &decode(&file, Options { whole: true, ..seek(&file, true) }, None).unwrap(), &raw);
    }
    for size in [512, 4096, 64 << 10, (64 << 10) + 512] {
        let raw = content(size, 3);
        same("small", &decode(&vmware(&raw), Options::default(), None).unwrap(), &raw);
        same("small", &decode(&streamed(&images, &raw), Options::default(), None).unwrap(), &raw);
    }
}

/// A disk that forgets what comes after the cut.
struct Cut {
    memory: Memory,
    skip_below: u64,
}

impl Disk for Cut {
    fn data(&mut self, at: u64, origin: u64, bytes: Bytes) -> Result<()> {
        if origin < self.skip_below { Ok(()) } else { self.again(at, bytes.len() as u64).data(at, origin, bytes) }
    }
    fn packed(&mut self, at: u64, len: usize, origin: u64, how: Packing, bytes: Bytes) -> Result<()> {
        if origin < self.skip_below { Ok(()) } else { self.again(at, len as u64).packed(at, len, origin, how, bytes) }
    }
    fn zero(&mut self, at: u64, len: u64) -> Result<()> {
        self.again(at, len).zero(at, len)
    }
}

impl Cut {
    fn again(&mut self, at: u64, len: u64) -> &mut Memory {
        let end = (at + len).min(self.memory.covered.len() as u64);
        self.memory.covered[at as usize..end as usize].fill(false);
        &mut self.memory
    }
}

#[test]
fn a_stream_that_was_cut_goes_on_at_a_grain() {
    let images = Images::new();
    let raw = disk();
    let tail = raw.len() as u64 - (1 << 20);
    let held = vec![0..1 << 20, tail..raw.len() as u64];
    for file in [streamed(&images, &raw), vmware(&raw)] {
        let mut random = Random(11);
        for _ in 0..25 {
            let cut = random.below(file.len() as u64 + 1) as usize;
            let options = Options { held: held.clone(), ..in_order(&file) };
            let (size, opener) = image(&file, options.file_length).unwrap();
            let mut disk = Cut { memory: Memory::new(size), skip_below: 0 };
            let mut format = opener.open(options.clone()).unwrap();
            assert_eq!(format.wants().unwrap(), Wants::Rest(0));
            for at in (0..cut).step_by(100_000) {
                let piece = &file[at..cut.min(at + 100_000)];
                format.take(at as u64, &Bytes::copy_of(piece), &mut disk).unwrap();
            }
            let watermark = format.pinned().unwrap();
            assert!(watermark <= cut as u64 && cut as u64 - watermark < 2 << 20, "{watermark} at {cut}");
            // What is held back is lost with the process.
            for range in &held {
                disk.memory.bytes[range.start as usize..range.end as usize].fill(0xee);
            }
            disk.skip_below = watermark;
            let mut format =
                opener.open(Options { from: Some(watermark), ..seek(&file, false) }.with_held(&held)).unwrap();
            let mut passes = 0;
            while let Wants::Rest(from) = format.wants().unwrap() {
                passes += 1;
                for at in (from as usize..file.len()).step_by(50_000) {
                    let piece = Bytes::copy_of(&file[at..file.len().min(at + 50_000)]);
                    format.take(at as u64, &piece, &mut Held { disk: &mut disk, held: &held }).unwrap();
                    if format.turned() {
                        break;
                    }
                }
            }
            format.finish(Some(file.len() as u64), &mut disk).unwrap();
            assert!(passes <= 2);
            let wrong = disk.memory.bytes.iter().zip(&raw).position(|(found, expected)| found != expected);
            assert_eq!(wrong, None, "cut at {cut}, gone on from {watermark}");
        }
    }
}

trait WithHeld {
    fn with_held(self, held: &[std::ops::Range<u64>]) -> Self;
}

impl WithHeld for Options {
    fn with_held(self, held: &[std::ops::Range<u64>]) -> Self {
        Options { held: held.to_vec(), ..self }
    }
}

/// As the engine has it: of what was written before, the held ends are taken again.
struct Held<'a> {
    disk: &'a mut Cut,
    held: &'a [std::ops::Range<u64>],
}

impl Held<'_> {
    fn wanted(&self, at: u64, len: u64, origin: u64) -> bool {
        origin >= self.disk.skip_below || self.held.iter().any(|r| r.start < at + len && at < r.end)
    }
}

impl Disk for Held<'_> {
    fn data(&mut self, at: u64, origin: u64, bytes: Bytes) -> Result<()> {
        let len = bytes.len() as u64;
        if self.wanted(at, len, origin) { self.disk.again(at, len).data(at, origin, bytes) } else { Ok(()) }
    }
    fn packed(&mut self, at: u64, len: usize, origin: u64, how: Packing, bytes: Bytes) -> Result<()> {
        if self.wanted(at, len as u64, origin) {
            self.disk.again(at, len as u64).packed(at, len, origin, how, bytes)
        } else {
            Ok(())
        }
    }
    fn zero(&mut self, at: u64, len: u64) -> Result<()> {
        self.disk.zero(at, len)
    }
}

#[test]
fn a_stream_without_its_end_fails() {
    let images = Images::new();
    let raw = disk();
    for (what, file) in [("qemu's", streamed(&images, &raw)), ("vmware's", vmware(&raw))] {
        let mut random = Random(5);
        let mut cuts: Vec<usize> =
            (0..30).map(|_| 70_000 + random.below(file.len() as u64 - 70_000) as usize).collect();
        cuts.push(file.len() - 1024);
        // At a sector, where a grain may end, too.
        cuts.extend((0..30).map(|_| (140 + random.below(file.len() as u64 / 512 - 150) as usize) * 512));
        for cut in cuts {
            let error = match decode(&file[..cut], Options::default(), None) {
                Err(error) => error,
                // Behind QEMU's last grain there is nothing of the disk.
                Ok(disk) if what == "qemu's" && file.len() - cut <= 1024 => {
                    same(what, &disk, &raw);
                    continue;
                }
                Ok(_) => panic!("{what} cut at {cut} of {} is accepted", file.len()),
            };
            assert!(matches!(error.code, Code::Truncated | Code::Corrupt), "{what} cut at {cut}: {error}");
        }
    }
}

#[test]
fn a_damaged_stream_fails() {
    let file = vmware(&content(3 << 20, 9));
    let at = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let grain = 64 << 10;
    let second = grain
        + (12 + u32::from_le_bytes(file[grain + 8..grain + 12].try_into().unwrap()) as usize).next_multiple_of(512);
    let without_second = |file: &[u8]| {
        let len = u32::from_le_bytes(file[second + 8..second + 12].try_into().unwrap()) as usize;
        let end = second + (12 + len).next_multiple_of(512);
        [&file[..second], &file[end..]].concat()
    };
    let cases = [
        ("a byte of a grain", at(grain + 40, &[file[grain + 40] ^ 1])),
        ("beyond the disk", at(grain, &(1u64 << 40).to_le_bytes())),
        ("overflow", at(grain, &u64::MAX.to_le_bytes())),
        ("between two grains", at(grain, &1u64.to_le_bytes())),
        ("twice", at(second, &0u64.to_le_bytes())),
        ("too long", at(grain + 8, &(1u32 << 30).to_le_bytes())),
        ("an unknown marker", at(grain, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9])),
        ("a lost grain", without_second(&file)),
        ("something at the end", [&file[..], b"x"].concat()),
        ("another footer", {
            let mut file = file.clone();
            let footer = file.len() - 1024;
            file[footer + 12] ^= 1;
            file
        }),
    ];
    for (what, file) in cases {
        let error = decode(&file, Options::default(), None).err().unwrap_or_else(|| panic!("{what} is accepted"));
        assert!(matches!(error.code, Code::Truncated | Code::Corrupt), "{what}: {error}");
    }
}

#[test]
fn heads_that_lie_are_refused() {
    let images = Images::new();
    let raw = content(3 << 20, 4);
    write(&images.path("in.raw"), &raw);
    let mut checked = 0;
    let mut refused = |format: &str, options: &str, patches: &[(usize, &[u8])], code: Code, says: &str| {
        images.must("qemu-img", &["convert", "-f", "raw", "-O", format, "-o", options, "in.raw", "out"]);
        let mut file = images.read("out");
        for (at, bytes) in patches {
            file[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        if format == "vpc" {
            // The checksums are made right, so that what is behind them is reached.
            for (start, len, at) in [(0, 512, 64), (512, 1024, 36)] {
                file[start + at..start + at + 4].fill(0);
                let sum = !file[start..start + len].iter().map(|&b| u32::from(b)).sum::<u32>();
                file[start + at..start + at + 4].copy_from_slice(&sum.to_be_bytes());
            }
        }
        if format == "vhdx" {
            for (start, len) in
                [(64 << 10, 4 << 10), (128 << 10, 4 << 10), (192 << 10, 64 << 10), (256 << 10, 64 << 10)]
            {
                file[start + 4..start + 8].fill(0);
                let sum = crc32c::crc32c(&file[start..start + len]);
                file[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
            }
        }
        for options in [in_order(&file), seek(&file, true)] {
            let error =
                decode(&file, options, None).err().unwrap_or_else(|| panic!("{format} {patches:?} is accepted"));
            assert_eq!(error.code, code, "{format} {patches:?}: {error}");
            assert!(error.message.contains(says), "{format} {patches:?}: {error}");
        }
        checked += 1;
    };
    let full = [0xff; 8];

    let vdi = "static=off";
    refused("vdi", vdi, &[(0x44, &[9])], Code::Unsupported, "version");
    refused("vdi", vdi, &[(0x4c, &[4])], Code::Unsafe, "parent");
    refused("vdi", vdi, &[(0x1b8, &[1])], Code::Unsafe, "parent");
    refused("vdi", vdi, &[(0x170, &full)], Code::TooLarge, "accepted");
    refused("vdi", vdi, &[(0x170, &[0, 0, 0, 0, 1])], Code::Corrupt, "entries");
    refused("vdi", vdi, &[(0x178, &[0, 0, 0, 0])], Code::Corrupt, "blocks");
    refused("vdi", vdi, &[(0x17c, &[1])], Code::Unsupported, "extra");
    refused("vdi", vdi, &[(0x154, &[0, 1, 0, 0])], Code::Corrupt, "table at 256");
    refused("vdi", vdi, &[(0x154, &full[..4])], Code::Corrupt, "table at");
    refused("vdi", vdi, &[(0x200, &[1, 0, 0, 0x7f])], Code::Truncated, "ends at");

    let vpc = "subformat=dynamic,force_size=on";
    refused("vpc", vpc, &[(60, &[0, 0, 0, 4])], Code::Unsafe, "parent");
    refused("vpc", vpc, &[(60, &[0, 0, 0, 2])], Code::Corrupt, "at the end");
    refused("vpc", vpc, &[(60, &[0, 0, 0, 9])], Code::Unsupported, "type 9");
    refused("vpc", vpc, &[(16, &full)], Code::Corrupt, "dynamic");
    refused("vpc", vpc, &[(16, &[0; 8])], Code::Corrupt, "dynamic");
    refused("vpc", vpc, &[(48, &full)], Code::TooLarge, "accepted");
    refused("vpc", vpc, &[(512 + 16, &full)], Code::Corrupt, "no file reaches");
    refused("vpc", vpc, &[(512 + 16, &[0; 8])], Code::Corrupt, "over the header");
    refused("vpc", vpc, &[(512 + 28, &[0; 4])], Code::Corrupt, "entries");
    refused("vpc", vpc, &[(512 + 32, &[0, 0, 0, 3])], Code::Corrupt, "blocks");
    refused("vpc", vpc, &[(1536, &[0x7f, 0, 0, 0])], Code::Truncated, "ends at");
    refused("vpc", vpc, &[(1536, &[0, 0, 0, 0])], Code::Corrupt, "over the header");

    let vhdx = "subformat=dynamic,block_size=1M";
    // Both copies, so that none is sound in another's place. The metadata is at 3 MiB, its items 64 KiB behind.
    let both = |at: usize, bytes: &'static [u8]| [((64 << 10) + at, bytes), ((128 << 10) + at, bytes)];
    let tables = |at: usize, bytes: &'static [u8]| [((192 << 10) + at, bytes), ((256 << 10) + at, bytes)];
    refused("vhdx", vhdx, &both(0, b"nead"), Code::Corrupt, "neither of its headers");
    refused("vhdx", vhdx, &both(66, &[2]), Code::Unsupported, "versions");
    refused("vhdx", vhdx, &both(48, &[1]), Code::Unsupported, "not closed properly");
    refused("vhdx", vhdx, &both(72, &[0xff; 8]), Code::Corrupt, "log is at");
    refused("vhdx", vhdx, &tables(0, b"nogi"), Code::Corrupt, "region tables");
    refused("vhdx", vhdx, &tables(8, &[0xff; 4]), Code::Corrupt, "entries");
    refused("vhdx", vhdx, &tables(16 + 16, &[0xff; 8]), Code::Corrupt, "region is at");
    refused("vhdx", vhdx, &tables(16, &[0; 16]), Code::Corrupt, "no block allocation table");
    let required = [tables(16, &[0; 16]), tables(16 + 28, &[1])].concat();
    refused("vhdx", vhdx, &required, Code::Unsupported, "required and not known");
    refused("vhdx", vhdx, &[(3 << 20, b"nodata")], Code::Corrupt, "no table");
    refused("vhdx", vhdx, &[((3 << 20) + 10, &[0, 0])], Code::Corrupt, "what the disk is");
    refused("vhdx", vhdx, &[((3 << 20) + 32 + 16, &[0xff; 4])], Code::Corrupt, "an item");
    let image_of = |items: usize, bytes: &'static [u8]| [((3 << 20) + (64 << 10) + items, bytes)];
    refused("vhdx", vhdx, &image_of(0, &[1, 0, 0, 0]), Code::Corrupt, "blocks have 1 bytes");
    refused("vhdx", vhdx, &image_of(4, &[2]), Code::Unsafe, "parent");
    refused("vhdx", vhdx, &image_of(8, &[0, 0, 0, 0, 0, 0, 0, 0x7f]), Code::TooLarge, "accepted");
    refused("vhdx", vhdx, &image_of(8, &[0, 0, 0, 0, 0, 1]), Code::Corrupt, "has room for");

    let parallels = "cluster_size=64k";
    refused("parallels", parallels, &[(16, &[9])], Code::Unsupported, "version 9");
    refused("parallels", parallels, &[(28, &[0; 4])], Code::Corrupt, "blocks");
    refused("parallels", parallels, &[(28, &full[..4])], Code::Corrupt, "blocks");
    refused("parallels", parallels, &[(32, &[1, 0, 0, 0])], Code::Corrupt, "entries");
    refused("parallels", parallels, &[(36, &full)], Code::Corrupt, "sectors");
    refused("parallels", parallels, &[(64, &[0, 0, 0, 0x7f])], Code::Truncated, "ends at");

    let qed = "cluster_size=65536,table_size=4";
    refused("qed", qed, &[(16, &[1])], Code::Unsafe, "parent");
    refused("qed", qed, &[(16, &[0x10])], Code::Unsupported, "features");
    refused("qed", qed, &[(4, &[1])], Code::Corrupt, "clusters");
    refused("qed", qed, &[(8, &[3])], Code::Corrupt, "tables");
    refused("qed", qed, &[(40, &full)], Code::Corrupt, "L1 table");
    refused("qed", qed, &[(40, &[0; 8])], Code::Corrupt, "L1 table");
    refused("qed", qed, &[(48, &full)], Code::TooLarge, "accepted");
    refused("qed", qed, &[(65536, &full)], Code::Corrupt, "L2 table 0");
    refused("qed", qed, &[(65536, &[0, 0, 1, 0, 0, 0, 0, 0])], Code::Corrupt, "over other tables");

    let vmdk = "subformat=monolithicSparse";
    refused("vmdk", vmdk, &[(4, &[9])], Code::Unsupported, "version 9");
    refused("vmdk", vmdk, &[(12, &full)], Code::Corrupt, "sectors");
    refused("vmdk", vmdk, &[(20, &[3])], Code::Corrupt, "grains");
    refused("vmdk", vmdk, &[(44, &[0, 1])], Code::Corrupt, "256 entries");
    refused("vmdk", vmdk, &[(75, b"\n")], Code::Corrupt, "text mode");
    refused("vmdk", vmdk, &[(56, &full)], Code::Corrupt, "no place");
    refused("vmdk", vmdk, &[(56, &[0; 8])], Code::Corrupt, "directory is at 0");
    refused("vmdk", vmdk, &[(56, &[2])], Code::Corrupt, "over the descriptor");
    refused("vmdk", vmdk, &[(36, &[0xff, 0xff])], Code::Corrupt, "descriptor");
    let streamed = "subformat=streamOptimized";
    refused("vmdk", streamed, &[(77, &[9])], Code::Unsupported, "method 9");
    refused("vmdk", streamed, &[(8, &[3, 0, 1, 0])], Code::Unsupported, "compressed");
    assert_eq!(checked, 64);
}

#[test]
fn names_in_a_descriptor_are_not_followed() {
    let images = Images::new();
    write(&images.path("in.raw"), &content(1 << 20, 2));
    let subformats = ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"];
    for subformat in subformats {
        let options = format!("subformat={subformat}");
        images.must("qemu-img", &["convert", "-f", "raw", "-O", "vmdk", "-o", &options, "in.raw", "d.vmdk"]);
        let error = image(&images.read("d.vmdk"), None).err().unwrap();
        assert_eq!(error.code, Code::Unsafe, "{subformat}: {error}");
    }
    let error = image(&images.read("d-s001.vmdk"), None).err().unwrap();
    assert_eq!(error.code, Code::Unsupported, "{error}");
    // An extent that names a file of this machine, inside the image; a parent.
    for (find, put) in [("SPARSE \"out\"", "FLAT \"/etc/passwd\""), ("parentCID=ffffffff", "parentCID=0badcafe")] {
        let mut file = streamed(&images, &content(1 << 20, 2));
        let text = String::from_utf8_lossy(&file[512..2048]).into_owned();
        assert!(text.contains(find), "{text}");
        let changed = text.replacen(find, put, 1);
        file[512..2048].copy_from_slice(&changed.as_bytes()[..1536]);
        let error = image(&file, None).err().unwrap();
        assert!(matches!(error.code, Code::Unsupported | Code::Unsafe), "{error}");
        assert!(!error.message.contains("passwd") && !error.message.contains("root"), "{error}");
    }
}

fn told(format: &str) -> Told {
    Told { format: Named::parse(format), ..Told::default() }
}

#[test]
fn a_fixed_vhd_is_read_where_it_is_said_to_be_one() {
    let images = Images::new();
    let raw = content(3 << 20, 8);
    write(&images.path("in.raw"), &raw);
    let options = "subformat=fixed,force_size=on";
    images.must("qemu-img", &["convert", "-f", "raw", "-O", "vpc", "-o", options, "in.raw", "out"]);
    let file = images.read("out");
    assert_eq!(file.len(), raw.len() + 512);
    let read = |file: &[u8], random: Option<Random>| {
        let length = Some(file.len() as u64);
        let s = sniff_told(&told("vpc"), &file[..1 << 20], length, &guest::limits());
        let options = Options { file_length: length, seekable: true, limits: guest::limits(), ..Options::default() };
        let mut disk = Memory::new(s.virtual_size.unwrap_or(0));
        s.refusal.map_or(Ok(()), Err)?;
        guest::drive(&mut *s.image.unwrap().open(options)?, file, &mut disk, random).map(|_| disk)
    };
    same("fixed", &read(&file, None).unwrap(), &raw);
    same("fixed in pieces", &read(&file, Some(Random(3))).unwrap(), &raw);
    // Not said to be one, it is what it looks like.
    let s = sniff_told(&Told::default(), &file[..1 << 20], Some(file.len() as u64), &guest::limits());
    assert_eq!((s.format, s.virtual_size), ("raw", Some(file.len() as u64)));
    for (at, code, says) in [
        (raw.len(), Code::Corrupt, "no footer"),
        (raw.len() + 60, Code::Corrupt, "no footer"),
        (raw.len() + 50, Code::Corrupt, "checksum"),
        (raw.len() + 511, Code::Corrupt, "checksum"),
    ] {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        let error = read(&damaged, None).err().unwrap();
        assert_eq!(error.code, code, "{at}: {error}");
        assert!(error.message.contains(says), "{at}: {error}");
    }
    for cut in [1, 511, 512, 1024] {
        let error = read(&file[..file.len() - cut], None).err().unwrap();
        assert_eq!(error.code, Code::Corrupt, "{cut}: {error}");
    }
    let s = sniff_told(&told("vhd"), &file[..1 << 20], None, &guest::limits());
    assert_eq!(s.refusal.unwrap().code, Code::Unsupported);
}

#[test]
fn a_format_that_is_told_is_the_only_one_that_is_accepted() {
    let images = Images::new();
    write(&images.path("in.raw"), &content(1 << 20, 9));
    for (format, name) in [("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vpc", "vhd"), ("vdi", "vdi"), ("qed", "qed")] {
        images.must("qemu-img", &["convert", "-f", "raw", "-O", format, "in.raw", "out"]);
        let file = images.read("out");
        let sniff = |told: &Told| sniff_told(told, &file[..file.len().min(1 << 20)], None, &guest::limits());
        assert_eq!(sniff(&told(name)).format, name);
        assert_eq!(sniff(&told("raw")).format, "raw", "{name} taken as it is");
        for other in ["qcow2", "vmdk", "vhd", "vdi", "parallels", "qed"].iter().filter(|other| **other != name) {
            let refusal = sniff(&told(other)).refusal.unwrap();
            assert_eq!(refusal.code, Code::BadSpec, "{refusal}");
            assert!(refusal.message.contains(name) && refusal.message.contains(other), "{refusal}");
        }
    }
    assert_eq!(Named::parse("vhdx7"), None);
}
