//! What the head of an image says.

use diskferry_engine::sniff;
use napi::bindgen_prelude::Uint8ArraySlice;
use napi_derive::napi;

use crate::limits::{LimitsInit, limits};
use crate::offset::whole;

#[napi(object)]
pub struct Refusal {
    pub code: String,
    pub stage: String,
    pub message: String,
}

#[napi(object)]
pub struct Sniffed {
    pub codecs: Vec<String>,
    pub format: String,
    pub virtual_size: Option<f64>,
    pub order: String,
    pub features: Vec<String>,
    pub left_out: Vec<String>,
    pub window: f64,
    pub decoder_memory: f64,
    pub refusal: Option<Refusal>,
}

/// What the head of an image (at most 1 MiB) says.
#[napi(catch_unwind, js_name = "sniff")]
pub fn sniff_head(head: Uint8ArraySlice<'_>, source_length: Option<f64>, init: LimitsInit) -> napi::Result<Sniffed> {
    let length = source_length.map(whole).transpose()?;
    let s = sniff::sniff(&head, length, &limits(&init)?);
    Ok(Sniffed {
        codecs: s.codecs.iter().map(|c| c.name().to_owned()).collect(),
        format: s.format.to_owned(),
        virtual_size: s.virtual_size.map(|n| n as f64),
        order: if matches!(s.order, diskferry_engine::formats::Order::Stream) { "stream" } else { "metadata" }
            .to_owned(),
        features: s.features,
        left_out: s.left_out,
        window: s.window as f64,
        decoder_memory: s.decoder_memory as f64,
        refusal: s.refusal.map(|e| Refusal {
            code: e.code.name().to_owned(),
            stage: e.stage.name().to_owned(),
            message: e.message,
        }),
    })
}
