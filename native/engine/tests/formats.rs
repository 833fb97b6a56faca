//! Image formats against qemu-img and qemu-io, which make the images and say what is on the disk.

use diskferry_engine::bytes::Bytes;
use diskferry_engine::error::Code;
use diskferry_engine::formats::Options;
use diskferry_engine::formats::Order;
use diskferry_engine::formats::mapped::Mapped;
use diskferry_engine::formats::raw::Raw;
use diskferry_engine::formats::{Format, Wants};
use diskferry_engine::sniff::sniff;
use proptest::prelude::*;

mod guest;
use guest::{Images, Memory, Random, content, decode, drive, every_way, header, in_order, limits, same, seek, write};

#[test]
fn what_convert_writes() {
    let images = Images::new();
    let mut made = 0;
    for (n, cluster) in [512usize, 4096, 65536, 2 << 20].into_iter().enumerate() {
        let size = if cluster > 1 << 20 { (6 << 20) + 1536 } else { (3 << 20) + 512 * (n + 1) };
        write(&images.path("in.raw"), &content(size, cluster as u64));
        for extra in [
            "compat=0.10",
            "compat=0.10,preallocation=metadata",
            "compat=1.1",
            "compat=1.1,preallocation=metadata",
            "compat=1.1,preallocation=falloc",
            "compat=1.1,preallocation=full",
            "compat=1.1,lazy_refcounts=on",
            "compat=1.1,refcount_bits=1",
            "compat=1.1,refcount_bits=64",
            "compat=1.1,extended_l2=on",
            "compat=1.1,extended_l2=on,preallocation=metadata",
            "compat=1.1,compression_type=zstd",
            "compat=1.1,compression_type=zstd,extended_l2=on",
        ] {
            for compress in [false, true] {
                let options = format!("cluster_size={cluster},{extra}");
                let mut args = vec!["convert", "-O", "qcow2", "-o", options.as_str()];
                if compress {
                    args.push("-c");
                }
                args.extend(["in.raw", "out.qcow2"]);
                if !images.run("qemu-img", &args) {
                    continue;
                }
                made += 1;
                every_way(&format!("{options} -c={compress}"), &images.read("out.qcow2"), &images.raw_of("out.qcow2"));
            }
        }
    }
    assert!(made >= 60, "only {made} images could be made");
}

fn scribble(images: &Images, name: &str, size: u64, random: &mut Random, compress: bool) {
    let mut args = vec![];
    for i in 0..24 {
        let at = random.below(size / 512) * 512;
        let len = (512 * (1 + random.below(200))).min(size - at);
        args.push("-c".to_owned());
        args.push(match random.below(5) {
            0 => format!("write -z {at} {len}"),
            1 => format!("discard {at} {len}"),
            2 if compress => format!("write -c -P {} {} 65536", i + 1, at / 65536 * 65536),
            _ => format!("write -P {} {at} {len}", i + 1),
        });
    }
    args.push(name.to_owned());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // A compressed write to a cluster that has data already fails, and the others are done all the same.
    images.run("qemu-io", &args);
}

#[test]
fn what_guests_write() {
    let images = Images::new();
    for seed in 0..10u64 {
        let mut random = Random(seed + 77);
        let options = [
            "cluster_size=65536",
            "cluster_size=4096",
            "cluster_size=512",
            "extended_l2=on",
            "cluster_size=65536,compression_type=zstd",
        ][seed as usize % 5];
        images.must("qemu-img", &["create", "-f", "qcow2", "-o", options, "g.qcow2", "5M"]);
        let whole = options.contains("65536");
        scribble(&images, "g.qcow2", 5 << 20, &mut random, whole);
        if seed % 2 == 0 {
            images.must("qemu-img", &["snapshot", "-c", "before", "g.qcow2"]);
            scribble(&images, "g.qcow2", 5 << 20, &mut random, whole);
        } else {
            images.must("qemu-img", &["bitmap", "--add", "g.qcow2", "changes"]);
            images.must("qemu-img", &["resize", "g.qcow2", "9M"]);
            scribble(&images, "g.qcow2", 9 << 20, &mut random, whole);
        }
        let file = images.read("g.qcow2");
        let sniffed = sniff(&file[..file.len().min(1 << 20)], Some(file.len() as u64), &limits());
        assert!(sniffed.refusal.is_none(), "{:?}", sniffed.refusal);
        assert_eq!(sniffed.format, "qcow2");
        if seed % 2 == 0 {
            assert_eq!(sniffed.order, Order::Metadata);
            assert!(sniffed.left_out.iter().any(|l| l.contains("napshot")), "{:?}", sniffed.left_out);
        } else {
            assert!(sniffed.left_out.iter().any(|l| l.contains("bitmap")), "{:?}", sniffed.left_out);
        }
        every_way(&format!("guest {seed} {options}"), &file, &images.raw_of("g.qcow2"));
    }
}

