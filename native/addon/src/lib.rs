//! The thin N-API crate: types cross, policy does not.
