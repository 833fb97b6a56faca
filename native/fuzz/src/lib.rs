//! What the fuzz targets check; each target is one line that calls one of these.

pub mod codec;
pub mod digest;
pub mod image;
pub mod journal;
pub mod memory;
pub mod patches;
pub mod random;
pub mod repair;
pub mod small_images;
pub mod unpack;

use std::sync::LazyLock;

use diskferry_engine::limits::Limits;

/// The default limits. Read once: the number of processors is in a file.
static LIMITS: LazyLock<Limits> = LazyLock::new(Limits::default);
