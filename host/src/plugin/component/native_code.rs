//! From the bytes of a file to native code, in the process that calls this.
//!
//! Checks that need no compiler come first. Code that was compiled elsewhere is refused, since it is not sandboxed.

use wasmparser::{Encoding, Parser, Payload};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::load_error::LoadError;

/// The largest function that is given to the compiler. The largest of CPython has 0.2 MB.
const MAX_FUNCTION_BYTES: usize = 1024 * 1024;
/// The most functions. CPython has 14,000.
const MAX_FUNCTIONS: usize = 200_000;

#[derive(Clone, Copy)]
pub(super) enum FileKind {
    Component,
    /// A core module that carries a component type.
    ModuleWithType,
}

/// Compiles a component, or a core module with a component type, for an engine of the same version and settings. Blocks.
pub(super) fn precompile(engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>, LoadError> {
    let fails = |error: wasmtime::Error| LoadError::Compile(format!("{error:#}"));
    match inspect(bytes)? {
        FileKind::Component => engine.precompile_component(bytes).map_err(fails),
        FileKind::ModuleWithType => engine.precompile_component(&componentize(bytes)?).map_err(fails),
    }
}

/// Makes a component of native code from [`precompile`].
#[expect(unsafe_code, reason = "native code is run as it is; it comes from a child of ours, or is known to have")]
pub(super) fn deserialize(engine: &Engine, code: &[u8]) -> Result<Component, LoadError> {
    // SAFETY: the bytes are the whole output of `precompile` of this very program. They came over a pipe that no other
    // process holds, or from a cache that returns only files with our authentication code.
    unsafe { Component::deserialize(engine, code) }.map_err(|error| LoadError::Compile(format!("{error:#}")))
}

/// Finds out what the bytes are, and refuses those that are never compiled.
pub(super) fn inspect(bytes: &[u8]) -> Result<FileKind, LoadError> {
    if Engine::detect_precompiled(bytes).is_some() {
        return Err(LoadError::Precompiled);
    }
    if !bytes.starts_with(b"\0asm") {
        return Err(LoadError::NotWasm("the file does not begin as WebAssembly does".into()));
    }
    let (mut outermost, mut has_type, mut functions) = (None, false, 0_usize);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|error| LoadError::NotWasm(format!("the file is cut short or damaged: {error}")))? {
            Payload::Version { encoding, .. } => outermost = outermost.or(Some(encoding)),
            Payload::CustomSection(section) if section.name().starts_with("component-type") => has_type = true,
            Payload::CodeSectionEntry(body) => {
                functions += 1;
                let size_bytes = body.range().len();
                if size_bytes > MAX_FUNCTION_BYTES {
                    let words = format!("a function of {size_bytes} bytes; at most {MAX_FUNCTION_BYTES} are compiled");
                    return Err(LoadError::Compile(words));
                }
            }
            _ => {}
        }
    }
    if functions > MAX_FUNCTIONS {
        return Err(LoadError::Compile(format!("{functions} functions; at most {MAX_FUNCTIONS} are compiled")));
    }
    match outermost {
        Some(Encoding::Component) => Ok(FileKind::Component),
        Some(Encoding::Module) if has_type => Ok(FileKind::ModuleWithType),
        Some(Encoding::Module) => Err(LoadError::CoreModule),
        None => Err(LoadError::NotWasm("the file has no version".into())),
    }
}

/// The reactor adapter provides WASI preview 1, which `wasm32-wasip1` modules import.
fn componentize(module: &[u8]) -> Result<Vec<u8>, LoadError> {
    let fails = |error: anyhow::Error| LoadError::Componentize(format!("{error:#}"));
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .map_err(fails)?
        .adapter(
            "wasi_snapshot_preview1",
            wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
        )
        .map_err(fails)?
        .encode()
        .map_err(fails)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::sandbox::capacity::InstanceCapacity;
    use crate::plugin::sandbox::engine;
    use crate::plugin::testing;

    #[test]
    fn code_from_a_child_fits_the_engine_of_the_server() {
        let code = precompile(&engine::for_compiling().unwrap(), &testing::guest(testing::OK)).unwrap();
        let server = engine::build(InstanceCapacity::of(4), 512 * 1024).unwrap();
        assert!(deserialize(&server, &code).is_ok());
        assert!(matches!(inspect(&code), Err(LoadError::Precompiled)));
    }

    #[test]
    fn a_function_that_is_too_large_is_refused_before_it_is_compiled() {
        let body = "nop ".repeat(MAX_FUNCTION_BYTES + 1);
        let words = inspect(&wat::parse_str(format!("(module (func {body}))")).unwrap()).err().unwrap().to_string();
        assert!(words.contains("a function of 10485") && words.contains("at most 1048576"), "{words}");
    }
}
