//! The engine of diskferry: decompress, decode image formats, hash, find zeros, write, copy. No Node in it.

pub mod archives;
pub mod bytes;
pub mod codecs;
pub mod conversion;
pub mod digest;
pub mod error;
pub mod extents;
pub mod foreign;
pub mod formats;
pub mod journal;
pub mod limits;
pub mod mark;
pub mod sandbox;
pub mod sniff;
pub mod targets;
pub mod unpacking;
pub mod zeros;
