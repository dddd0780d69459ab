//! A file of the plugin directory.

use std::fs;
use std::sync::{Arc, OnceLock};

use eventstream::event::{AttemptOutcome, Event, EventData, Timestamp};
use eventstream::plugin::{
    AttemptInput, AttemptLimits, CompileChild, CompileLimits, Compiler, InspectionSandbox, LoadError, MemoryState,
    Plugin, RegistryOptions,
};
use tempfile::TempDir;

use crate::layout;

/// The limits of a compiler in a process of its own.
const COMPILE: CompileLimits = CompileLimits { memory_bytes: 512 << 20, cpu_ms: 10_000, wall_ms: 30_000 };

/// Where inputs are loaded, one after the other.
struct Bench {
    workbench: InspectionSandbox,
    runtime: tokio::runtime::Runtime,
    folder: TempDir,
}

/// A file is refused with an explanation, or it can be instantiated and an attempt at an event has an outcome.
///
/// # Panics
/// Something that must hold does not.
pub fn component(input: &[u8]) {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    BENCH.get_or_init(|| Bench::open(Compiler::InProcess)).tries(input);
}

/// The same with a compiler in a process of its own, as in a server.
///
/// # Panics
/// Something that must hold does not.
pub fn in_a_child(input: &[u8]) {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    let open = || {
        let arguments = vec!["compile".to_owned()];
        Bench::open(Compiler::Child(CompileChild { program: layout::binary().to_owned(), arguments, limits: COMPILE }))
    };
    BENCH.get_or_init(open).tries(input);
}

impl Bench {
    fn open(compiler: Compiler) -> Self {
        let limits = AttemptLimits { wall_ms: 500, cpu_ms: 100, memory_bytes: 16 << 20, ..AttemptLimits::default() };
        let workbench = InspectionSandbox::open(RegistryOptions { compiler, limits, ..RegistryOptions::default() })
            .expect("a sandbox");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { workbench, runtime, folder: tempfile::tempdir().expect("a temporary folder can be made") }
    }

    fn tries(&self, input: &[u8]) {
        let path = self.folder.path().join("fuzzed.wasm");
        fs::write(&path, input).expect("the input can be written");
        match self.runtime.block_on(self.workbench.load(&path, None, None)) {
            Ok(plugin) => self.handles(&Arc::new(plugin)),
            Err(error) => is_reported(&error),
        }
    }

    fn handles(&self, plugin: &Arc<Plugin>) {
        let attempt = AttemptInput { event: event().into(), attempt: 1 };
        let completed = self.runtime.block_on(plugin.handle(attempt, Arc::new(MemoryState::default())));
        if let AttemptOutcome::Failed(failure) = completed.outcome {
            assert!(!failure.message.contains("the host failed"), "{}", failure.message);
        }
    }
}

/// Whether a refusal is about the file, and no failure of the host or the compiler.
fn is_reported(error: &LoadError) {
    let words = error.to_string();
    assert!(!matches!(error, LoadError::Host | LoadError::NoCompiler(_) | LoadError::Read(_)), "{words}");
    for broken in ["the compiler ended with", "no whole answer", "panicked"] {
        assert!(!words.contains(broken), "{words}");
    }
    assert!(!words.trim().is_empty());
}

fn event() -> Event {
    Event {
        data_content_type: Some("application/json".into()),
        data: Some(EventData::text("{\"n\":1}")),
        ..Event::new("fuzzed".parse().expect("a type"), "/fuzz", Timestamp::from_unix_ms(1_795_446_245_007))
    }
}