fn sample(images: &Images, options: &str, compress: bool) -> (Vec<u8>, Vec<u8>) {
    let raw = content((2 << 20) + 512, 5);
    write(&images.path("s.raw"), &raw);
    let mut args = vec!["convert", "-O", "qcow2", "-o", options];
    if compress {
        args.push("-c");
    }
    args.extend(["s.raw", "s.qcow2"]);
    images.must("qemu-img", &args);
    (images.read("s.qcow2"), raw)
}

#[test]
fn truncated_images_fail() {
    let images = Images::new();
    let mut random = Random(3);
    for compress in [false, true] {
        let (file, _) = sample(&images, "cluster_size=65536", compress);
        for _ in 0..60 {
            let cut = 120 + random.below(file.len() as u64 - 120 - 66_000) as usize;
            let short = &file[..cut];
            for options in [in_order(short), seek(short, true), Options::default()] {
                let error = decode(short, options, None).err().expect("a truncated image is refused");
                assert!(matches!(error.code, Code::Truncated | Code::Corrupt), "{error}");
            }
        }
    }
}

#[test]
fn flipped_bits_are_errors_or_harmless() {
    let images = Images::new();
    let mut random = Random(9);
    for options in ["cluster_size=4096", "cluster_size=65536,extended_l2=on", "cluster_size=512,compat=0.10"] {
        let (file, _) = sample(&images, options, false);
        let h = header(&file, None).unwrap();
        for round in 0..150 {
            let mut bad = file.clone();
            let at = match round % 3 {
                0 => random.below(112) as usize,
                1 => h.l1_offset as usize + random.below(h.l1_needed * 8) as usize,
                _ => {
                    let l2 =
                        u64::from_be_bytes(file[h.l1_offset as usize..][..8].try_into().unwrap()) & 0xff_ffff_ffff_fe00;
                    l2 as usize + random.below(h.cluster_size()) as usize
                }
            };
            bad[at] ^= 1 << random.below(8);
            if header(&bad, None).is_ok_and(|h| h.size > 64 << 20) {
                continue;
            }
            for options in [in_order(&bad), seek(&bad, true), seek(&bad, false)] {
                let _ = decode(&bad, options, None);
            }
        }
    }
}

/// Makes the L2 entry of guest cluster `to` a copy of that of `from`.
fn share(file: &mut [u8], from: usize, to: usize) {
    let h = header(file, None).unwrap();
    let entries = h.l2_entries() as usize;
    let place = |file: &[u8], i: usize| {
        let l1 = h.l1_offset as usize + i / entries * 8;
        let table = u64::from_be_bytes(file[l1..l1 + 8].try_into().unwrap()) & 0xff_ffff_ffff_fe00;
        table as usize + i % entries * 8
    };
    let (source, target) = (place(file, from), place(file, to));
    file.copy_within(source..source + 8, target);
}

