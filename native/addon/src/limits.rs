//! Bounds that the caller gives, over those of the engine.

use diskferry_engine::limits::Limits;
use napi_derive::napi;

use crate::offset::whole;

#[napi(object)]
#[derive(Clone, Default)]
pub struct LimitsInit {
    pub virtual_size: Option<f64>,
    pub decoder_window: Option<f64>,
    pub decoder_memory: Option<f64>,
    pub hold_back: Option<f64>,
    pub workers: Option<u32>,
}

/// The engine's defaults with what was given in their place. BAD_SPEC when a figure is not a whole number.
pub fn limits(init: &LimitsInit) -> napi::Result<Limits> {
    let mut limits = Limits::default();
    let set = |to: &mut u64, from: Option<f64>| -> napi::Result<()> {
        if let Some(n) = from {
            *to = whole(n)?;
        }
        Ok(())
    };
    set(&mut limits.virtual_size, init.virtual_size)?;
    set(&mut limits.decoder_window, init.decoder_window)?;
    set(&mut limits.decoder_memory, init.decoder_memory)?;
    set(&mut limits.hold_back, init.hold_back)?;
    if let Some(workers) = init.workers {
        limits.workers = (workers as usize).clamp(1, 64);
    }
    Ok(limits)
}
