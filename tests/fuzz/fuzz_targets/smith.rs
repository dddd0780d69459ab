//! Modules and components that wasm-smith makes of the input, as files of the plugin directory.
//!
//! Modules are made to export what a handler of ours must, and given its component type, so that they are compiled,
//! instantiated and handed an event. With `SMITH_KEEP` in the environment what was made is written to that directory.
#![no_main]

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use arbitrary::{Result, Unstructured};
use wasm_smith::{Component, Config, Module};

/// A module with the exports and the component type of a handler.
const HANDLER: &[u8] = include_bytes!("../corpus/component/handler-ok.wasm");
/// The number of a custom section.
const CUSTOM: u8 = 0;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Ok(wasm) = made(&mut Unstructured::new(input)) {
        if let Some(folder) = std::env::var_os("SMITH_KEEP") {
            let mut hasher = DefaultHasher::new();
            wasm.hash(&mut hasher);
            let file = std::path::Path::new(&folder).join(format!("smith-{:016x}.wasm", hasher.finish()));
            let _ = std::fs::write(file, &wasm);
        }
        eventstream_tests::fuzz::component(&wasm);
    }
});

fn made(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    if u.ratio(1, 4)? {
        return Ok(Component::new(offered(), u)?.to_bytes());
    }
    let config = Config {
        exports: Some(HANDLER.to_vec()),
        available_imports: None,
        max_imports: 0,
        min_memories: 1,
        ..offered()
    };
    let mut module = Module::new(config, u)?;
    if u.arbitrary()? {
        let _ = module.ensure_termination(100_000);
    }
    let mut bytes = module.to_bytes();
    bytes.extend(component_types());
    Ok(bytes)
}

/// What the sandbox takes, and small enough for many a second.
fn offered() -> Config {
    Config {
        gc_enabled: false,
        memory64_enabled: false,
        threads_enabled: false,
        exceptions_enabled: false,
        tail_call_enabled: false,
        custom_page_sizes_enabled: false,
        shared_everything_threads_enabled: false,
        wide_arithmetic_enabled: false,
        max_memories: 2,
        max_memory32_bytes: 4 << 20,
        max_table_elements: 1_000,
        ..Config::default()
    }
}

/// The sections of the handler that say which component it is to become.
fn component_types() -> Vec<u8> {
    let (mut rest, mut found) = (&HANDLER[8..], Vec::new());
    while let Some((kind, after)) = rest.split_first() {
        let Some((size, head)) = leb(after) else { break };
        let section = &rest[..1 + head + size];
        if *kind == CUSTOM && section.windows(14).any(|window| window == b"component-type") {
            found.extend_from_slice(section);
        }
        rest = &rest[section.len()..];
    }
    found
}

/// A number in LEB128, and how many bytes it takes.
fn leb(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut number = 0;
    for (place, byte) in bytes.iter().enumerate().take(5) {
        number |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((number, place + 1));
        }
    }
    None
}