#[test]
fn shared_clusters_are_right() {
    let images = Images::new();
    let raw: Vec<u8> = (0..1 << 20).map(|i: u32| (i / 4096 + 1) as u8 | 1).collect();
    write(&images.path("s.raw"), &raw);
    for compress in ["-S0", "-c"] {
        images.must("qemu-img", &["convert", compress, "-O", "qcow2", "-o", "cluster_size=4096", "s.raw", "s.qcow2"]);
        let mut file = images.read("s.qcow2");
        let mut expected = raw.clone();
        for (from, to) in [(3, 9), (3, 4), (20, 11)] {
            share(&mut file, from, to);
            expected.copy_within(from * 4096..(from + 1) * 4096, to * 4096);
        }
        every_way("shared in a table", &file, &expected);
    }
    // Across tables (64 entries in each): the first was delivered before the second is known.
    let raw = content(1 << 20, 8);
    write(&images.path("s.raw"), &raw);
    images.must("qemu-img", &["convert", "-S0", "-O", "qcow2", "-o", "cluster_size=512", "s.raw", "s.qcow2"]);
    let mut file = images.read("s.qcow2");
    let mut expected = raw.clone();
    share(&mut file, 2, 1900);
    expected.copy_within(2 * 512..3 * 512, 1900 * 512);
    for whole in [false, true] {
        same("metadata", &decode(&file, seek(&file, whole), None).unwrap(), &expected);
        let turning = Options { seekable: true, whole, ..in_order(&file) };
        same("turned", &decode(&file, turning, Some(Random(1))).unwrap(), &expected);
    }
    if let Err(error) = decode(&file, in_order(&file), Some(Random(1))) {
        assert_eq!(error.code, Code::NeedsScratch, "{error}");
    }
}

#[test]
fn late_tables_spill_or_say_what_they_need() {
    let images = Images::new();
    let raw = content(4 << 20, 4);
    write(&images.path("s.raw"), &raw);
    images.must("qemu-img", &["convert", "-S0", "-O", "qcow2", "-o", "cluster_size=4096", "s.raw", "s.qcow2"]);
    let mut file = images.read("s.qcow2");
    // The L1 table moves to the end, as a resize does.
    let h = header(&file, None).unwrap();
    let table = file[h.l1_offset as usize..][..4096].to_vec();
    file.resize(file.len().next_multiple_of(4096), 0);
    let at = file.len() as u64;
    file.extend(table);
    file[40..48].copy_from_slice(&at.to_be_bytes());
    every_way("L1 at the end", &file, &raw);
    let mut options = in_order(&file);
    options.limits.hold_back = 1 << 20;
    let error = decode(&file, options.clone(), None).err().unwrap();
    assert_eq!(error.code, Code::NeedsScratch);
    assert!(error.message.contains("--spill"), "{error}");
    options.spill = Some(images.0.path().to_owned());
    same("spilled", &decode(&file, options, None).unwrap(), &raw);
    let left = std::fs::read_dir(images.0.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("spill"));
    assert_eq!(left.count(), 0);
}

#[test]
fn a_changed_table_is_seen() {
    let images = Images::new();
    let (file, _) = sample(&images, "cluster_size=65536", false);
    let h = header(&file, None).unwrap();
    let mut format = Mapped::new(Box::new(h.clone()), seek(&file, true)).unwrap();
    let mut disk = Memory::new(h.size);
    let error = loop {
        match format.wants().unwrap() {
            Wants::Ranges(ranges) => {
                for r in ranges {
                    let bytes = Bytes::copy_of(&file[r.start as usize..r.end as usize]);
                    format.take(r.start, &bytes, &mut disk).unwrap();
                }
            }
            Wants::Rest(from) => {
                let mut changed = file.clone();
                changed[h.l1_offset as usize + 7] ^= 1;
                break format.take(from, &Bytes::copy_of(&changed[from as usize..]), &mut disk).unwrap_err();
            }
            Wants::Nothing => panic!("the whole file was to be read"),
        }
    };
    assert_eq!(error.code, Code::Changed);
}

