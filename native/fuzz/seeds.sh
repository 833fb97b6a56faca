#!/bin/sh
# Makes the committed corpora anew: small files of real tools (gzip, pigz, bgzip, zstd, xz, lz4, bzip2, s2c, qemu-img, qemu-io),
# and what src/seeds.rs makes. s2c is built by scripts/toolchain.mjs. Debian: apt-get install pigz tabix zip zstd xz-utils lz4 bzip2 qemu-utils
set -eu
cd "$(dirname "$0")"
rm -rf corpus
mkdir -p corpus/gzip corpus/zstd corpus/xz corpus/lz4 corpus/bzip2 corpus/snappy corpus/tar corpus/zip corpus/unpack corpus/qcow2 corpus/sniff
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# 6 KB: text that compresses, zeros, and bytes that don't.
text() { i=0; while [ $i -lt 60 ]; do echo "line $i of a disk image that is not one"; i=$((i + 1)); done; }
{ text; head -c 2000 /dev/zero; head -c 1500 "$(command -v gzip)"; } > "$work/plain"
head -c 700 "$work/plain" > "$work/short"
: > "$work/empty"
p=$work/plain s=$work/short

gzip -9 < "$p" > corpus/gzip/best
gzip -1 < "$p" > corpus/gzip/fast
gzip -n < "$work/empty" > corpus/gzip/empty
{ gzip -9 < "$s"; gzip -1 < "$s"; head -c 16 /dev/zero; } > corpus/gzip/members-padded
gzip -9N -c "$s" > corpus/gzip/named
pigz -b 128 -p 2 -i < "$p" > corpus/gzip/pigz
pigz -0 < "$s" > corpus/gzip/stored
pigz -H < "$s" > corpus/gzip/huffman 2>/dev/null || rm -f corpus/gzip/huffman
bgzip -c < "$p" > corpus/gzip/bgzf

zstd -q -c -1 < "$p" > corpus/zstd/fast
zstd -q -c -19 "$p" > corpus/zstd/best-sized
zstd -q -c -19 --no-check < "$p" > corpus/zstd/no-check
zstd -q -c --long=23 --no-check < "$s" > corpus/zstd/long
zstd -q -c < "$work/empty" > corpus/zstd/empty
{ printf 'P*M\030\004\000\000\000skip'; zstd -q -c < "$s"; zstd -q -c --no-check "$s"; } > corpus/zstd/skippable-frames
head -c 300000 /dev/zero | zstd -q -c -3 --no-check > corpus/zstd/zeros

xz -T1 -c < "$p" > corpus/xz/one
xz -T2 --block-size=2048 -c < "$p" > corpus/xz/blocks
xz -T2 --block-size=2048 --check=none -c < "$p" > corpus/xz/blocks-unchecked
xz -T1 --check=none -0 -c < "$p" > corpus/xz/unchecked
xz -T1 --check=sha256 -c < "$s" > corpus/xz/sha256
xz -T1 --check=crc32 --x86 --lzma2=preset=0 -c < "$s" > corpus/xz/filters
xz -T1 --check=none --delta=dist=4 --lzma2=preset=0,dict=4KiB -c < "$s" > corpus/xz/delta
{ xz -c < "$s"; head -c 8 /dev/zero; xz -c < "$work/empty"; } > corpus/xz/streams-padded

lz4 -q -c -1 < "$p" > corpus/lz4/fast
lz4 -q -c -9 -BD -BX "$p" > corpus/lz4/best-linked-checked
lz4 -q -c --no-frame-crc < "$p" > corpus/lz4/no-check
lz4 -q -c --content-size --no-frame-crc "$s" > corpus/lz4/sized
lz4 -q -c < "$work/empty" > corpus/lz4/empty
{ printf 'P*M\030\004\000\000\000skip'; lz4 -q -c < "$s"; lz4 -q -c -BD --no-frame-crc "$s"; } > corpus/lz4/skippable-frames
head -c 200000 /dev/zero | lz4 -q -c -B4 -BD --no-frame-crc > corpus/lz4/linked-zeros
head -c 200000 /dev/zero | lz4 -q -c -B4 --no-frame-crc > corpus/lz4/independent-zeros

