//! What every reader of an image's head checks and says.

use crate::error::{Code, Error, Result, Stage};
use crate::limits::Limits;

/// Text from an image for people: printable, at most 80 characters.
pub fn printable(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).chars().take(81).collect();
    let clean: String = text.chars().take(80).map(|c| if c.is_control() || c == '"' { '?' } else { c }).collect();
    if text.chars().count() > 80 { format!("{clean}…") } else { clean }
}

/// Fails with TOO_LARGE when the disk is larger than is accepted.
pub fn accept_size(size: u64, limits: &Limits) -> Result<()> {
    // Half of the number range keeps every sum of an offset and a length below overflow.
    let limit = limits.virtual_size.min(1 << 62);
    if size > limit {
        let message = format!("the disk has {size} bytes; at most {limit} are accepted");
        return Err(Error::new(Code::TooLarge, Stage::Format, message));
    }
    Ok(())
}

/// Fails with TRUNCATED when fewer than `needs` bytes of the image are there.
pub fn expect_head(head: &[u8], needs: u64, name: &str) -> Result<()> {
    if (head.len() as u64) < needs {
        let message = format!("the {name} image ends after {} bytes, inside its header of {needs} bytes", head.len());
        return Err(Error::new(Code::Truncated, Stage::Format, message));
    }
    Ok(())
}

/// Fails with TRUNCATED when the file, where its length is known, ends before `end`.
pub fn expect_file(end: u64, file_length: Option<u64>, what: &str, name: &str) -> Result<()> {
    match file_length {
        Some(file) if end > file => {
            let message = format!("the {what} of the {name} image ends at {end}, but the file has {file} bytes");
            Err(Error::new(Code::Truncated, Stage::Format, message))
        }
        _ => Ok(()),
    }
}

/// An image that holds only what differs from another one.
pub fn difference(name: &str) -> Error {
    let message = format!(
        "the {name} image is only the difference to a parent image, which is not followed; flatten it first: \
         `qemu-img convert -O qcow2 IMAGE FLAT`"
    );
    Error::new(Code::Unsafe, Stage::Format, message)
}

pub fn unsupported(message: impl Into<String>) -> Error {
    Error::new(Code::Unsupported, Stage::Format, message)
}
