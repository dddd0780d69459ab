//! From the bytes of a file to compiled code.
//!
//! Whatever can be refused without compiling is refused before. Code that was compiled elsewhere is never run: it is not
//! sandboxed. This is the only place that knows how code is compiled; it is the seam for doing it in another process.

use wasmparser::{Encoding, Parser, Payload};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::load::LoadError;

/// Compiles a component, or a core module that carries a component type. Blocks for a second per several megabytes.
///
/// # Errors
/// In words for the person who made the file; the same file fails again.
pub(super) fn compile(engine: &Engine, bytes: &[u8]) -> Result<Component, LoadError> {
    if Engine::detect_precompiled(bytes).is_some() {
        return Err(LoadError::Precompiled);
    }
    let made;
    let component = match kind(bytes)? {
        Kind::Component => bytes,
        Kind::ModuleWithType => {
            made = componentize(bytes)?;
            &made
        }
        Kind::Module => return Err(LoadError::CoreModule),
    };
    Component::from_binary(engine, component).map_err(|error| LoadError::Compile(format!("{error:#}")))
}

enum Kind {
    Component,
    ModuleWithType,
    Module,
}

fn kind(bytes: &[u8]) -> Result<Kind, LoadError> {
    if !bytes.starts_with(b"\0asm") {
        return Err(LoadError::NotWasm("the file does not begin as WebAssembly does".into()));
    }
    let mut encoding = None;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|error| LoadError::NotWasm(error.to_string()))? {
            Payload::Version { encoding: Encoding::Component, .. } => return Ok(Kind::Component),
            Payload::Version { encoding: Encoding::Module, .. } => encoding = Some(Kind::Module),
            Payload::CustomSection(section) if section.name().starts_with("component-type") => {
                return Ok(Kind::ModuleWithType);
            }
            _ => {}
        }
    }
    encoding.ok_or_else(|| LoadError::NotWasm("the file has no version".into()))
}

/// The reactor adapter stands in for WASI preview 1, which `wasm32-wasip1` modules import.
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
