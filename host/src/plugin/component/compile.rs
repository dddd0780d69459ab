//! From the bytes of a file to a compiled component: from the cache, or by the compiler when its turn comes.
//!
//! A server compiles each component in a child process. The memory that a compiler may need for a small file has no bound:
//! 0.8 MB can take more than 24 GB.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::compile_child::{CompileChild, CompileLimits};
use super::file::{self, FileContents, FileOrigin};
use super::load_error::LoadError;
use super::load_tracks::{LoadTicket, LoadTrack};
use super::native_code;
use crate::plugin::data_dir::PluginDataDir;
use crate::plugin::run::plugin::GuestRuntime;

/// Where components are compiled.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// In this process, without limits: only for trusted components, in tests for instance.
    InProcess,
    /// Each in a child process, with limits.
    Child(CompileChild),
}

impl Compiler {
    /// Compiles a component, or a core module that carries a component type, unless its code is cached. Returns the file's
    /// bytes too. They are not in memory while the file waits for its turn. Does not block the calling thread. Dropping the
    /// future kills the child.
    ///
    /// # Errors
    /// In words for the person who made the file. See [`LoadError::is_temporary`].
    pub(super) async fn compile(
        &self,
        engine: &Engine,
        runtime: &GuestRuntime,
        data_dir: Option<&Arc<PluginDataDir>>,
        file: FileContents,
        ticket: &mut LoadTicket,
    ) -> Result<(Component, Bytes), LoadError> {
        let FileContents { bytes, digest, origin } = file;
        if let Some(component) = self.find_cached(engine, runtime, data_dir, &bytes, &digest).await? {
            tracing::debug!(plugin.digest = %digest, "compiled code was taken from the cache");
            return Ok((component, bytes));
        }
        let mut in_memory = Some(bytes);
        let (code, bytes) = loop {
            let track = ticket.track;
            let compilations = &runtime.tracks.turns(ticket).compilations;
            let turn = match compilations.try_turn(&ticket.applicant) {
                Some(turn) => turn,
                None => {
                    if !matches!(origin, FileOrigin::Given) {
                        in_memory = None;
                        ticket.leave_memory();
                    }
                    compilations.turn(&ticket.applicant).await
                }
            };
            let bytes = match in_memory.take() {
                Some(bytes) => bytes,
                None => {
                    let (origin, digest, data_dir) = (origin.clone(), digest.clone(), data_dir.cloned());
                    let read = move || read_again(&origin, &digest, data_dir.as_deref());
                    runtime.executor.run_blocking(read).await.unwrap_or(Err(LoadError::Host))?
                }
            };
            let code = self.precompile(engine, runtime, bytes.clone(), track).await;
            if matches!(code, Err(LoadError::CompilerLimit { .. })) && self.has_slower_track(track) {
                tracing::debug!(plugin.digest = %digest, "compiling takes longer than is quick; it is begun anew");
                runtime.tracks.move_to_slow_track(ticket);
                in_memory = Some(bytes);
                continue;
            }
            // Compiled code holds a place in memory before the next file is compiled, so that it does not pile up.
            runtime.tracks.enter_memory(ticket).await;
            drop(turn);
            break (code, bytes);
        };
        let (engine, data_dir, limits) = (engine.clone(), data_dir.cloned(), self.limits());
        let accept = move || {
            let code = code.inspect_err(|error| {
                if let Some(data_dir) = &data_dir {
                    data_dir.refusals.put(&digest, &limits, error);
                }
            })?;
            let component = native_code::deserialize(&engine, &code)?;
            if let Some(cache) = data_dir.as_ref().and_then(|data_dir| data_dir.cache.as_ref()) {
                cache.put(&digest, &code);
            }
            Ok(component)
        };
        let component = runtime.executor.run_blocking(accept).await.unwrap_or(Err(LoadError::Host))?;
        Ok((component, bytes))
    }

    /// The cached code of a file, if there is any.
    ///
    /// # Errors
    /// The file is never compiled, or the compiler refused it before.
    async fn find_cached(
        &self,
        engine: &Engine,
        runtime: &GuestRuntime,
        data_dir: Option<&Arc<PluginDataDir>>,
        bytes: &Bytes,
        digest: &str,
    ) -> Result<Option<Component>, LoadError> {
        let (engine, bytes, limits) = (engine.clone(), bytes.clone(), self.limits());
        let data_dir = data_dir.map(|data_dir| (data_dir.clone(), digest.to_owned()));
        let find = move || {
            native_code::inspect(&bytes)?;
            let Some((data_dir, digest)) = data_dir else { return Ok(None) };
            let code = data_dir.cache.as_ref().and_then(|cache| cache.get(&digest));
            // Code that this machine can no longer run counts as missing.
            match code.and_then(|code| native_code::deserialize(&engine, code.native_code()).ok()) {
                Some(component) => Ok(Some(component)),
                None => data_dir.refusals.get(&digest, &limits).map_or(Ok(None), Err),
            }
        };
        runtime.executor.run_blocking(find).await.unwrap_or(Err(LoadError::Host))
    }

    /// Compiles within the limits of a track.
    async fn precompile(
        &self,
        engine: &Engine,
        runtime: &GuestRuntime,
        bytes: Bytes,
        track: LoadTrack,
    ) -> Result<Vec<u8>, LoadError> {
        match self {
            Self::InProcess => {
                let engine = engine.clone();
                let compile = move || native_code::precompile(&engine, &bytes);
                runtime.executor.run_blocking(compile).await.unwrap_or(Err(LoadError::Host))
            }
            Self::Child(child) => child.compile(&bytes, track.limits(child.limits)).await,
        }
    }

    /// Whether another track has higher limits than this one.
    fn has_slower_track(&self, track: LoadTrack) -> bool {
        let all = self.limits();
        track.limits(all) != all
    }

    /// What compiling one component may take on any track.
    fn limits(&self) -> CompileLimits {
        match self {
            Self::InProcess => CompileLimits::default(),
            Self::Child(child) => child.limits,
        }
    }
}

/// Reads the bytes with this digest once more. Blocks.
///
/// # Errors
/// [`LoadError::Changed`] if other bytes are there now.
fn read_again(origin: &FileOrigin, digest: &str, data_dir: Option<&PluginDataDir>) -> Result<Bytes, LoadError> {
    let contents = match origin {
        FileOrigin::Given => None,
        FileOrigin::File(path, limit_bytes) => Some(file::read(path, *limit_bytes)?),
        FileOrigin::Version(name) => data_dir.map(|data_dir| data_dir.history.read(name, digest)).transpose()?,
    };
    contents.filter(|contents| contents.digest == digest).map(|contents| contents.bytes).ok_or(LoadError::Changed)
}
