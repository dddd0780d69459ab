//! From a file to a plugin: read, compile, check, try, ask.
//!
//! Each step is refused with what is wrong and what to do about it. Nothing here changes what serves; the registry swaps
//! once a version has passed every step.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use wasmtime::component::Component;

use super::capacity::{Capacity, INTRODUCTIONS};
use super::engine::Ticker;
use super::executor::Executor;
use super::host::{Denials, Network, Shared, Surroundings};
use super::instance::{self, Introduced, Prepared};
use super::kept::Kept;
use super::limits::{Breach, Limits};
use super::loaded::{Machine, Plugin};
use super::routing::Pattern;
use super::sandbox::Sandbox;
use super::secrets::Secrets;
use super::settings::Settings;
use super::{Compiler, Error, Options, Reuse, fit, image, outcome};
use crate::clock;
use crate::event::{Event, Policies};

/// The most types that `describe` may name.
const MAX_DESCRIBED_TYPES: usize = 256;
/// How often a first instance is tried that gives no answer in time: on a busy machine that need not be its fault.
const TRIES: u32 = 3;
/// Compilations side by side: each may take all cores, and much memory.
const COMPILATIONS: usize = 1;
/// The longest version and description that are kept.
const MAX_DESCRIPTION_CHARS: usize = 1_024;
/// The most that is told of the misfits of one file, beside the first of them.
const MAX_MISFITS_BYTES: usize = 8 * 1_024;

/// Why a file is not a plugin. The same file fails again, but for what [`LoadError::may_pass`] names.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The system does not give the file.
    #[error("the file cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// Larger than is loaded.
    #[error("the file has more than {limit_bytes} bytes, the most that is loaded")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// The name cannot be that of a plugin.
    #[error("a plugin's name is 1 to 128 letters, digits and ._- and starts with a letter or digit: rename the file")]
    Name,
    /// The settings beside the file.
    #[error("{0}")]
    Settings(#[from] super::InvalidSettings),
    /// A secret that has no value.
    #[error("{0}")]
    Secret(#[from] super::NoSecret),
    /// Neither a component nor a module.
    #[error("not WebAssembly: {0}")]
    NotWasm(String),
    /// Native code, which would not be sandboxed.
    #[error("precompiled code is never loaded; put the .wasm file here that it was made from")]
    Precompiled,
    /// A core module that does not say what it is made for.
    #[error(
        "a core module without a component type, not a component: build for wasm32-wasip2, or against wit/ with wit-bindgen"
    )]
    CoreModule,
    /// A core module that cannot be made a component.
    #[error("the core module cannot be made a component: {0}")]
    Componentize(String),
    /// The compiler refused it.
    #[error("cannot be compiled: {0}")]
    Compile(String),
    /// Compiling it took more than it may; the file is not tried again until it changes.
    #[error("cannot be compiled: the compiler {what}; make it simpler, or raise plugins.{key}")]
    CompilerLimit {
        /// What happened.
        what: String,
        /// The setting that limits it.
        key: &'static str,
    },
    /// The compiler ended for a reason that need not be the file's: it was killed for instance.
    #[error("cannot be compiled: the compiler ended {0}")]
    CompilerEnded(String),
    /// The compiler was killed, as the kernel does where memory is short.
    #[error("cannot be compiled now: the compiler was killed, as happens where memory is short: {0}")]
    CompilerKilled(String),
    /// What the compiler said of the same file before, at an earlier start.
    #[error("{words} (refused before and not tried again; with other limits it is, or once {file:?} is removed)")]
    Known {
        /// What it said.
        words: String,
        /// Where that is kept.
        file: PathBuf,
    },
    /// No process to compile in.
    #[error("cannot be compiled: the compiler cannot be started: {0}")]
    NoCompiler(String),
    /// The machine does not lay its memory out.
    #[error("the memory that its instances begin with cannot be laid out, which is no fault of the file's: {0}")]
    Image(String),
    /// Imports and exports that do not fit; all of them.
    #[error("does not fit this host: {}", .0.join("; "))]
    Misfits(Vec<String>),
    /// The first instance failed.
    #[error("a first instance failed: {0}")]
    Trial(String),
    /// `describe` names something that is no type.
    #[error("what `describe` says is not usable: {0}")]
    Describe(String),
    /// The host itself failed.
    #[error("the host failed to load it")]
    Host,
}