fn patched(file: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn headers_are_refused() {
    let images = Images::new();
    let (file, _) = sample(&images, "cluster_size=65536", false);
    let refused = |file: &[u8], code: Code, says: &str| {
        let s = sniff(&file[..file.len().min(1 << 20)], Some(file.len() as u64), &limits());
        let error = s.refusal.unwrap_or_else(|| panic!("not refused: {says}"));
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(says), "{error} does not say {says}");
    };
    images.must("qemu-img", &["create", "-f", "qcow2", "-F", "qcow2", "-b", "s.qcow2", "overlay.qcow2"]);
    refused(&images.read("overlay.qcow2"), Code::Unsafe, "\"s.qcow2\"");
    images.must("qemu-img", &["create", "-f", "qcow2", "-o", "data_file=d.raw", "external.qcow2", "1M"]);
    refused(&images.read("external.qcow2"), Code::Unsafe, "external");
    let luks = "encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10";
    let create = ["create", "--object", "secret,id=k,data=x", "-f", "qcow2", "-o", luks, "luks.qcow2", "1M"];
    // QEMU measures the key derivation by the processor's time and gives up when a busy machine gives it none.
    assert!((0..50).any(|_| images.run("qemu-img", &create)), "qemu-img made no encrypted image in 50 tries");
    refused(&images.read("luks.qcow2"), Code::Encrypted, "LUKS");
    refused(&patched(&file, 79, &[2]), Code::Corrupt, "qemu-img check -r");
    refused(&patched(&patched(&file, 79, &[1]), 48, &(1u64 << 40).to_be_bytes()), Code::Corrupt, "refcount table");
    refused(&patched(&patched(&file, 79, &[1]), 48, &65537u64.to_be_bytes()), Code::Corrupt, "boundary");
    refused(&patched(&file, 72, &[0x80]), Code::Unsupported, "bit 63");
    refused(&patched(&file, 24, &(1u64 << 50).to_be_bytes()), Code::TooLarge, "at most");
    refused(&patched(&file, 36, &[0, 0, 0, 0]), Code::Corrupt, "L1 table has 0 entries");
    refused(&patched(&file, 36, &[1, 0, 0, 0]), Code::TooLarge, "L1 table");
    refused(&patched(&file, 100, &[0, 0, 0, 100]), Code::Corrupt, "100 bytes");
    refused(&patched(&file, 100, &[0, 2, 0, 0]), Code::Corrupt, "131072 bytes");
    refused(&patched(&file, 40, &[0; 8]), Code::Corrupt, "over the header");
    refused(&patched(&file, 40, &65544u64.to_be_bytes()), Code::Corrupt, "boundary");
    refused(&patched(&file, 40, &(1u64 << 40).to_be_bytes()), Code::Truncated, "file has");
    refused(&patched(&file, 23, &[8]), Code::Corrupt, "cluster_bits");
    refused(&patched(&file, 7, &[4]), Code::Unsupported, "version 4");
    refused(&patched(&file, 99, &[7]), Code::Corrupt, "refcount_order");
    refused(&file[..50], Code::Truncated, "inside its header");
}

#[test]
fn tables_over_each_other_are_corrupt() {
    let images = Images::new();
    let (file, _) = sample(&images, "cluster_size=4096,compat=0.10", false);
    let h = header(&file, None).unwrap();
    let l1 = h.l1_offset as usize;
    let table = u64::from_be_bytes(file[l1..l1 + 8].try_into().unwrap()) & 0xff_ffff_ffff_fe00;
    let bad = [
        patched(&file, l1, &0u64.to_be_bytes().map(|_| 0x7f)),
        patched(&file, l1, &h.l1_offset.to_be_bytes()),
        patched(&file, l1, &(table + 512).to_be_bytes()),
        patched(&file, table as usize, &table.to_be_bytes()),
        patched(&file, table as usize, &h.l1_offset.to_be_bytes()),
        patched(&file, table as usize, &(table | 1).to_be_bytes()),
        patched(&file, table as usize, &(1u64 << 62 | 100).to_be_bytes()),
        // Compressed data behind the L1 table in its cluster, and one that begins before it and reaches into it. With
        // clusters of 4 KiB the length in sectors stands from bit 58 on ("Compressed Clusters Descriptor").
        patched(&file, table as usize, &(1u64 << 62 | (h.l1_offset + 1000)).to_be_bytes()),
        patched(&file, table as usize, &(1u64 << 62 | 2 << 58 | (h.l1_offset - 600)).to_be_bytes()),
    ];
    for (i, bad) in bad.iter().enumerate() {
        for options in [in_order(bad), seek(bad, true), seek(bad, false)] {
            let error = decode(bad, options, None).err().unwrap_or_else(|| panic!("{i} is accepted"));
            assert_eq!(error.code, Code::Corrupt, "{i}: {error}");
        }
    }
}

