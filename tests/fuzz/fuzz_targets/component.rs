//! Files of the plugin directory: components and whatever else may lie there.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| eventstream_tests::fuzz::component(input));
