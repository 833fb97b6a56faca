//! `/dev/null`: takes everything and keeps nothing, for measuring all that lies before the target.

use std::ops::Range;

use super::{Facts, Kind, Target};
use crate::error::Result;

pub(super) struct NullTarget {
    facts: Facts,
}

impl NullTarget {
    pub(super) fn new() -> Self {
        let facts = Facts {
            kind: Kind::Null,
            exists: true,
            length: 0,
            capacity: u64::MAX,
            logical_block: 512,
            direct: false,
            zeroed: true,
            foreign: None,
        };
        Self { facts }
    }
}

/// Reads as zeros, always: a benchmark that looks for a journal finds none.
impl Target for NullTarget {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn create(&self) -> Result<()> {
        Ok(())
    }

    fn write(&self, _at: u64, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn zero(&self, _at: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn read(&self, _at: u64, into: &mut [u8]) -> Result<()> {
        into.fill(0);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn set_length(&self, _len: u64) -> Result<()> {
        Ok(())
    }

    fn preallocate(&self, _len: u64) -> Result<()> {
        Ok(())
    }

    fn data_ranges(&self, _from: u64, _to: u64) -> Result<Vec<Range<u64>>> {
        Ok(Vec::new())
    }

    fn drop_cache(&self, _at: u64, _len: u64) {}
}
