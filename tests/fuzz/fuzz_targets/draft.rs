//! Bodies of `POST /events`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| eventstream_tests::fuzz::draft(input));
