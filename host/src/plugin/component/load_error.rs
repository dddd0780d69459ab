//! Why a file is not a plugin: the words that a person gets who made it or put it there.

use std::path::PathBuf;

use crate::plugin::run::outcome;

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
    Settings(#[from] crate::plugin::InvalidSettings),
    /// A secret that has no value.
    #[error("{0}")]
    Secret(#[from] crate::plugin::SecretError),
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
    #[error("cannot be compiled: {0}{remedy}", remedy = remedy(.0))]
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
    /// Another file has taken its place.
    #[error("the file changed while it waited to be loaded; it is loaded once nobody writes to it")]
    Changed,
    /// The host itself failed.
    #[error("the host failed to load it")]
    Host,
}

impl LoadError {
    /// Whether the same file may be taken later, since what failed is not the file.
    pub(in crate::plugin) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Read(_)
                | Self::Secret(_)
                | Self::NoCompiler(_)
                | Self::CompilerKilled(_)
                | Self::Image(_)
                | Self::Changed
                | Self::Host
        )
    }

    /// The same in a few thousand bytes: what a file is made of may be as long as the file, and its words go into each
    /// status and into the log.
    pub(super) fn shortened(self) -> Self {
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

/// What to do about what the compiler refused, where that is known.
fn remedy(words: &str) -> &'static str {
    if words.contains("the component model") && (words.contains("async") || words.contains("thread")) {
        return ": it is made for WASI 0.3 or has asynchronous functions, which this host does not run; build it for WASI 0.2 \
                with functions that are not async (Rust: `--target wasm32-wasip2`; Spin and wasmCloud: a version of the SDK \
                and of the interfaces for WASI 0.2)";
    }
    ""
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
    use super::*;

    #[test]
    fn a_component_with_asynchronous_functions_is_told_what_to_build_it_for() {
        for words in [
            "`stream` requires the component model async feature (at offset 0x1f)",
            "async component functions \
            require the component model async feature",
            "canonical option `async` requires the component model async feature",
        ] {
            let told = LoadError::Compile(words.into()).to_string();
            assert!(told.contains("WASI 0.3") && told.contains("build it for WASI 0.2"), "{told}");
        }
        assert_eq!(
            LoadError::Compile("a function of 9 bytes".into()).to_string(),
            "cannot be compiled: a function of 9 bytes"
        );
    }

    #[test]
    fn misfits_are_told_in_a_few_thousand_bytes() {
        let told = LoadError::Misfits(vec!["x".repeat(100_000); 50]).shortened().to_string();
        assert!(told.len() < 10_000 && told.ends_with("and 48 more"), "{} bytes", told.len());
        let LoadError::Misfits(few) = LoadError::Misfits(vec!["x".into(), "y".into()]).shortened() else { panic!() };
        assert_eq!(few, ["x", "y"]);
    }
}
