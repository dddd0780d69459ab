//! A plugins directory of a test's own, with copies of components under the names that the test chooses.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::layout;

const REMAINING: &[u8] = b"remainingMs";

/// Two builds of the scripted guest that behave differently, each with its digest. For `do: facts` the first answers with
/// the member `remainingMs`, the second with `remainingMX`.
///
/// # Panics
/// The guest was not built, or does not contain the word once.
pub fn two_builds() -> [(Vec<u8>, String); 2] {
    let first = fs::read(layout::guest("scripted")).expect("the guest can be read");
    let places: Vec<usize> =
        first.windows(REMAINING.len()).enumerate().filter_map(|(at, text)| (text == REMAINING).then_some(at)).collect();
    assert_eq!(places.len(), 1, "the guest has this word once");
    let mut second = first.clone();
    second[places[0] + REMAINING.len() - 1] = b'X';
    [first, second].map(|build| {
        let digest = digest(&build);
        (build, digest)
    })
}

/// SHA-256 in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A plugins directory. Dropping it removes it.
pub struct PluginsDir {
    folder: TempDir,
}

impl PluginsDir {
    /// An empty directory.
    pub fn empty() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder can be made") }
    }

    /// A directory with the guest `scripted` under each of these names. Each copy handles the type of its name.
    pub fn scripted(names: &[&str]) -> Self {
        let plugins = Self::empty();
        for name in names {
            plugins.put(name, &layout::guest("scripted"));
        }
        plugins
    }

    /// The same with a settings file of a plugin.
    #[must_use]
    pub fn with_settings(self, name: &str, settings: &str) -> Self {
        self.write(&format!("{name}.toml"), settings.as_bytes());
        self
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Adds or replaces a component, atomically.
    pub fn put(&self, name: &str, component: &Path) {
        let content =
            fs::read(component).unwrap_or_else(|error| panic!("cannot read {}: {error}", component.display()));
        self.write(&format!("{name}.wasm"), &content);
    }

    /// Writes a file atomically: under a temporary name, then renamed.
    pub fn write(&self, file: &str, content: &[u8]) {
        let temporary = self.path().join(format!(".{file}.tmp"));
        fs::write(&temporary, content).expect("the plugins directory can be written to");
        fs::rename(&temporary, self.path().join(file)).expect("a file can be renamed");
    }

    /// Removes a component.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path().join(format!("{name}.wasm"))).expect("the plugin is there");
    }
}
