//! A fixed VHD: a raw disk, and a sector behind it that says so ("Hard Disk Footer Format"). Nothing at its beginning
//! tells it from a raw disk, so it is read as one only where it is said to be a VHD.

use std::sync::Arc;

use super::fields::{be32, be64};
use super::mapped::corrupt;
use super::raw::Raw;
use super::vhd::{DRIVER, FIXED, FOOTER, VERSION, checksum};
use super::{Disk, Format, Image, Open, Options, Order, Wants, head};
use crate::bytes::Bytes;
use crate::error::{Code, Error, Result, Stage};
use crate::limits::Limits;

/// Fails with UNSUPPORTED where the length is not known, with CORRUPT or TOO_LARGE by it.
pub fn describe_fixed(file_length: Option<u64>, limits: &Limits) -> Result<Image> {
    let Some(length) = file_length else {
        let message = "a fixed VHD ends with a sector that is no part of the disk, and how long it is is not known: \
                       decompress it first, or give it from a source that tells its length";
        return Err(head::unsupported(message));
    };
    let footer = FOOTER as u64;
    if length <= footer || !length.is_multiple_of(footer) {
        return Err(corrupt(DRIVER.name, &format!("{length} bytes are no whole sectors of a disk and a footer")));
    }
    let data = length - footer;
    head::accept_size(data, limits)?;
    Ok(Image {
        virtual_size: data,
        order: Order::Stream,
        features: vec!["fixed".to_owned()],
        left_out: Vec::new(),
        opener: Arc::new(Fixed { data }),
    })
}

#[derive(Debug)]
struct Fixed {
    /// Bytes of the disk, where the footer begins.
    data: u64,
}

impl Open for Fixed {
    fn open(&self, options: Options) -> Result<Box<dyn Format>> {
        let from = options.from.unwrap_or(0);
        let raw = Raw::new(Some(self.data), from, &options.held);
        Ok(Box::new(Reader { raw, data: self.data, footer: Vec::new(), all_there: from == u64::MAX }))
    }
}

struct Reader {
    raw: Raw,
    data: u64,
    footer: Vec<u8>,
    /// The whole image was read and verified by an earlier run.
    all_there: bool,
}

impl Format for Reader {
    fn wants(&mut self) -> Result<Wants> {
        self.raw.wants()
    }

    fn take(&mut self, offset: u64, bytes: &Bytes, disk: &mut dyn Disk) -> Result<()> {
        let of_disk = usize::try_from(self.data.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
        if of_disk > 0 {
            self.raw.take(offset, &bytes.slice(0, of_disk), disk)?;
        }
        if of_disk < bytes.len() && offset + of_disk as u64 == self.data + self.footer.len() as u64 {
            let room = FOOTER - self.footer.len();
            self.footer.extend(bytes[of_disk..].iter().take(room));
        }
        Ok(())
    }

    fn finish(&mut self, _length: Option<u64>, disk: &mut dyn Disk) -> Result<()> {
        self.raw.finish(Some(self.data), disk)?;
        if self.all_there {
            return Ok(());
        }
        let footer = &self.footer;
        if footer.len() < FOOTER {
            let message = format!("the fixed VHD ends {} bytes into its footer: fetch it again", footer.len());
            return Err(Error::new(Code::Truncated, Stage::Format, message));
        }
        let bad = |what: &str| Err(corrupt(DRIVER.name, what));
        if !footer.starts_with(b"conectix") || be32(footer, 12) != VERSION || be32(footer, 60) != FIXED {
            return bad("there is no footer of a fixed disk at its end");
        }
        if be32(footer, 64) != checksum(footer, 64) {
            return bad("the checksum of its footer is wrong");
        }
        if be64(footer, 48) != self.data {
            return bad(&format!("its footer is for {} bytes, in front of it are {}", be64(footer, 48), self.data));
        }
        Ok(())
    }

    /// The footer is always read again.
    fn pinned(&self) -> Option<u64> {
        Some(self.raw.pinned().unwrap_or(u64::MAX).min(self.data))
    }

    fn in_disk_order(&self) -> bool {
        true
    }
}
