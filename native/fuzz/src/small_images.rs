//! Images with the smallest clusters that are accepted: tools make them of 64 KiB and more, too much for a fuzzer.

const CLUSTER: usize = 4096;
/// Clusters of the disk.
const DISK: usize = 6;

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A stored deflate block in zlib's frame (RFC 1951, section 3.2.4; RFC 1950).
fn zlib(bytes: &[u8]) -> Vec<u8> {
    let len = bytes.len() as u16;
    let (mut a, mut b) = (1_u32, 0_u32);
    for &byte in bytes {
        a = (a + u32::from(byte)) % 65521;
        b = (b + a) % 65521;
    }
    [&[0x78, 1, 1][..], &len.to_le_bytes(), &(!len).to_le_bytes(), bytes, &(b << 16 | a).to_be_bytes()].concat()
}

fn vmdk_header(flags: u32, directory: u64, overhead: u64, compressed: bool) -> Vec<u8> {
    let mut file = vec![0; 512];
    put(&mut file, 0, b"KDMV\x03");
    put(&mut file, 8, &flags.to_le_bytes());
    let sectors = (DISK * CLUSTER / 512) as u64;
    for (at, value) in [(12, sectors), (20, 8), (28, 1), (36, 1), (56, directory), (64, overhead)] {
        put(&mut file, at, &value.to_le_bytes());
    }
    put(&mut file, 44, &512_u32.to_le_bytes());
    put(&mut file, 73, b"\n \r\n");
    file[77] = u8::from(compressed);
    let kind = if compressed { "streamOptimized" } else { "monolithicSparse" };
    let text = format!("# Disk DescriptorFile\nparentCID=ffffffff\ncreateType=\"{kind}\"\nRW 48 SPARSE \"a\"\n");
    file.resize(1024, 0);
    put(&mut file, 512, text.as_bytes());
    file
}

/// Two grains with data. In front of them their table, or behind them table, directory, footer and mark of the end.
fn vmdk_stream(tables_in_front: bool) -> Vec<u8> {
    let flags = 1 | 1 << 16 | 1 << 17;
    let (directory, overhead) = if tables_in_front { (2, 7) } else { (u64::MAX, 2) };
    let mut file = vmdk_header(flags, directory, overhead, true);
    let header = file[..512].to_vec();
    file.resize(overhead as usize * 512, 0);
    let mut table = vec![0; 2048];
    for grain in [1, 4_usize] {
        put(&mut table, grain * 4, &((file.len() / 512) as u32).to_le_bytes());
        let packed = zlib(&[grain as u8; CLUSTER]);
        file.extend((grain as u64 * 8).to_le_bytes());
        file.extend((packed.len() as u32).to_le_bytes());
        file.extend(packed);
        file.resize(file.len().next_multiple_of(512), 0);
    }
    if tables_in_front {
        put(&mut file, 1024, &3_u32.to_le_bytes());
        put(&mut file, 1536, &table);
        return file;
    }
    let marker = |file: &mut Vec<u8>, sectors: u64, kind: u32| {
        file.extend(sectors.to_le_bytes());
        file.extend([0; 4]);
        file.extend(kind.to_le_bytes());
        file.resize(file.len().next_multiple_of(512), 0);
    };
    marker(&mut file, 4, 1);
    let at = (file.len() / 512) as u32;
    file.extend(table);
    marker(&mut file, 1, 2);
    let directory = (file.len() / 512) as u64;
    file.extend(at.to_le_bytes());
    file.resize(file.len().next_multiple_of(512), 0);
    marker(&mut file, 1, 3);
    let mut footer = header;
    put(&mut footer, 56, &directory.to_le_bytes());
    file.extend(footer);
    marker(&mut file, 0, 0);
    file
}

fn vmdk_sparse() -> Vec<u8> {
    let mut file = vmdk_header(1 | 1 << 2, 2, 8, false);
    file.resize(8 * 512 + 3 * CLUSTER, 0x22);
    file[1024..4096].fill(0);
    put(&mut file, 1024, &3_u32.to_le_bytes());
    // Zeros by a flag, none, and data out of order.
    for (n, sector) in [(0, 16), (1, 1), (3, 8), (4, 24_u32)] {
        put(&mut file, 1536 + n * 4, &sector.to_le_bytes());
    }
    file
}

fn vdi() -> Vec<u8> {
    let mut file = vec![0; 1024 + 2 * CLUSTER];
    put(&mut file, 0x40, &[0x7f, 0x10, 0xda, 0xbe, 1, 0, 1, 0]);
    for (at, value) in
        [(0x4c, 1), (0x154, 512), (0x158, 1024), (0x170, DISK * CLUSTER), (0x178, CLUSTER), (0x180, DISK)]
    {
        put(&mut file, at, &(value as u32).to_le_bytes());
    }
    for (n, block) in [u32::MAX, 1, u32::MAX - 1, 0, u32::MAX, u32::MAX].into_iter().enumerate() {
        put(&mut file, 512 + n * 4, &block.to_le_bytes());
    }
    file[1024..].fill(0x33);
    file
}

fn vhd() -> Vec<u8> {
    let mut file = vec![0; 2048 + 2 * (512 + CLUSTER)];
    put(&mut file, 0, b"conectix\0\0\0\0\0\x01\0\0");
    put(&mut file, 16, &512_u64.to_be_bytes());
    put(&mut file, 28, b"win ");
    put(&mut file, 48, &((DISK * CLUSTER) as u64).to_be_bytes());
    put(&mut file, 60, &3_u32.to_be_bytes());
    put(&mut file, 512, b"cxsparse");
    put(&mut file, 512 + 16, &1536_u64.to_be_bytes());
    put(&mut file, 512 + 28, &(DISK as u32).to_be_bytes());
    put(&mut file, 512 + 32, &(CLUSTER as u32).to_be_bytes());
    for (n, sector) in [u32::MAX, 4, u32::MAX, u32::MAX, 13, u32::MAX].into_iter().enumerate() {
        put(&mut file, 1536 + n * 4, &sector.to_be_bytes());
    }
    file[2048..].fill(0x44);
    crate::repair::vhd(&mut file);
    file
}

pub fn all() -> Vec<(String, Vec<u8>)> {
    let images = [
        ("vmdk-stream-qemu", vmdk_stream(true)),
        ("vmdk-stream-vmware", vmdk_stream(false)),
        ("vmdk-sparse", vmdk_sparse()),
        ("vdi", vdi()),
        ("vhd", vhd()),
    ];
    images.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}
