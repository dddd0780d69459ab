//! A plugin directory and a data directory for the tests of the registry.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::options::RegistryOptions;
use super::plugin_registry::PluginRegistry;
use crate::event::AttemptOutcome;
use crate::plugin::component::file::FileContents;
use crate::plugin::testing::{event, guest, options, typed};
use crate::plugin::{AttemptInput, CompileChild, CompileLimits, Compiler, MemoryState};
use crate::plugin_report::PluginReport;

/// A plugin directory, and a directory that the data directory lies in.
pub(super) struct RegistryRig {
    plugins: tempfile::TempDir,
    data: tempfile::TempDir,
}

impl RegistryRig {
    pub(super) fn new() -> Self {
        Self { plugins: tempfile::tempdir().unwrap(), data: tempfile::tempdir().unwrap() }
    }

    /// A rig whose plugin `a` has this content.
    pub(super) fn with(content: &[u8]) -> Self {
        let rig = Self::new();
        rig.put("a", content);
        rig
    }

    pub(super) fn plugins(&self) -> &Path {
        self.plugins.path()
    }

    /// A file of the plugin directory.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.plugins.path().join(name)
    }

    /// A file beside the data directory.
    pub(super) fn beside_data(&self, name: &str) -> PathBuf {
        self.data.path().join(name)
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.beside_data("ours")
    }

    pub(super) fn put(&self, name: &str, content: &[u8]) {
        fs::write(self.file(&format!("{name}.wasm")), content).unwrap();
    }

    /// Puts a guest whose handler has this body.
    pub(super) fn put_guest(&self, name: &str, body: &str) {
        self.put(name, &guest(body));
    }

    pub(super) fn put_settings(&self, name: &str, settings: &str) {
        fs::write(self.file(&format!("{name}.toml")), settings).unwrap();
    }

    pub(super) fn options(&self) -> RegistryOptions {
        RegistryOptions { data_dir: Some(self.data_dir()), ..options(self.plugins()) }
    }

    pub(super) async fn open(&self) -> Arc<PluginRegistry> {
        PluginRegistry::open(self.options()).await.unwrap()
    }

    /// A registry that cannot start a compiler.
    pub(super) async fn open_without_compiler(&self) -> Arc<PluginRegistry> {
        let child =
            CompileChild { program: "/nowhere".into(), arguments: Vec::new(), limits: CompileLimits::default() };
        PluginRegistry::open(RegistryOptions { compiler: Compiler::Child(child), ..self.options() }).await.unwrap()
    }

    /// A compiler that is a shell script, in which `$HERE` is the directory beside the data directory.
    pub(super) fn scripted_compiler(&self, script: &str) -> Compiler {
        let script = format!("HERE='{}'; {script}", self.data.path().display());
        let limits = CompileLimits { wall_ms: 600_000, ..CompileLimits::default() };
        Compiler::Child(CompileChild { program: "/bin/sh".into(), arguments: vec!["-c".into(), script], limits })
    }
}

pub(super) fn status(registry: &PluginRegistry, name: &str) -> PluginReport {
    registry.status(name).unwrap()
}

/// The digest of the version that serves.
pub(super) fn serving_digest(registry: &PluginRegistry, name: &str) -> String {
    status(registry, name).digest.unwrap()
}

pub(super) fn digest_of(content: &[u8]) -> String {
    FileContents::new(content.to_vec().into()).digest
}

/// Scans the directory once and loads what is due.
pub(super) async fn scan(registry: &PluginRegistry) {
    registry.refresh(&Default::default()).await;
}

/// Whether the handler that serves answers ok.
pub(super) async fn is_ok(registry: &PluginRegistry, name: &str) -> bool {
    let plugin = registry.route(&name.parse().unwrap()).unwrap();
    let input = AttemptInput { event: event("{}").into(), attempt: 1 };
    let outcome = plugin.handle(input, Arc::new(MemoryState::default())).await.outcome;
    matches!(outcome, AttemptOutcome::Ok(_))
}

/// A component that describes itself as handling these types, with as many idle instructions as `nops`.
pub(super) fn described(nops: usize, types: &[&str]) -> Vec<u8> {
    const TEXT_AT: usize = 2_048;
    let text = types.concat();
    let mut at = TEXT_AT;
    let stores = types.iter().enumerate().map(|(n, name)| {
        let (slot, begin) = (1_024 + 8 * n, at);
        at += name.len();
        let length = name.len();
        format!("(i32.store (i32.const {slot}) (i32.const {begin})) (i32.store offset=4 (i32.const {slot}) (i32.const {length}))")
    });
    let (stores, count, nops) = (stores.collect::<String>(), types.len(), "(nop)".repeat(nops));
    let text = format!(
        r#"(module (memory (export "memory") 1)
            (data (i32.const {TEXT_AT}) "{text}")
            (func (export "eventstream:plugin/handler@0.1.0#handle") (param i32) (result i32) {nops} (i32.const 512))
            (func (export "eventstream:plugin/describe@0.1.0#describe") (result i32) {stores}
                (; the types, after three empty texts ;)
                (i32.store offset=24 (i32.const 256) (i32.const 1024))
                (i32.store offset=28 (i32.const 256) (i32.const {count}))
                (i32.const 256))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096)))"#
    );
    typed(&text, "described")
}

/// A component whose handler imports nothing but types.
pub(super) fn modest(nops: usize) -> Vec<u8> {
    let nops = "(nop)".repeat(nops);
    let text = format!(
        r#"(module (memory (export "memory") 1)
            (func (export "eventstream:plugin/handler@0.1.0#handle") (param i32) (result i32) {nops} (i32.const 1024))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096)))"#
    );
    typed(&text, "pure")
}
