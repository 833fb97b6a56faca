#![no_main]

use diskferry_engine::codecs::Kind;

libfuzzer_sys::fuzz_target!(|input: &[u8]| diskferry_fuzz::codec::check(Kind::Snappy, input));
