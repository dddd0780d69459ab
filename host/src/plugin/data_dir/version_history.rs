//! The versions of each plugin that served before, for rollbacks, also after a restart.
//!
//! Each version is kept as it was in the directory, under its digest. A list beside them names the last versions of a
//! plugin, the latest first. After a rollback the list holds a pin: an earlier version serves in place of the file until
//! that file changes. The file itself stays: the directory is the operator's, and may be read-only.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::pattern_owners::PatternOwners;
use super::private_dir::{NotPrivate, PrivateDir};
use crate::event::{TypePattern, is_plugin_name};
use crate::plugin::component::file::{FileContents, FileOrigin};

/// How many versions of a plugin are kept, including the one that serves.
const MAX_VERSIONS: usize = 5;
/// The largest list that is read.
const MAX_LIST_BYTES: u64 = 64 * 1024;
/// The largest version that is read. Larger files are not loaded either.
const MAX_VERSION_BYTES: u64 = 1024 * 1024 * 1024;

/// The version lists of the plugins in one directory.
pub(in crate::plugin) struct VersionHistory {
    dir: PrivateDir,
    lists: Mutex<BTreeMap<String, VersionList>>,
    /// Locked while a list is written, so that the write that ends last has the latest content.
    writing: Mutex<()>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct VersionList {
    /// The version that served last comes first.
    digests: Vec<String>,
    /// The types that the plugin handled when it served last. Lists of earlier releases lack them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    types: Option<Vec<TypePattern>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pin: Option<RollbackPin>,
    /// The file went from the directory after that.
    #[serde(default, skip_serializing_if = "is_false")]
    is_gone: bool,
}

/// After a rollback: which version serves in place of which file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::plugin) struct RollbackPin {
    /// The digest of the file in the directory.
    #[serde(rename = "held")]
    pub(in crate::plugin) file: String,
    /// The digest of the version that serves.
    pub(in crate::plugin) serves: String,
}

