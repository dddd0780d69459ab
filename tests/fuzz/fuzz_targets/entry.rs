//! Entries of a stream in Redis.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| eventstream_tests::fuzz::entry(input));
