//! The engine of diskferry: decompress, decode image formats, hash, find zeros, write, copy. No Node in it.

pub mod bytes;
pub mod codecs;
pub mod error;
pub mod formats;
pub mod limits;
pub mod sniff;
