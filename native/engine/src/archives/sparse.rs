//! Sparse files in tar archives: which parts of the file are in the archive; the rest is zeros ("Sparse Formats", GNU
//! tar manual).

use crate::error::{Code, Error, Result, Stage};

use super::tar::corrupt;

/// Runs of a map that are kept: 4 MiB of them. A disk of 1 TiB with a run in each 4 MiB has as many.
pub const MOST: usize = 1 << 18;

pub fn too_many() -> Error {
    Error::new(Code::TooLarge, Stage::Decode, format!("a sparse file in the archive has more than {MOST} parts"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub offset: u64,
    pub length: u64,
}

#[derive(Clone, Debug)]
pub struct Sparse {
    /// Bytes of the file.
    pub size: u64,
    runs: Vec<Run>,
    end: u64,
}

impl Sparse {
    pub fn new(size: u64) -> Self {
        Self { size, runs: Vec::new(), end: 0 }
    }

    /// From pairs of offset and length. Fails with CORRUPT, TOO_LARGE.
    pub fn from_numbers(size: u64, numbers: &[u64], at: u64) -> Result<Self> {
        let mut map = Self::new(size);
        if !numbers.len().is_multiple_of(2) {
            return Err(corrupt(at, "the map of a sparse file has an offset without a length"));
        }
        for pair in numbers.chunks_exact(2) {
            map.add(Run { offset: pair[0], length: pair[1] }, at)?;
        }
        Ok(map)
    }

    /// Runs ascend and lie in the file. Fails with CORRUPT, TOO_LARGE.
    pub fn add(&mut self, run: Run, at: u64) -> Result<()> {
        let end = run.offset.checked_add(run.length).filter(|&end| end <= self.size && run.offset >= self.end);
        self.end =
            end.ok_or_else(|| corrupt(at, "the map of a sparse file is out of order, or leads beyond its end"))?;
        // Empty runs mark the end of a file.
        if run.length == 0 {
            return Ok(());
        }
        if self.runs.len() == MOST {
            return Err(too_many());
        }
        self.runs.push(run);
        Ok(())
    }

    /// Bytes of the file that are in the archive.
    pub fn stored(&self) -> u64 {
        self.runs.iter().map(|run| run.length).sum()
    }

    pub fn begins_with_data(&self) -> bool {
        self.runs.first().is_some_and(|run| run.offset == 0)
    }

    pub fn into_runs(self) -> Vec<Run> {
        self.runs
    }
}

/// The map of form 1.0, which stands before the data: the number of runs, then offset and length of each, a decimal
/// number a line, filled up to a block.
#[derive(Debug, Default)]
pub struct MapReader {
    digits: Vec<u8>,
    count: Option<u64>,
    numbers: Vec<u64>,
}

impl MapReader {
    /// Takes a block; gives the numbers when they are complete. Fails with CORRUPT, TOO_LARGE.
    pub fn take(&mut self, block: &[u8], at: u64) -> Result<Option<Vec<u64>>> {
        for &byte in block {
            if self.complete() {
                break;
            }
            if byte.is_ascii_digit() && self.digits.len() < 20 {
                self.digits.push(byte);
                continue;
            }
            let bad = || corrupt(at, "the map of a sparse file has no numbers");
            if byte != b'\n' {
                return Err(bad());
            }
            let text = std::str::from_utf8(&self.digits).map_err(|_| bad())?;
            let number: u64 = text.parse().map_err(|_| bad())?;
            self.digits.clear();
            match self.count {
                None if number > MOST as u64 => {
                    let message = format!("a sparse file in the archive has {number} parts, at most {MOST} are read");
                    return Err(Error::new(Code::TooLarge, Stage::Decode, message));
                }
                None => self.count = Some(number),
                Some(_) => self.numbers.push(number),
            }
        }
        Ok(if self.complete() { Some(std::mem::take(&mut self.numbers)) } else { None })
    }

    fn complete(&self) -> bool {
        self.count.is_some_and(|count| self.numbers.len() as u64 == 2 * count)
    }
}
