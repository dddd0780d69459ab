//! Lines of an export.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| eventstream_tests::fuzz::line(input));
