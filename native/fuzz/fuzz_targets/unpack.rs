#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| diskferry_fuzz::unpack::check(input));
