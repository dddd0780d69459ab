//! The plugin directory as it stands: the files of each plugin, which of them a start expects, and who
//! besides this server decides what lies there.
//!
//! Only names, sizes and times are read. Dot files and `*.tmp` are ignored. An entry that has the name of a plugin and is
//! no file is listed too. Reading it fails with a reason; leaving it out would unload the plugin.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::routing::{PluginVersions, RouteTable, RouteTarget};
use crate::event::{EventType, TypePattern};
use crate::plugin::data_dir::pattern_owners::PatternOwners;
use crate::plugin::settings::PluginSettings;
use crate::regular_file;

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileStamp {
    pub(super) size_bytes: u64,
    pub(super) modified: Option<SystemTime>,
    /// Seconds and nanoseconds of the inode's change. No program can set it, so a file that is copied with its old time is
    /// noticed too.
    pub(super) changed: (i64, i64),
    pub(super) inode: u64,
}

/// A file at the time of a scan.
#[derive(Clone, Copy, Debug)]
pub(super) struct ObservedFile {
    pub(super) stamp: FileStamp,
    /// For how long it has not changed, by its own time stamp.
    pub(super) quiet_for: Duration,
}

/// The files of a plugin in the directory.
#[derive(Clone, Debug)]
pub(super) struct ListedFiles {
    /// The component.
    pub(super) path: PathBuf,
    /// The settings beside it.
    pub(super) settings: Option<PathBuf>,
    /// The component and the settings.
    pub(super) observed: [Option<ObservedFile>; 2],
}

impl ListedFiles {
    /// The size of the component.
    pub(super) fn size_bytes(&self) -> u64 {
        self.observed[0].map_or(0, |file| file.stamp.size_bytes)
    }
}

/// Lists the plugins in a directory by name. Blocks.
///
/// # Errors
/// Those of the system for the directory. A single file that cannot be examined is left out.
pub(super) fn list(dir: &Path) -> std::io::Result<BTreeMap<String, ListedFiles>> {
    let mut listing = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".wasm"))
        else {
            continue;
        };
        if name.is_empty() || name.starts_with('.') {
            continue;
        }
        let Some(component) = observe(&path) else { continue };
        let beside = dir.join(format!("{name}.toml"));
        let settings = observe(&beside);
        let name = name.to_owned();
        let listed = ListedFiles { observed: [Some(component), settings], settings: settings.map(|_| beside), path };
        listing.insert(name, listed);
    }
    Ok(listing)
}

/// Follows a symbolic link if it leads to a file.
fn observe(path: &Path) -> Option<ObservedFile> {
    use std::os::unix::fs::MetadataExt;

    let metadata = fs::metadata(path).or_else(|_| fs::symlink_metadata(path)).ok()?;
    let modified = metadata.modified().ok();
    let quiet_for = modified.and_then(|modified| SystemTime::now().duration_since(modified).ok()).unwrap_or_default();
    let changed = (metadata.ctime(), metadata.ctime_nsec());
    let stamp = FileStamp { size_bytes: metadata.len(), modified, changed, inode: metadata.ino() };
    Some(ObservedFile { stamp, quiet_for })
}

/// Warns if users other than root and the one of this process decide what lies in the directory. Blocks.
pub(super) fn warn_of_foreign_writers(dir: &Path) {
    use std::os::unix::fs::MetadataExt;

    let Ok(metadata) = fs::metadata(dir) else { return };
    let ours = rustix::process::geteuid().as_raw();
    for words in foreign_writers(metadata.mode(), metadata.uid(), ours) {
        tracing::warn!("the plugin directory {dir:?} {words}");
    }
}

/// Which other users decide what lies in a directory, and what to do about it.
fn foreign_writers(mode: u32, owner: u32, ours: u32) -> Vec<String> {
    let mut words = Vec::new();
    if mode & 0o002 != 0 {
        let mode = mode & 0o7777;
        words.push(format!("can be written to by every user (mode {mode:o}), who can have anything run: chmod o-w"));
    }
    if owner != ours && owner != 0 {
        words.push(format!("belongs to user {owner}, who decides what runs here; this server is user {ours}"));
    }
    words
}

/// The plugins in the directory before they are loaded.
#[derive(Debug, Default)]
pub(super) struct ExpectedPlugins {
    pub(super) names: BTreeSet<String>,
    routes: RouteTable<ExpectedPlugin>,
}

#[derive(Debug)]
struct ExpectedPlugin {
    name: String,
    patterns: Vec<TypePattern>,
}

impl RouteTarget for ExpectedPlugin {
    fn patterns(&self) -> &[TypePattern] {
        &self.patterns
    }
}

impl ExpectedPlugins {
    /// Reads which plugins a directory holds and which types their settings name. Where they name none, the file's name is
    /// the type that is expected. Plugins that cannot be read are left out; loading them says why. Blocks.
    pub(super) fn read(dir: &Path, settings: &BTreeMap<String, PluginSettings>) -> Self {
        let listing = list(dir).unwrap_or_default();
        let names = listing.keys().cloned().collect();
        let types = |name: &str, beside: Option<&Path>| {
            let beside = beside.and_then(|path| PluginSettings::parse(&regular_file::read_to_string(path).ok()?).ok());
            beside.and_then(|it| it.types).or_else(|| settings.get(name)?.types.clone())
        };
        let plugins = listing.into_iter().map(|(name, listed)| {
            // A wrong guess costs a wait, since a delivery in the wrong lane is moved to the right one.
            let named_after = || name.parse().ok().map(TypePattern::Exact).into_iter().collect();
            let patterns = types(&name, listed.settings.as_deref()).unwrap_or_else(named_after);
            let plugin = Arc::new(ExpectedPlugin { name: name.clone(), patterns });
            (name, PluginVersions { newest: Some(plugin), last_good: None })
        });
        Self { names, routes: RouteTable::build(&plugins.collect(), &PatternOwners::default()).0 }
    }

    /// The name of the plugin that is expected to handle a type.
    pub(super) fn route(&self, event_type: &EventType) -> Option<&str> {
        self.routes.route(event_type).map(|plugin| plugin.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_users_who_can_put_plugins_there_are_named() {
        for (mode, owner, expected) in [(0o755, 7, 0), (0o775, 0, 0), (0o757, 7, 1), (0o1777, 0, 1), (0o777, 8, 2)] {
            let words = foreign_writers(mode, owner, 7);
            assert_eq!(words.len(), expected, "{mode:o} of {owner}: {words:?}");
        }
        assert!(foreign_writers(0o40757, 7, 7)[0].contains("(mode 757)"));
    }

    #[test]
    fn only_finished_components_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.wasm", "a.toml", ".b.wasm", "c.wasm.tmp", "d.wat", ".wasm"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::create_dir(dir.path().join("e.wasm")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("a.wasm"), dir.path().join("f.wasm")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("nowhere"), dir.path().join("g.wasm")).unwrap();
        let listing = list(dir.path()).unwrap();
        assert_eq!(listing.keys().collect::<Vec<_>>(), ["a", "e", "f", "g"], "the last three are refused when read");
        assert!(listing["a"].settings.is_some() && listing["f"].settings.is_none());
    }
}
