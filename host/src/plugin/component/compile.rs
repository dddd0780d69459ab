//! From the bytes of a file to compiled code.
//!
//! Whatever can be refused without compiling is refused before. Code that was compiled elsewhere is never run: it is not
//! sandboxed. A server compiles in a process of its own for each component, since what a compiler may need for a small
//! file has no bound: 0.8 MB can take more than 24 GB.

use std::sync::Arc;

use bytes::Bytes;
use wasmparser::{Encoding, Parser, Payload};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::compile_child::{CompileChild, CompileLimits};
use super::compile_tracks::{CompilePassage, CompileTrack};
use super::load_error::LoadError;
use super::loader::{FileContents, FileOrigin};
use crate::plugin::data_dir::PluginDataDir;
use crate::plugin::run::guest_runtime::GuestRuntime;

/// The largest function that is given to the compiler. CPython's largest has 0.2 MB.
const MAX_FUNCTION_BYTES: usize = 1024 * 1024;
/// The most functions. CPython has 14,000.
const MAX_FUNCTIONS: usize = 200_000;

/// Where components are compiled.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// In this process, without limits: for components that one made oneself, in tests for instance.
    InProcess,
    /// In a process of its own each, with limits.
    Child(CompileChild),
}

impl Compiler {
    /// Compiles a component, or a core module that carries a component type, unless its code is kept already. Gives the
    /// file's bytes back. The calling thread is not blocked. While it waits for its turn the bytes are not in memory.
    /// Dropping the future ends a child.
    ///
    /// # Errors
    /// In words for the person who made the file; the same file fails again.
    pub(in crate::plugin) async fn compile(
        &self,
        engine: &Engine,
        machine: &GuestRuntime,
        kept: Option<&Arc<PluginDataDir>>,
        file: FileContents,
        passage: &mut CompilePassage,
    ) -> Result<(Component, Bytes), LoadError> {
        let FileContents { bytes, digest, origin } = file;
        if let Some(component) = self.known(engine, machine, kept, &bytes, &digest).await? {
            tracing::debug!(plugin.digest = %digest, "compiled code was taken from the cache");
            return Ok((component, bytes));
        }
        let mut here = Some(bytes);
        let (code, bytes) = loop {
            let lane = passage.lane();
            let compilations = &machine.lanes.steps(passage).compilations;
            let turn = match compilations.try_turn(passage.applicant()) {
                Some(turn) => turn,
                None => {
                    if !matches!(origin, FileOrigin::Given) {
                        (here, _) = (None, passage.leave_room());
                    }
                    compilations.turn(passage.applicant()).await
                }
            };
            let bytes = match here.take() {
                Some(bytes) => bytes,
                None => {
                    let (origin, digest, kept) = (origin.clone(), digest.clone(), kept.cloned());
                    let read = move || origin.read_again(&digest, kept.as_deref());
                    machine.executor.run_blocking(read).await.unwrap_or(Err(LoadError::Host))?
                }
            };
            let code = self.to_code(engine, machine, bytes.clone(), lane).await;
            if matches!(code, Err(LoadError::CompilerLimit { .. })) && self.may_be_slower(lane) {
                tracing::debug!(plugin.digest = %digest, "compiling takes longer than is quick; it is begun anew");
                machine.lanes.slow_down(passage);
                here = Some(bytes);
                continue;
            }
            // What was compiled is not to pile up before the next step.
            machine.lanes.enter_room(passage).await;
            drop(turn);
            break (code, bytes);
        };
        let (engine, kept, limits) = (engine.clone(), kept.cloned(), self.limits());
        let take = move || {
            let code = code.inspect_err(|error| {
                if let Some(kept) = &kept {
                    kept.refusals.put(&digest, &limits, error);
                }
            })?;
            let component = load(&engine, &code)?;
            if let Some(cache) = kept.as_ref().and_then(|kept| kept.cache.as_ref()) {
                cache.put(&digest, &code);
            }
            Ok(component)
        };
        let component = machine.executor.run_blocking(take).await.unwrap_or(Err(LoadError::Host))?;
        Ok((component, bytes))
    }