bzip2 -9 < "$p" > corpus/bzip2/best
bzip2 -1 < "$s" > corpus/bzip2/short
bzip2 < "$work/empty" > corpus/bzip2/empty
{ bzip2 -1 < "$s"; bzip2 < "$work/empty"; bzip2 -2 < "$s"; } > corpus/bzip2/streams
head -c 50000000 /dev/zero | bzip2 -1 > corpus/bzip2/zeros

sz() { "$(ls -d "${XDG_CACHE_HOME:-$HOME/.cache}"/diskferry/tools/s2c@*/s2c)" -q -c -snappy -index=false "$@"; }
sz "$p" > corpus/snappy/one
sz -slower -blocksize 4K "$p" > corpus/snappy/small-chunks
sz -pad 512 -index=true "$s" > corpus/snappy/padded-indexed
{ sz "$s"; sz "$s"; } > corpus/snappy/streams
head -c 200000 /dev/zero | sz - > corpus/snappy/zeros

mkdir -p "$work/tree"
cp "$s" "$work/tree/disk.img"
cp "$p" "$work/tree/notes"
truncate -s 40000 "$work/tree/holes.raw"
for n in 1 2 3 4 5 6; do printf data | dd of="$work/tree/holes.raw" bs=1 seek=$((n * 5000)) conv=notrunc 2> "$work/log"; done
archive() { name=$1; shift; tar -C "$work/tree" --owner=0 --group=0 --mtime=@0 -b 1 -cf "corpus/tar/$name" "$@"; }
for format in v7 gnu ustar posix; do archive "$format" "--format=$format" notes disk.img; done
archive gnu-sparse --format=gnu -S notes holes.raw
for version in 0.0 0.1 1.0; do archive "pax-sparse-$version" --format=posix -S "--sparse-version=$version" holes.raw; done

mkdir -p "$work/links/a/b"
printf content > "$work/links/a/file"
ln "$work/links/a/file" "$work/links/a/b/hard"
ln -s ../file "$work/links/a/b/soft"
ln -s a/b "$work/links/c"
ln -s nowhere "$work/links/dangling"
for format in ustar gnu posix; do tar -C "$work/links" --owner=0 --group=0 --mtime=@0 -b 1 "--format=$format" -cf "corpus/unpack/$format" .; done
gzip -9 < corpus/unpack/ustar > corpus/unpack/gzip
zstd -q < corpus/unpack/posix | gzip -1 > corpus/unpack/nested
cp corpus/tar/gnu-sparse corpus/tar/pax-sparse-1.0 corpus/unpack/

pack() { name=$1; shift; (cd "$work/tree" && zip -q -X "$@") > "corpus/zip/$name"; }
pack piped - notes disk.img
pack stored -0 "$work/stored" disk.img && mv "$work/stored.zip" corpus/zip/stored
pack deflated "$work/deflated" notes disk.img && mv "$work/deflated.zip" corpus/zip/deflated
pack described -fd "$work/described" notes disk.img && mv "$work/described.zip" corpus/zip/described
pack two "$work/two" disk.img holes.raw && mv "$work/two.zip" corpus/zip/two
(cd "$work/tree" && echo '<Envelope xmlns:ovf="o"><References><File ovf:id="f" ovf:href="disk.img"/></References><DiskSection>
<Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="1" ovf:capacityAllocationUnits="byte * 2^30"/></DiskSection></Envelope>' > vm.ovf &&
  sha1sum vm.ovf disk.img | sed 's/\(.*\)  \(.*\)/SHA1(\2)= \1/' > vm.mf)
pack ova "$work/ova" vm.ovf vm.mf disk.img && mv "$work/ova.zip" corpus/zip/ova
archive ova --format=ustar vm.ovf vm.mf disk.img
archive ova-late --format=ustar vm.ovf disk.img vm.mf