impl VersionHistory {
    /// Reads the lists in `dir`. One that cannot be read is left out with a warning. Blocks.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub(super) fn open(dir: PrivateDir) -> Result<Self, NotPrivate> {
        let files = dir.files().map_err(|error| NotPrivate::Unavailable(dir.path().to_owned(), error))?;
        let mut lists = BTreeMap::new();
        for file in files {
            let Some(name) = file.name.strip_suffix(".json").filter(|name| is_plugin_name(name)) else {
                continue;
            };
            match read_list(&dir, &file.name) {
                Ok(list) => drop(lists.insert(name.to_owned(), list)),
                Err(error) => {
                    let path = dir.path().join(&file.name);
                    tracing::warn!(plugin.id = %name, "the earlier versions in {path:?} are forgotten: {error}");
                }
            }
        }
        Ok(Self { dir, lists: Mutex::new(lists), writing: Mutex::default() })
    }

    /// The pin for the file with this digest. A pin for another file is removed: then the caller must [`save`](Self::save)
    /// the list, which `true` says.
    pub(in crate::plugin) fn pin_for(&self, name: &str, file_digest: &str) -> (Option<RollbackPin>, bool) {
        let mut lists = self.lists();
        let Some(list) = lists.get_mut(name) else { return (None, false) };
        match &list.pin {
            Some(pin) if pin.file == file_digest => (Some(pin.clone()), false),
            Some(_) => {
                list.unpin();
                (None, true)
            }
            None => (None, false),
        }
    }

    /// Removes the pin of a plugin. The caller must [`save`](Self::save) the list.
    pub(in crate::plugin) fn unpin(&self, name: &str) {
        if let Some(list) = self.lists().get_mut(name) {
            list.unpin();
        }
    }

    /// Sets the pin of a plugin. The caller must [`save`](Self::save) the list.
    pub(in crate::plugin) fn pin(&self, name: &str, pin: RollbackPin) {
        self.lists().entry(name.to_owned()).or_default().pin = Some(pin);
    }

    /// The digest of the file in whose place this version serves, if it was rolled back from.
    pub(in crate::plugin) fn rolled_back_from(&self, name: &str, serves: &str) -> Option<String> {
        let pin = self.lists().get(name)?.pin.clone()?;
        (pin.serves == serves).then_some(pin.file)
    }

    /// The version before `serving`. Without a version that serves, the one to which the plugin was rolled back, else the
    /// one that served last, unless its file went.
    pub(in crate::plugin) fn version_before(&self, name: &str, serving: Option<&str>) -> Option<String> {
        let lists = self.lists();
        let list = lists.get(name)?;
        let digests = &list.digests;
        let Some(serving) = serving else {
            let last = list.pin.as_ref().map(|pin| &pin.serves).or(digests.first());
            return last.filter(|_| !list.is_gone).cloned();
        };
        match digests.iter().position(|digest| digest == serving) {
            Some(at) => digests.get(at + 1).cloned(),
            None => digests.first().cloned(),
        }
    }

    /// Whether a version of this plugin served last, and its file did not go since.
    pub(in crate::plugin) fn serves(&self, name: &str) -> bool {
        self.version_before(name, None).is_some()
    }

    /// Whether a version is in the list: it has served, and no rollback went behind it.
    pub(in crate::plugin) fn has_served(&self, name: &str, digest: &str) -> bool {
        self.lists().get(name).is_some_and(|list| list.digests.iter().any(|known| known == digest))
    }

    /// The types that a plugin handled when it served last, if that is known.
    pub(in crate::plugin) fn types(&self, name: &str) -> Option<Vec<TypePattern>> {
        self.lists().get(name)?.types.clone()
    }

    /// Whether nothing is known of any plugin.
    pub(super) fn is_empty(&self) -> bool {
        self.lists().is_empty()
    }

    /// The owners of the types that plugins handled when they served last, unless their files went.
    pub(super) fn owners(&self) -> PatternOwners {
        let lists = self.lists();
        let present = lists.iter().filter(|(_, list)| !list.is_gone && !list.digests.is_empty());
        present.flat_map(|(name, list)| list.types.iter().flatten().map(|pattern| (pattern, name.as_str()))).collect()
    }

    /// Records the types of a plugin that serves. Blocks.
    ///
    /// # Errors
    /// The list cannot be written.
    pub(in crate::plugin) fn record_types(&self, name: &str, types: &[TypePattern]) -> io::Result<()> {
        {
            let mut lists = self.lists();
            let Some(list) = lists.get_mut(name).filter(|list| list.types.as_deref() != Some(types)) else {
                return Ok(());
            };
            list.types = Some(types.to_vec());
        }
        self.save(name)
    }

    /// Records that the file of a plugin went. Its versions are kept, but none serves until there is a file again. Blocks.
    ///
    /// # Errors
    /// The list cannot be written.
    pub(in crate::plugin) fn record_removal(&self, name: &str) -> io::Result<()> {
        match self.lists().get_mut(name) {
            Some(list) => {
                list.is_gone = true;
                list.unpin();
            }
            None => return Ok(()),
        }
        self.save(name)
    }

    /// Records a version that serves, with its types, and removes the oldest beyond the limit. Blocks.
    ///
    /// # Errors
    /// The version or the list cannot be written.
    pub(in crate::plugin) fn record(
        &self,
        name: &str,
        digest: &str,
        bytes: &[u8],
        types: &[TypePattern],
    ) -> io::Result<()> {
        let serves_already = {
            let lists = self.lists();
            let is_first = |list: &VersionList| !list.is_gone && list.digests.first().is_some_and(|it| it == digest);
            lists.get(name).is_some_and(is_first)
        };
        if serves_already {
            return self.record_types(name, types);
        }
        let file = file_name(name, digest);
        if !self.dir.files()?.iter().any(|kept| kept.name == file && kept.size_bytes == bytes.len() as u64) {
            self.dir.write(&file, &[bytes])?;
        }
        {
            let mut lists = self.lists();
            let list = lists.entry(name.to_owned()).or_default();
            list.add(digest);
            list.types = Some(types.to_vec());
        }
        self.save(name)
    }

    /// Reads a version. Blocks.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub(in crate::plugin) fn read(&self, name: &str, digest: &str) -> io::Result<FileContents> {
        let Some(bytes) = self.dir.read(&file_name(name, digest), MAX_VERSION_BYTES)? else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it is not there any more"));
        };
        let contents = FileContents::new(Bytes::from(bytes));
        if contents.digest != digest {
            return Err(io::Error::other("it is damaged"));
        }
        Ok(FileContents { origin: FileOrigin::Version(name.to_owned()), ..contents })
    }

    /// Writes the list of a plugin, and removes the versions that it does not name. Blocks.
    ///
    /// # Errors
    /// The list cannot be written, or a version cannot be removed.
    pub(in crate::plugin) fn save(&self, name: &str) -> io::Result<()> {
        let _lock = self.writing.lock();
        let list = self.lists().get(name).cloned().unwrap_or_default();
        self.dir.write(&format!("{name}.json"), &[&serde_json::to_vec(&list)?])?;
        for file in self.dir.files()? {
            let version = file.name.strip_suffix(".wasm").and_then(|file| file.rsplit_once('.'));
            if version.is_some_and(|(of, digest)| of == name && !list.digests.iter().any(|kept| kept == digest)) {
                self.dir.remove(&file.name)?;
            }
        }
        Ok(())
    }

    fn lists(&self) -> MutexGuard<'_, BTreeMap<String, VersionList>> {
        self.lists.lock()
    }
}