impl LoadError {
    /// Whether the same file may be taken later, since what failed is not the file.
    pub(super) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Read(_)
                | Self::Secret(_)
                | Self::NoCompiler(_)
                | Self::CompilerKilled(_)
                | Self::Image(_)
                | Self::Host
        )
    }

    /// The same in a few thousand bytes: what a file is made of may be as long as the file, and its words go into each
    /// status and into the log.
    fn shortened(self) -> Self {
        match self {
            Self::NotWasm(words) => Self::NotWasm(outcome::message(words)),
            Self::Componentize(words) => Self::Componentize(outcome::message(words)),
            Self::Compile(words) => Self::Compile(outcome::message(words)),
            Self::CompilerEnded(words) => Self::CompilerEnded(outcome::message(words)),
            Self::Known { words, file } => Self::Known { words: outcome::message(words), file },
            Self::Image(words) => Self::Image(outcome::message(words)),
            Self::Misfits(all) => Self::Misfits(some(all)),
            Self::Trial(words) => Self::Trial(outcome::message(words)),
            Self::Describe(words) => Self::Describe(outcome::message(words)),
            short => short,
        }
    }
}

/// A file's bytes and their digest.
#[derive(Clone, Debug)]
pub(super) struct Contents {
    pub(super) bytes: Bytes,
    pub(super) digest: String,
}

/// What is told of a plugin, by whoever tells it.
struct Described {
    patterns: Vec<Pattern>,
    version: Option<String>,
    description: Option<String>,
}

/// What loading needs.
pub(super) struct Loader {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) machine: Arc<Machine>,
    pub(super) limits: Limits,
    pub(super) policies: Policies,
    pub(super) max_file_bytes: u64,
    pub(super) compiler: Compiler,
    pub(super) kept: Option<Arc<Kept>>,
    pub(super) outside: Shared,
}

/// Opens a file of a directory that others write to: no device, and never waiting for the other end of a pipe. Blocks
/// otherwise.
///
/// # Errors
/// Those of the system; or it is no regular file.
pub(super) fn open_regular(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    // It may be another one by now.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

/// Reads a file of at most `limit_bytes`, whatever its size is said to be. Blocks.
pub(super) fn read(file: File, limit_bytes: u64) -> Result<Contents, LoadError> {
    let mut bytes = Vec::new();
    file.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(LoadError::TooLarge { limit_bytes });
    }
    Ok(contents(Bytes::from(bytes)))
}

/// Bytes with their digest.
pub(super) fn contents(bytes: Bytes) -> Contents {
    let digest = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Contents { bytes, digest }
}

impl Loader {
    /// Sets a sandbox up in which so many attempts run side by side, or as many as there is room for, on so many threads.
    /// Nothing is kept of what it loads.
    ///
    /// # Errors
    /// [`Error::Sandbox`].
    pub(super) fn start(options: &Options, attempts: usize, threads: usize) -> Result<Self, Error> {
        let sandbox = |reason: String| Error::Sandbox { reason };
        let place = Sandbox::start(Capacity::of(attempts), options.stack_bytes);
        let place = Arc::new(place.map_err(|error| sandbox(format!("{error:#}")))?);
        let machine = Machine {
            executor: Executor::start(threads).map_err(|error| sandbox(error.to_string()))?,
            ticker: Ticker::start(&place.engine).map_err(|error| sandbox(error.to_string()))?,
            attempts: Arc::new(Semaphore::new(place.capacity.attempts)),
            introductions: Semaphore::new(INTRODUCTIONS),
            compilations: Semaphore::new(COMPILATIONS),
        };
        let outside = Shared {
            runtime: machine.executor.io().cloned().ok_or_else(|| sandbox("no runtime for connections".into()))?,
            roots: Arc::default(),
            resolve: Arc::new(options.resolve.clone()),
            quotas: Arc::default(),
            own: options.listeners.clone().into(),
        };
        Ok(Self {
            sandbox: place,
            machine: Arc::new(machine),
            limits: options.limits,
            policies: options.policies.clone(),
            max_file_bytes: options.max_file_bytes,
            compiler: options.compiler.clone(),
            kept: None,
            outside,
        })
    }

    /// Makes a plugin of a file's bytes. Compiles on a thread of low priority.
    ///
    /// # Errors
    /// See [`LoadError`]. Dropping the future harms nothing; a compilation under way ends by itself.
    pub(super) async fn load(&self, name: &str, file: Contents, settings: Settings) -> Result<Plugin, LoadError> {
        self.load_compiled(name, file, settings, None).await
    }

