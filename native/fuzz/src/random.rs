//! Choices that a target makes by itself (sizes of pieces, options): drawn from the input, so that a finding repeats,
//! and without taking bytes of it, so that files of real tools are seeds as they are.

pub struct Random(u64);

impl Random {
    pub fn of(input: &[u8]) -> Self {
        let first = blake3::hash(input).as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        // xorshift has no way out of zero.
        Self(first | 1)
    }

    pub fn draw(&mut self) -> u64 {
        // xorshift64*, Vigna 2016.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A length from 1 to `most`; every order of magnitude is as likely as the others.
    pub fn length(&mut self, most: usize) -> usize {
        let bits = self.below(u64::from(most.max(1).ilog2()) + 2) as u32;
        (self.below(1 << bits) as usize + 1).min(most.max(1))
    }

    /// Cuts into pieces that are never empty.
    pub fn pieces<'a>(&mut self, mut bytes: &'a [u8], most: usize) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(self.length(most).min(bytes.len()));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}
