//! Configurations, and settings of plugins.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| eventstream_tests::fuzz::settings(input));
