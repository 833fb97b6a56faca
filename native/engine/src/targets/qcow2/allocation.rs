//! Clusters of the file: which are taken, and how often each is referred to (docs/interop/qcow2.txt, "Host cluster
//! management"). Nothing is ever given back, so a refcount block is final once everything behind it is taken.

use std::collections::BTreeMap;

/// Bits of a refcount are 2 to the power of this: 16, as qemu-img has it.
pub const REFCOUNT_ORDER: u32 = 4;
/// Bytes of one refcount.
const REFCOUNT: u64 = 2;

/// A refcount block: where it lies in the file, and what belongs there.
pub struct Block {
    pub at: u64,
    pub bytes: Vec<u8>,
}

pub struct Allocation {
    cluster: u64,
    /// Clusters that are taken: all below this one.
    tail: u64,
    /// Where packed data goes on within a cluster that is taken; on a boundary when there is no such room.
    packed: u64,
    /// Offsets of the refcount blocks.
    table: Vec<u64>,
    /// Blocks that may still change, by their index: two at most, a piece may lie across a boundary.
    open: BTreeMap<u64, Vec<u16>>,
}

impl Allocation {
    /// `cluster` in bytes. The first `taken` clusters are: the header's, and an L1 table behind it.
    pub fn new(cluster: u64, taken: u64) -> Self {
        let mut allocation = Self { cluster, tail: 0, packed: 0, table: Vec::new(), open: BTreeMap::new() };
        allocation.clusters(taken);
        allocation
    }

    /// Bytes of the file.
    pub fn end(&self) -> u64 {
        self.tail * self.cluster
    }

    /// Takes `count` clusters that follow each other; the offset of the first.
    pub fn clusters(&mut self, count: u64) -> u64 {
        let first = self.tail;
        self.tail += count;
        self.cover();
        (first..first + count).for_each(|cluster| self.refer(cluster));
        first * self.cluster
    }

    /// Takes `bytes` (at most a cluster) anywhere; the offset. What follows what was taken last shares its cluster.
    pub fn packed(&mut self, bytes: u64) -> u64 {
        let boundary = self.packed.next_multiple_of(self.cluster);
        let fits = self.packed + bytes <= boundary || boundary == self.end();
        let at = if fits { self.packed } else { self.end() };
        self.packed = at + bytes;
        self.tail = self.tail.max(self.packed.div_ceil(self.cluster));
        self.cover();
        (at / self.cluster..self.packed.div_ceil(self.cluster)).for_each(|cluster| self.refer(cluster));
        at
    }

    /// Refcount blocks that cannot change any more; each is given once.
    pub fn settled(&mut self) -> Vec<Block> {
        let current = self.packed.min(self.end().saturating_sub(1)) / self.cluster / self.block();
        let open = self.open.split_off(&current);
        std::mem::replace(&mut self.open, open)
            .into_iter()
            .map(|(index, counts)| self.written(index, &counts))
            .collect()
    }

    /// Takes the refcount table itself, behind which nothing may be taken any more: its offset, its bytes in whole
    /// clusters, and all blocks that are left.
    pub fn finish(&mut self) -> (u64, Vec<u8>, Vec<Block>) {
        // The table may need a block of its own, which may need a longer table: few rounds settle that.
        let entries = self.cluster / 8;
        let mut length = (self.table.len() as u64).div_ceil(entries).max(1);
        while (self.tail + length + 1 + length).div_ceil(self.block()) > length * entries {
            length += 1;
        }
        let at = self.clusters(length);
        let mut table = vec![0; (length * self.cluster) as usize];
        for (bytes, block) in table.chunks_mut(8).zip(&self.table) {
            bytes.copy_from_slice(&block.to_be_bytes());
        }
        let open = std::mem::take(&mut self.open);
        let blocks = open.into_iter().map(|(index, counts)| self.written(index, &counts)).collect();
        (at, table, blocks)
    }

    /// Clusters of which one block has the refcounts.
    fn block(&self) -> u64 {
        self.cluster / REFCOUNT
    }

    /// Every cluster that is taken has a refcount block, which takes a cluster itself.
    fn cover(&mut self) {
        let mut blocks = Vec::new();
        while self.table.len() as u64 * self.block() < self.tail {
            self.open.insert(self.table.len() as u64, vec![0; self.block() as usize]);
            self.table.push(self.end());
            blocks.push(self.tail);
            self.tail += 1;
        }
        blocks.into_iter().for_each(|cluster| self.refer(cluster));
    }

    /// One more reference. No more than 65,535 pieces of a few bytes each fit into a cluster of 64 KiB.
    fn refer(&mut self, cluster: u64) {
        let (block, index) = (cluster / self.block(), (cluster % self.block()) as usize);
        let counts = self.open.get_mut(&block).expect("only the last clusters are referred to");
        counts[index] += 1;
    }

    fn written(&self, index: u64, counts: &[u16]) -> Block {
        Block { at: self.table[index as usize], bytes: counts.iter().flat_map(|count| count.to_be_bytes()).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refcounts of the whole file, counted another way, from what was handed out.
    #[test]
    fn every_cluster_is_counted_once_for_each_that_refers_to_it() {
        let cluster = 512;
        let mut allocation = Allocation::new(cluster, 3);
        let mut wanted: BTreeMap<u64, u16> = (0..3).map(|at| (at, 1)).collect();
        let mut blocks = Vec::new();
        for n in 0..5000u64 {
            let (at, bytes) = match n % 7 {
                0 => (allocation.clusters(n % 3 + 1), (n % 3 + 1) * cluster),
                _ => (allocation.packed(n * 37 % 500 + 1), n * 37 % 500 + 1),
            };
            (at / cluster..(at + bytes).div_ceil(cluster)).for_each(|c| *wanted.entry(c).or_default() += 1);
            blocks.extend(allocation.settled());
            assert!(allocation.open.len() <= 3, "{} blocks are open", allocation.open.len());
        }
        let (at, table, rest) = allocation.finish();
        blocks.extend(rest);
        (0..table.len() as u64 / cluster).for_each(|n| *wanted.entry(at / cluster + n).or_default() += 1);
        blocks.iter().for_each(|block| *wanted.entry(block.at / cluster).or_default() += 1);
        let mut found = BTreeMap::new();
        for (index, entry) in table.as_chunks::<8>().0.iter().enumerate() {
            let Some(block) = blocks.iter().find(|block| block.at == u64::from_be_bytes(*entry)) else { continue };
            for (n, count) in block.bytes.as_chunks::<2>().0.iter().enumerate() {
                let count = u16::from_be_bytes(*count);
                if count > 0 {
                    found.insert(index as u64 * 256 + n as u64, count);
                }
            }
        }
        assert_eq!(found, wanted);
        assert_eq!(wanted.len() as u64, allocation.end() / cluster, "nothing is left between");
    }
}