#[test]
fn heads_are_told_apart() {
    let at = |at: usize, magic: &[u8]| {
        let mut head = vec![0; 4096];
        head[at..at + magic.len()].copy_from_slice(magic);
        head
    };
    let cases: &[(Vec<u8>, Code)] = &[
        (at(0, b"KDMV"), Code::Unsupported),
        (at(0, b"COWD"), Code::Unsupported),
        (at(0, b"\xbe\xba\xfe\xca\0\0\0\0\x01\0\0\0\x02\0\0\0"), Code::Unsupported),
        (at(0, b"Bochs Virtual HD Image"), Code::NeedsScratch),
        (at(0, b"QFI\xfb\0\0\0\x01"), Code::NeedsScratch),
        (at(0, b"QFI\xfb\0\0\0\x01\0\0\0\0\0\0\x02\0"), Code::Unsafe),
        (at(0, b"# Disk DescriptorFile"), Code::Unsafe),
        (at(0, b"vhdxfile"), Code::Truncated),
        (at(0, b"conectix"), Code::Corrupt),
        (at(0x40, &[0x7f, 0x10, 0xda, 0xbe]), Code::Unsupported),
        (at(0, b"QED\0"), Code::Corrupt),
        (at(0, b"WithoutFreeSpace"), Code::Unsupported),
        (at(0, b"WithouFreSpacExt"), Code::Unsupported),
        (at(0, b"LUKS\xba\xbe"), Code::Encrypted),
        (at(0, b"BZh91AY&SY"), Code::Truncated),
        (at(0, &[0x02, 0x21, 0x4c, 0x18]), Code::Unsupported),
        (at(0, b"7z\xbc\xaf\x27\x1c"), Code::Unsupported),
        (at(0, b"PK\x03\x04"), Code::Corrupt),
        (at(0, b"Rar!\x1a\x07"), Code::Unsupported),
        (at(257, b"ustar"), Code::Corrupt),
        (b"  \n<!DocType HTML><p>".to_vec(), Code::Unsupported),
        (b"<HTML>".to_vec(), Code::Unsupported),
        (Vec::new(), Code::Truncated),
    ];
    for (head, code) in cases {
        let s = sniff(head, Some(head.len() as u64), &limits());
        assert_eq!(s.refusal.as_ref().map(|e| e.code), Some(*code), "{:?}", &head[..head.len().min(16)]);
    }
    let s = sniff(&at(512, b"EFI PART"), Some(4096), &limits());
    assert!(s.refusal.is_none());
    assert_eq!((s.format, s.virtual_size, s.features), ("raw", Some(4096), vec!["GPT partition table".to_owned()]));
    let mut iso = vec![0; 0x9000];
    iso[0x8001..0x8006].copy_from_slice(b"CD001");
    assert_eq!(sniff(&iso, None, &limits()).features, ["ISO 9660"]);
}

#[test]
fn what_lies_behind_codecs_is_seen() {
    let images = Images::new();
    let (file, raw) = sample(&images, "cluster_size=65536", false);
    for (program, suffix) in [("gzip", "gz"), ("zstd", "zst"), ("xz", "xz")] {
        images.must(program, &["-k", "s.qcow2"]);
        images.must(program, &["-k", "s.raw"]);
        let packed = images.read(&format!("s.qcow2.{suffix}"));
        let s = sniff(&packed[..packed.len().min(1 << 20)], Some(packed.len() as u64), &limits());
        assert!(s.refusal.is_none(), "{:?}", s.refusal);
        assert_eq!(s.codecs.iter().map(|c| c.name()).collect::<Vec<_>>(), [program]);
        assert_eq!((s.format, s.virtual_size), ("qcow2", Some(raw.len() as u64)));
        assert!(s.decoder_memory > 0 && s.decoder_memory >= s.window);
        let packed = images.read(&format!("s.raw.{suffix}"));
        let s = sniff(&packed[..packed.len().min(1 << 20)], Some(packed.len() as u64), &limits());
        assert_eq!((s.format, s.virtual_size, s.refusal.is_none()), ("raw", None, true));
    }
    assert!(!file.is_empty());
}