# Clusters of 512 bytes keep an image with all its tables at a few KiB.
image() {
  name=$1 options=$2 size=$3
  shift 3
  qemu-img create -q -f qcow2 -o "$options" "corpus/qcow2/$name" "$size"
  for command in "$@"; do qemu-io -f qcow2 -c "$command" "corpus/qcow2/$name" > "$work/log"; done
}
image empty cluster_size=512 64K
image data cluster_size=512 100K 'write -P 1 0 3000' 'write -P 2 70000 1500' 'write -z 8192 2048'
image version-2 cluster_size=512,compat=0.10 100K 'write -P 3 512 2000' 'discard 512 512'
image lazy cluster_size=512,lazy_refcounts=on 64K 'write -P 4 0 1024'
image narrow-refcounts cluster_size=512,refcount_bits=1 64K 'write -P 5 100 5000'
image preallocated cluster_size=512,preallocation=metadata 16K 'write -P 6 4096 512'
image extended cluster_size=16384,extended_l2=on 16000 'write -P 7 512 1024' 'write -z 9216 512'
image snapshot cluster_size=512 32K 'write -P 8 0 2048'
qemu-img snapshot -c first corpus/qcow2/snapshot
qemu-io -f qcow2 -c 'write -P 9 1024 2048' corpus/qcow2/snapshot > "$work/log"
image resized cluster_size=512 16K 'write -P 10 0 4096'
qemu-img resize -q corpus/qcow2/resized 4M
qemu-io -f qcow2 -c 'write -P 11 3M 1024' corpus/qcow2/resized > "$work/log"
image bitmap cluster_size=512 32K 'write -P 12 0 1024'
qemu-img bitmap --add corpus/qcow2/bitmap dirty
qemu-img convert -q -c -O qcow2 -o cluster_size=512 -f raw "$p" corpus/qcow2/zlib
qemu-img convert -q -c -O qcow2 -o cluster_size=2048,compression_type=zstd -f raw "$p" corpus/qcow2/zstd
qemu-img convert -q -c -O qcow2 -o cluster_size=4096 -f raw "$p" corpus/qcow2/zlib-4k
qemu-img convert -q -W -O qcow2 -o cluster_size=512 -f raw "$p" corpus/qcow2/out-of-order
cp -r corpus/qcow2 corpus/qcow2_ranges

# src/small_images.rs makes the others: tools make them with clusters of 64 KiB and more.
mkdir -p corpus/images corpus/images_ranges
head -c 20000 "$(command -v gzip)" > "$work/raw"
qemu-img convert -q -f raw -O parallels -o cluster_size=4k "$work/raw" corpus/images/parallels
qemu-img convert -q -f raw -O qed -o cluster_size=4096,table_size=2 "$work/raw" corpus/images/qed
cp corpus/images/* corpus/images_ranges

gzip -9 < corpus/qcow2/data > corpus/sniff/qcow2-gzip
zstd -q -c < corpus/qcow2/snapshot > corpus/sniff/qcow2-zstd
xz -c < corpus/qcow2/bitmap > corpus/sniff/qcow2-xz
gzip -9 < corpus/gzip/best | zstd -q -c > corpus/sniff/three-layers
cp corpus/qcow2/data corpus/sniff/qcow2
cp corpus/qcow2/snapshot corpus/sniff/qcow2-snapshot
printf '<!DOCTYPE html><html><title>login</title>' > corpus/sniff/page
printf 'LUKS\272\276\000\002' > corpus/sniff/luks
printf 'BZh91AY&SY' > corpus/sniff/bzip2
{ head -c 510 /dev/zero; printf 'U\252EFI PART'; } > corpus/sniff/gpt
qemu-img create -q -f vdi "$work/vdi" 1M && head -c 512 "$work/vdi" > corpus/sniff/vdi
qemu-img create -q -f vpc "$work/vhd" 1M && head -c 512 "$work/vhd" > corpus/sniff/vhd

cargo run --quiet --example seeds -- corpus
find corpus -type f -size +100k -print -delete
du -sb corpus
