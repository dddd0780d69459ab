//! Why a file is not a plugin, in words for the person who made it or put it there.

use std::path::PathBuf;

use crate::plugin::run::outcome;

/// The most bytes of one file's misfits in a message. The first misfit is always shown.
const MAX_MISFITS_BYTES: usize = 8 * 1_024;

/// Why a file is not a plugin. The same file fails again, unless [`LoadError::is_temporary`].
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// The file is too large.
    #[error("the file has more than {limit_bytes} bytes, the most that is loaded")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// The name is not valid for a plugin.
    #[error("a plugin's name is 1 to 128 letters, digits and ._- and starts with a letter or digit: rename the file")]
    Name,
    /// The settings are not valid.
    #[error("{0}")]
    Settings(#[from] crate::plugin::InvalidSettings),
    /// A secret has no value.
    #[error("{0}")]
    Secret(#[from] crate::plugin::SecretError),
    /// The file is neither a component nor a module.
    #[error("not WebAssembly: {0}")]
    NotWasm(String),
    /// The file holds native code, which would not be sandboxed.
    #[error("precompiled code is never loaded; put the .wasm file here that it was made from")]
    Precompiled,
    /// The file is a core module without a component type.
    #[error(
        "a core module without a component type, not a component: build for wasm32-wasip2, or against wit/ with wit-bindgen"
    )]
    CoreModule,
    /// The core module cannot be made a component.
    #[error("the core module cannot be made a component: {0}")]
    Componentize(String),
    /// The compiler refused it.
    #[error("cannot be compiled: {0}{remedy}", remedy = remedy(.0))]
    Compile(String),
    /// The compiler exceeded a limit. The file is not compiled again until it changes.
    #[error("cannot be compiled: the compiler {what}; make it simpler, or raise plugins.{key}")]
    CompilerLimit {
        /// What the compiler did.
        what: String,
        /// The setting with the limit.
        key: &'static str,
    },
    /// The compiler ended without an answer, perhaps not because of the file.
    #[error("cannot be compiled: the compiler ended {0}")]
    CompilerEnded(String),
    /// The compiler was killed, as the kernel does where memory is short.
    #[error("cannot be compiled now: the compiler was killed, as happens where memory is short: {0}")]
    CompilerKilled(String),
    /// The compiler refused the same file before.
    #[error("{words} (refused before and not tried again; with other limits it is, or once {file:?} is removed)")]
    Known {
        /// The message of that time.
        words: String,
        /// The file that records it.
        file: PathBuf,
    },
    /// The compiler cannot be started.
    #[error("cannot be compiled: the compiler cannot be started: {0}")]
    NoCompiler(String),
    /// The initial memory cannot be laid out.
    #[error("the memory that its instances begin with cannot be laid out, which is no fault of the file's: {0}")]
    Image(String),
    /// All imports and exports that do not fit.
    #[error("does not fit this host: {}", .0.join("; "))]
    Misfits(Vec<String>),
    /// The first instance failed.
    #[error("a first instance failed: {0}")]
    Trial(String),
    /// `describe` returned something that is not valid.
    #[error("what `describe` says is not usable: {0}")]
    Describe(String),
    /// Another file took its place.
    #[error("the file changed while it waited to be loaded; it is loaded once nobody writes to it")]
    Changed,
    /// The host itself failed.
    #[error("the host failed to load it")]
    Host,
}

impl LoadError {
    /// Whether the same file may be loaded later, since the cause lies outside of it.
    pub(in crate::plugin) fn is_temporary(&self) -> bool {
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

    /// Cuts the message to a few thousand bytes. Names in a file may be as long as the file, and the message goes into the
    /// log and into each report.
    pub(super) fn shorten(self) -> Self {
        match self {
            Self::NotWasm(words) => Self::NotWasm(outcome::cut_message(words)),
            Self::Componentize(words) => Self::Componentize(outcome::cut_message(words)),
            Self::Compile(words) => Self::Compile(outcome::cut_message(words)),
            Self::CompilerEnded(words) => Self::CompilerEnded(outcome::cut_message(words)),
            Self::Known { words, file } => Self::Known { words: outcome::cut_message(words), file },
            Self::Image(words) => Self::Image(outcome::cut_message(words)),
            Self::Misfits(all) => Self::Misfits(first_misfits(all)),
            Self::Trial(words) => Self::Trial(outcome::cut_message(words)),
            Self::Describe(words) => Self::Describe(outcome::cut_message(words)),
            short => short,
        }
    }
}

/// What to do about a refusal of the compiler, where that is known.
fn remedy(words: &str) -> &'static str {
    if words.contains("the component model") && (words.contains("async") || words.contains("thread")) {
        return ": it is made for WASI 0.3 or has asynchronous functions, which this host does not run; build it for WASI 0.2 \
                with functions that are not async (Rust: `--target wasm32-wasip2`; Spin and wasmCloud: a version of the SDK \
                and of the interfaces for WASI 0.2)";
    }
    ""
}

/// The first misfits, each of them cut, and the number of the others.
fn first_misfits(all: Vec<String>) -> Vec<String> {
    let (n, mut shown_bytes) = (all.len(), 0);
    let mut shown: Vec<String> = Vec::new();
    for misfit in all.into_iter().map(outcome::cut_message) {
        shown_bytes += misfit.len();
        if shown_bytes > MAX_MISFITS_BYTES && !shown.is_empty() {
            break;
        }
        shown.push(misfit);
    }
    let left_out = n - shown.len();
    if left_out > 0 {
        shown.push(format!("and {left_out} more"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_with_asynchronous_functions_gets_a_remedy() {
        for words in [
            "`stream` requires the component model async feature (at offset 0x1f)",
            "async component functions \
            require the component model async feature",
            "canonical option `async` requires the component model async feature",
        ] {
            let message = LoadError::Compile(words.into()).to_string();
            assert!(message.contains("WASI 0.3") && message.contains("build it for WASI 0.2"), "{message}");
        }
        assert_eq!(
            LoadError::Compile("a function of 9 bytes".into()).to_string(),
            "cannot be compiled: a function of 9 bytes"
        );
    }

    #[test]
    fn misfits_are_cut_to_a_few_thousand_bytes() {
        let message = LoadError::Misfits(vec!["x".repeat(100_000); 50]).shorten().to_string();
        assert!(message.len() < 10_000 && message.ends_with("and 48 more"), "{} bytes", message.len());
        let LoadError::Misfits(few) = LoadError::Misfits(vec!["x".into(), "y".into()]).shorten() else { panic!() };
        assert_eq!(few, ["x", "y"]);
    }
}