    /// The same for a file that may be compiled already.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub(super) async fn load_compiled(
        &self,
        name: &str,
        file: Contents,
        settings: Settings,
        compiled: Option<Component>,
    ) -> Result<Plugin, LoadError> {
        self.load_file(name, file, settings, compiled).await.map_err(LoadError::shortened)
    }

    async fn load_file(
        &self,
        name: &str,
        file: Contents,
        settings: Settings,
        compiled: Option<Component>,
    ) -> Result<Plugin, LoadError> {
        if !super::is_name(name) {
            return Err(LoadError::Name);
        }
        let limits = settings.limits.over(self.limits);
        let policies = settings.retry.over(self.policies.clone());
        let given = settings.clone();
        let sources = settings.secrets.unwrap_or_default();
        let secrets = self.machine.executor.run_blocking(move || Secrets::read(&sources)).await;
        let secrets = Arc::new(secrets.ok_or(LoadError::Host)??);
        let denials = Arc::<Denials>::default();
        let granted = settings.grants.http.unwrap_or_default();
        let network = Network::new(name, granted, limits, denials.clone(), &self.outside);
        let surroundings = Arc::new(Surroundings {
            name: name.to_owned(),
            limits,
            max_attempts: policies.retry.max_attempts,
            config: settings.config.unwrap_or_default(),
            secrets: secrets.clone(),
            denials,
            network: Arc::new(network),
        });
        let size_bytes = file.bytes.len() as u64;
        let digest = file.digest.clone();
        let prepared = Arc::new(self.prepare((file, compiled), surroundings, settings.reuse).await?);
        let introduced = self.introduce(name, prepared.clone()).await?;
        let Described { patterns, version, description } = described(name, settings.types, introduced, &secrets)?;
        Ok(Plugin {
            name: name.into(),
            digest: digest.into(),
            version,
            description,
            patterns,
            concurrency: settings.concurrency.map(std::num::NonZeroUsize::get),
            max_waiting: settings.max_waiting.map(std::num::NonZeroU64::get),
            policies,
            settings: given,
            size_bytes,
            loaded_at: clock::now(),
            prepared,
            machine: self.machine.clone(),
        })
    }

    async fn prepare(
        &self,
        (file, compiled): (Contents, Option<Component>),
        surroundings: Arc<Surroundings>,
        reuse: Option<Reuse>,
    ) -> Result<Prepared, LoadError> {
        let sandbox = self.sandbox.clone();
        let component = match compiled {
            Some(component) => component,
            None => self.compiler.compile(&sandbox.engine, &self.machine, self.kept.as_ref(), file).await?,
        };
        let work = move || {
            image::lay_out(&component)?;
            let fit = fit::check(&component, &sandbox.linker, surroundings.limits.memory_bytes)
                .map_err(LoadError::Misfits)?;
            Ok(Prepared::new(fit, &sandbox, surroundings, reuse))
        };
        self.machine.executor.run_blocking(work).await.unwrap_or(Err(LoadError::Host))
    }

    async fn introduce(&self, name: &str, prepared: Arc<Prepared>) -> Result<Introduced, LoadError> {
        let _permit = self.machine.introductions.acquire().await.map_err(|_| LoadError::Host)?;
        let _ticking = self.machine.ticker.ticking();
        let event = first_event(name).ok_or(LoadError::Name)?;
        let secrets = prepared.surroundings.secrets.clone();
        let run = || {
            let (prepared, event) = (prepared.clone(), event.clone());
            self.machine.executor.run(|meter| {
                meter.belongs_to(&name.into());
                instance::introduce(prepared, event, meter)
            })
        };
        let answer = patiently(run).await.ok_or(LoadError::Host)?;
        answer.map_err(|error| {
            let is_guests = error.is::<wasmtime::WasmBacktrace>() || error.is::<Breach>();
            let words = if is_guests { outcome::classify(&error, None).message } else { format!("{error:#}") };
            LoadError::Trial(secrets.hide_cut_end(&words))
        })
    }
}

/// The last answer of a few: of those that came too late, another one is asked for.
async fn patiently<T, F>(mut run: impl FnMut() -> F) -> Option<wasmtime::Result<T>>
where
    F: Future<Output = Option<wasmtime::Result<T>>>,
{
    let mut tries = 1;
    loop {
        match run().await {
            Some(Err(error)) if tries < TRIES && matches!(error.downcast_ref(), Some(Breach::WallTime { .. })) => {
                tries += 1;
            }
            answer => return answer,
        }
    }
}

