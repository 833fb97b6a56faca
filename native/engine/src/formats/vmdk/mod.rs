//! VMware's VMDK in one file (Virtual Disk Format 5.0, 2011): monolithicSparse by its tables, streamOptimized as the stream
//! that it is. A descriptor alone, or one of several extents, names other files, which are never followed.

use std::sync::Arc;

use super::{Driver, EARLY, Image, Order, no_more};
use crate::error::Result;
use crate::limits::Limits;

mod descriptor;
pub mod header;
mod sparse;
mod stream;
mod tables;

use header::Header;

pub const DRIVER: Driver = Driver { name: "vmdk", detect: header::detect, needs: no_more, describe };

fn describe(head: &[u8], file_length: Option<u64>, limits: &Limits) -> Result<Image> {
    let header = Header::parse(head, file_length, limits)?;
    let kind = if header.compressed { "streamOptimized" } else { "monolithicSparse" };
    let mut features = vec![kind.to_owned(), format!("grain size {}", header.grain)];
    if header.unclean {
        features.push("not closed properly".to_owned());
    }
    let in_order = header.compressed || header.directory < EARLY;
    Ok(Image {
        virtual_size: header.size,
        order: if in_order { Order::Stream } else { Order::Metadata },
        features,
        left_out: Vec::new(),
        opener: if header.compressed {
            Arc::new(stream::Grains { header })
        } else {
            Arc::new(sparse::Sparse::new(header))
        },
    })
}