    /// What is known of a file without compiling it: its code, or that it is refused.
    async fn known(
        &self,
        engine: &Engine,
        machine: &GuestRuntime,
        kept: Option<&Arc<PluginDataDir>>,
        bytes: &Bytes,
        digest: &str,
    ) -> Result<Option<Component>, LoadError> {
        let (engine, bytes, limits) = (engine.clone(), bytes.clone(), self.limits());
        let known = kept.map(|kept| (kept.clone(), digest.to_owned()));
        let look = move || {
            inspect(&bytes)?;
            let Some((kept, digest)) = known else { return Ok(None) };
            let code = kept.cache.as_ref().and_then(|cache| cache.get(&digest));
            // Code that this machine cannot run any more is as good as none.
            match code.and_then(|code| load(&engine, code.native_code()).ok()) {
                Some(component) => Ok(Some(component)),
                None => kept.refusals.get(&digest, &limits).map_or(Ok(None), Err),
            }
        };
        machine.executor.run_blocking(look).await.unwrap_or(Err(LoadError::Host))
    }

    /// Native code, made within what may be taken on this way.
    async fn to_code(
        &self,
        engine: &Engine,
        machine: &GuestRuntime,
        bytes: Bytes,
        lane: CompileTrack,
    ) -> Result<Vec<u8>, LoadError> {
        match self {
            Self::InProcess => {
                let engine = engine.clone();
                let compile = move || to_code(&engine, &bytes);
                machine.executor.run_blocking(compile).await.unwrap_or(Err(LoadError::Host))
            }
            Self::Child(child) => child.compile(&bytes, lane.limits(child.limits)).await,
        }
    }

    /// Whether what took too much on this way may take more on the other.
    fn may_be_slower(&self, lane: CompileTrack) -> bool {
        let all = self.limits();
        lane.limits(all) != all
    }

    /// What compiling one may take.
    fn limits(&self) -> CompileLimits {
        match self {
            Self::InProcess => CompileLimits::default(),
            Self::Child(child) => child.limits,
        }
    }
}

#[derive(Clone, Copy)]
enum CompilerKind {
    Component,
    ModuleWithType,
}

/// Native code from a component, for an engine of the same version and settings.
pub(super) fn to_code(engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>, LoadError> {
    let fails = |error: wasmtime::Error| LoadError::Compile(format!("{error:#}"));
    match inspect(bytes)? {
        CompilerKind::Component => engine.precompile_component(bytes).map_err(fails),
        CompilerKind::ModuleWithType => engine.precompile_component(&componentize(bytes)?).map_err(fails),
    }
}

#[expect(unsafe_code, reason = "native code is run as it is; it comes from a child of ours, or is known to have")]
fn load(engine: &Engine, code: &[u8]) -> Result<Component, LoadError> {
    // SAFETY: the bytes are what `to_code` of this very program gave, whole: over a pipe that nobody else holds, or from
    // a cache that gives only what carries our code of authentication.
    unsafe { Component::deserialize(engine, code) }.map_err(|error| LoadError::Compile(format!("{error:#}")))
}

/// Says what the bytes are, reading them once, and refuses what is not to be compiled at all.
fn inspect(bytes: &[u8]) -> Result<CompilerKind, LoadError> {
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
        Some(Encoding::Component) => Ok(CompilerKind::Component),
        Some(Encoding::Module) if has_type => Ok(CompilerKind::ModuleWithType),
        Some(Encoding::Module) => Err(LoadError::CoreModule),
        None => Err(LoadError::NotWasm("the file has no version".into())),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::sandbox::capacity::InstanceCapacity;
    use crate::plugin::sandbox::engine;
    use crate::plugin::testing;

    #[test]
    fn code_that_a_child_makes_fits_the_engine_of_the_server() {
        let code = to_code(&engine::for_compiling().unwrap(), &testing::guest(testing::OK)).unwrap();
        let server = engine::build(InstanceCapacity::of(4), 512 * 1024).unwrap();
        assert!(load(&server, &code).is_ok());
        assert!(matches!(inspect(&code), Err(LoadError::Precompiled)));
    }

    #[test]
    fn a_function_that_is_too_large_is_refused_before_it_is_compiled() {
        let body = "nop ".repeat(MAX_FUNCTION_BYTES + 1);
        let words = inspect(&wat::parse_str(format!("(module (func {body}))")).unwrap()).err().unwrap().to_string();
        assert!(words.contains("a function of 10485") && words.contains("at most 1048576"), "{words}");
    }
}
