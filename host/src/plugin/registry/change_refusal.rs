//! Why a plugin was not rolled back, approved or removed, in words for the person who asked for it.

use std::io;
use std::path::PathBuf;

use crate::plugin::component::load_error::LoadError;

/// Why a plugin was not changed. What served still serves. Unless said otherwise, a retry does not help until a person has
/// acted.
#[derive(Debug, thiserror::Error)]
pub enum ChangeRefusal {
    /// There is no such plugin.
    #[error("there is no plugin {0:?}; GET /plugins lists them")]
    Unknown(String),
    /// Other plugins own types of the version. Nothing was written.
    #[error(
        "the version {digest} of {name:?} handles types that other plugins own: {owned}; name other `types` in {name}.toml, \
         or remove the owner, and ask again"
    )]
    Owned {
        /// The plugin.
        name: String,
        /// The version.
        digest: String,
        /// Which types, and who owns them.
        owned: String,
    },
    /// No versions are kept at all.
    #[error("no earlier versions are kept: plugins.data_dir is empty or cannot be used; the log of the start says why")]
    NothingKept,
    /// No version served before.
    #[error("no version of {0:?} is kept that served before this one")]
    NoneBefore(String),
    /// The version cannot be read, or cannot be loaded any more. A retry may help if the error is temporary.
    #[error("the version {digest} cannot be brought back: {error}")]
    NotLoaded {
        /// The version.
        digest: String,
        /// Why not.
        error: LoadError,
    },
    /// No build is held.
    #[error("no build of {0:?} waits to be approved")]
    NoneHeld(String),
    /// The caller named no build.
    #[error("say which build is approved: POST /plugins/{name}/approve?digest={held}, a build that {new}")]
    Unnamed {
        /// The plugin.
        name: String,
        /// The digest of the build that is held.
        held: String,
        /// What it is held for.
        new: String,
    },
    /// Another build is held by now.
    #[error("the build of {name:?} that waits to be approved is {held}, not {asked}: it {new}; look at it first")]
    Another {
        /// The plugin.
        name: String,
        /// The digest that the caller named.
        asked: String,
        /// The digest of the build that is held.
        held: String,
        /// What it is held for.
        new: String,
    },
    /// The file is no longer the build that is held.
    #[error("{file:?} is not the build {digest} any more: {why}; look at it first")]
    Swapped {
        /// The file.
        file: PathBuf,
        /// The digest of the build that is held.
        digest: String,
        /// What the file is now.
        why: String,
    },
    /// The file cannot be removed.
    #[error("{file:?} cannot be removed: {error}; whoever puts files there has to remove it")]
    File {
        /// The file.
        file: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
}