impl VersionList {
    fn add(&mut self, digest: &str) {
        self.digests.retain(|other| other != digest);
        self.digests.insert(0, digest.to_owned());
        self.digests.truncate(MAX_VERSIONS);
        self.is_gone = false;
    }

    /// Forgets the versions that were rolled back from: no later rollback leads to them.
    fn unpin(&mut self) {
        if let Some(pin) = self.pin.take()
            && let Some(at) = self.digests.iter().position(|digest| *digest == pin.serves)
        {
            self.digests.drain(..at);
        }
    }
}

fn read_list(dir: &PrivateDir, file: &str) -> io::Result<VersionList> {
    let content = dir.read(file, MAX_LIST_BYTES)?.unwrap_or_default();
    let list: VersionList = serde_json::from_slice(&content)?;
    // Digests become file names, so they must not lead out of the directory.
    let mut digests = list.digests.iter().chain(list.pin.iter().map(|pin| &pin.serves));
    if digests.any(|digest| !is_digest(digest)) {
        return Err(io::Error::other("it names something that is no digest"));
    }
    Ok(list)
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn file_name(name: &str, digest: &str) -> String {
    format!("{name}.{digest}.wasm")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &std::path::Path) -> VersionHistory {
        VersionHistory::open(PrivateDir::open(&folder.join("kept")).unwrap()).unwrap()
    }

    fn record(history: &VersionHistory, content: &str) -> String {
        let FileContents { bytes, digest, .. } = FileContents::new(Bytes::copy_from_slice(content.as_bytes()));
        history.record("a", &digest, &bytes, &["a".parse().unwrap()]).unwrap();
        digest
    }

    #[test]
    fn the_last_versions_are_kept_and_those_before_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let history = open(folder.path());
        let digests: Vec<_> = (0..7).map(|n| record(&history, &n.to_string())).collect();
        for history in [history, open(folder.path())] {
            assert_eq!(history.version_before("a", Some(&digests[6])), Some(digests[5].clone()));
            assert_eq!(history.version_before("a", Some(&digests[2])), None, "the oldest that is kept");
            assert_eq!(history.version_before("a", None), Some(digests[6].clone()));
            assert_eq!(history.read("a", &digests[2]).unwrap().bytes, "2");
            assert!(history.read("a", &digests[1]).is_err());
            assert_eq!(history.version_before("b", None), None);
        }
    }

    #[test]
    fn a_pin_stays_until_the_file_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let history = open(folder.path());
        let [first, second, third] = ["1", "2", "3"].map(|content| record(&history, content));
        let pin = RollbackPin { file: third.clone(), serves: first.clone() };
        history.pin("a", pin.clone());
        history.save("a").unwrap();
        let history = open(folder.path());
        assert_eq!(history.pin_for("a", &third), (Some(pin), false));
        assert_eq!(history.version_before("a", Some(&first)), None);
        assert_eq!(history.pin_for("a", "another"), (None, true));
        assert_eq!(history.pin_for("a", &third), (None, false), "it was unpinned");
        history.save("a").unwrap();
        let fourth = record(&history, "4");
        assert_eq!(
            history.version_before("a", Some(&fourth)),
            Some(first),
            "not to {second}, which was rolled back from"
        );
    }

    #[test]
    fn damaged_versions_and_invalid_lists_are_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let history = open(folder.path());
        let digest = record(&history, "1");
        history.dir.write(&file_name("a", &digest), &[b"2"]).unwrap();
        assert!(history.read("a", &digest).unwrap_err().to_string().contains("damaged"));
        for list in [&b"{"[..], br#"{"digests":["../../etc/passwd"]}"#] {
            history.dir.write("a.json", &[list]).unwrap();
            assert_eq!(open(folder.path()).version_before("a", None), None);
        }
    }
}