/// A checkpoint follows the stream: nothing pins it that is not of the disk.
#[test]
fn the_watermark_follows() {
    let images = Images::new();
    for compress in [false, true] {
        let (file, _) = sample(&images, "cluster_size=4096", compress);
        let mut format = Mapped::new(Box::new(header(&file, None).unwrap()), in_order(&file)).unwrap();
        let mut disk = Memory::new(header(&file, None).unwrap().size);
        format.wants().unwrap();
        let mut far = 0;
        for (i, piece) in file.chunks(1000).enumerate() {
            format.take(i as u64 * 1000, &Bytes::copy_of(piece), &mut disk).unwrap();
            let end = i as u64 * 1000 + piece.len() as u64;
            far = far.max(end - format.pinned().unwrap_or(end));
        }
        assert!(far < if compress { 9 << 20 } else { 1 << 20 }, "{far} bytes behind");
    }
}

#[test]
fn raw_passes_through() {
    let file = content(3_000_001, 2);
    for from in [None, Some(0), Some(5), Some(2_000_000), Some(3_000_001), Some(u64::MAX)] {
        let head = 0..1 << 20;
        let mut format = Raw::new(Some(file.len() as u64), from.unwrap_or(0), std::slice::from_ref(&head));
        let mut disk = Memory::new(file.len() as u64);
        drive(&mut format, &file, &mut disk, Some(Random(3))).unwrap();
        same("raw", &disk, &file);
        let from = from.unwrap_or(0).min(file.len() as u64) as usize;
        for (i, covered) in disk.covered.iter().enumerate() {
            assert_eq!(*covered, i >= from || i < 1 << 20, "{i} from {from}");
        }
    }
    let mut format = Raw::new(Some(file.len() as u64), 0, &[]);
    let mut disk = Memory::new(file.len() as u64);
    let error = drive(&mut format, &file[..1000], &mut disk, None);
    assert!(error.is_ok() || error.unwrap_err().code == Code::Truncated);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A version 3 image made here, with clusters in any order in the file, some of them shared.
    #[test]
    fn any_order_gives_the_same_disk(
        places in prop::collection::vec(0u64..40, 1..150),
        tables_last in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let (cluster, size) = (512u64, places.len() as u64 * 512);
        let l2 = size.div_ceil(64 * cluster);
        let data = if tables_last { 2 } else { 2 + l2 };
        let tables = if tables_last { 42 } else { 2 };
        let mut file = vec![0u8; 512 * (44 + l2 as usize)];
        let mut put = |at: u64, bytes: &[u8]| file[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        put(0, b"QFI\xfb\0\0\0\x03");
        put(20, &9u32.to_be_bytes());
        put(24, &size.to_be_bytes());
        put(36, &(l2 as u32).to_be_bytes());
        put(40, &512u64.to_be_bytes());
        put(96, &4u32.to_be_bytes());
        put(100, &104u32.to_be_bytes());
        let mut expected = vec![0u8; size as usize];
        for i in 0..l2 {
            put(512 + i * 8, &((tables + i) * 512).to_be_bytes());
        }
        for i in 0..40u64 {
            put((data + i) * 512, &[i as u8 + 1; 512]);
        }
        for (i, place) in places.iter().enumerate() {
            if *place > 0 {
                put(tables * 512 + i as u64 * 8, &((data + place) * 512).to_be_bytes());
                expected[i * 512..(i + 1) * 512].fill(*place as u8 + 1);
            }
        }
        for whole in [false, true] {
            same("seek", &decode(&file, seek(&file, whole), Some(Random(seed))).unwrap(), &expected);
            let turning = Options { seekable: true, whole, ..in_order(&file) };
            same("in order", &decode(&file, turning, Some(Random(seed))).unwrap(), &expected);
        }
    }
}
