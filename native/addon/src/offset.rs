//! Offsets and lengths cross as numbers: JavaScript's safe integers suffice for 9 PB.

use crate::errors::bad;

/// An offset or length in bytes. BAD_SPEC when it is not a safe integer (2^53 - 1 at most) from 0 on.
pub fn whole(n: f64) -> napi::Result<u64> {
    if n.is_finite() && (0.0..=9_007_199_254_740_991.0).contains(&n) && n.fract() == 0.0 {
        Ok(n as u64)
    } else {
        Err(bad("an offset is not a whole number"))
    }
}