/// What the plugin handles: what the settings say, else what it says itself, else what its file is called.
/// The words are a guest's, which may know secrets by now.
fn described(
    name: &str,
    set: Option<Vec<Pattern>>,
    introduced: Introduced,
    secrets: &Secrets,
) -> Result<Described, LoadError> {
    // With room for what is hidden, so that no value is cut in two before.
    let room = MAX_DESCRIPTION_CHARS.saturating_add(secrets.longest_bytes());
    let hidden = |text: &str| secrets.hide_cut_end(first_chars(text, room));
    let short = |text: &str| first_chars(&hidden(text), MAX_DESCRIPTION_CHARS).to_owned();
    // What is no type stands in the complaint, and is none either once something in it is hidden.
    let parsed = |text: &String| text.parse().or_else(|_| hidden(text).parse::<Pattern>());
    let invalid = |error: super::InvalidPattern| LoadError::Describe(error.to_string());
    let (said, version, description) = match introduced.manifest {
        None => (Vec::new(), None, None),
        Some(manifest) if manifest.types.len() > MAX_DESCRIBED_TYPES => {
            let words = format!("{} types; a plugin may name {MAX_DESCRIBED_TYPES}", manifest.types.len());
            return Err(LoadError::Describe(words));
        }
        Some(manifest) => (manifest.types, Some(short(&manifest.version)), Some(short(&manifest.description))),
    };
    let mut patterns = match set {
        Some(patterns) => patterns,
        None if said.is_empty() => vec![name.parse().map_err(|_| LoadError::Name)?],
        None => said.iter().map(parsed).collect::<Result<_, _>>().map_err(invalid)?,
    };
    patterns.sort();
    patterns.dedup();
    Ok(Described { patterns, version, description })
}

/// What a component that is asked to describe itself finds if it asks for the delivery in progress.
fn first_event(name: &str) -> Option<Event> {
    Some(Event::new(name.parse().ok()?, format!("/plugins/{name}"), clock::now()))
}

fn first_chars(text: &str, n: usize) -> &str {
    text.char_indices().nth(n).map_or(text, |(end, _)| &text[..end])
}

/// The first misfits, each of them cut, and how many more there are.
fn some(all: Vec<String>) -> Vec<String> {
    let (n, mut told_bytes) = (all.len(), 0);
    let mut told: Vec<String> = Vec::new();
    for misfit in all.into_iter().map(outcome::message) {
        told_bytes += misfit.len();
        if told_bytes > MAX_MISFITS_BYTES && !told.is_empty() {
            break;
        }
        told.push(misfit);
    }
    let left_out = n - told.len();
    if left_out > 0 {
        told.push(format!("and {left_out} more"));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::super::bindings::exports::eventstream::plugin::describe::Manifest;
    use super::*;

    #[test]
    fn secrets_are_in_nothing_that_a_plugin_says_of_itself() {
        let source = crate::plugin::SecretSource::Text("hunter2hunter2".into());
        let secrets = Secrets::read(&[("a".to_owned(), source)].into()).unwrap();
        let says = |description: String, types: &[&str]| {
            let types = types.iter().map(|text| (*text).to_owned()).collect();
            let manifest = Manifest { name: "p".into(), version: "1-hunter2hunter2".into(), description, types };
            described("p", None, Introduced { manifest: Some(manifest) }, &secrets)
        };
        let said = says(format!("{} hunter2hunter2", "x".repeat(MAX_DESCRIPTION_CHARS - 8)), &[]).unwrap();
        assert_eq!(said.version.as_deref(), Some("1-[secret a]"));
        let description = said.description.unwrap();
        assert!(!description.contains("hunt") && description.chars().count() <= MAX_DESCRIPTION_CHARS, "{description}");
        let Err(refused) = says(String::new(), &[&format!("{} hunter2hunter2", "x".repeat(120))]) else {
            panic!("it is no type")
        };
        assert!(!refused.to_string().contains("hunt"), "{refused}");
    }

    #[test]
    fn misfits_are_told_in_a_few_thousand_bytes() {
        let told = LoadError::Misfits(vec!["x".repeat(100_000); 50]).shortened().to_string();
        assert!(told.len() < 10_000 && told.ends_with("and 48 more"), "{} bytes", told.len());
        let LoadError::Misfits(few) = LoadError::Misfits(vec!["x".into(), "y".into()]).shortened() else { panic!() };
        assert_eq!(few, ["x", "y"]);
    }

    #[tokio::test]
    async fn a_first_instance_that_answers_too_late_is_tried_again_and_one_that_fails_is_not() {
        let late = || Err(Breach::WallTime { limit_ms: 1 }.into());
        let wrong = || Err(wasmtime::format_err!("it traps"));
        let cases: [(Vec<wasmtime::Result<u32>>, usize, bool); 4] = [
            (vec![Ok(1)], 1, true),
            (vec![late(), late(), Ok(1)], 3, true),
            (vec![late(), late(), late(), Ok(1)], 3, false),
            (vec![wrong(), Ok(1)], 1, false),
        ];
        for (answers, expected, is_taken) in cases {
            let (mut answers, mut tries) = (answers.into_iter(), 0);
            let run = || {
                tries += 1;
                std::future::ready(answers.next())
            };
            let answer = patiently(run).await.unwrap();
            assert_eq!((tries, answer.is_ok()), (expected, is_taken));
        }
    }
}
