//! The versions of each plugin that served before, so that one of them can be brought back, after a restart too.
//!
//! For each name the last versions are kept as they stood in the directory, under their digests, beside a list of them:
//! the one that served last comes first. A version that was rolled back from stays held until the file in the directory
//! is another one.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::private_dir::{NotPrivate, PrivateDir};
use crate::plugin::TypePattern;
use crate::plugin::component::loader;
use crate::plugin::component::loader::{FileContents, FileOrigin};

/// How many versions of a plugin are kept, the one that serves among them.
const MAX_VERSIONS: usize = 5;
/// The largest list.
const MAX_LIST_BYTES: u64 = 64 * 1024;
/// The largest version: larger files are not loaded.
const MAX_VERSION_BYTES: u64 = 1024 * 1024 * 1024;

/// What is kept of each plugin.
pub(in crate::plugin) struct VersionHistory {
    dir: PrivateDir,
    lists: Mutex<BTreeMap<String, VersionList>>,
    /// One at a time writes, so that the last one to write knows most.
    writing: Mutex<()>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct VersionList {
    /// The one that served last comes first.
    digests: Vec<String>,
    /// The types that it handled when it served last; not in lists of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    types: Option<Vec<TypePattern>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pin: Option<RollbackPin>,
    /// The file went from the directory since.
    #[serde(default, skip_serializing_if = "is_false")]
    is_gone: bool,
}

/// What serves in the place of a file that was rolled back from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::plugin) struct RollbackPin {
    /// The digest of the file in the directory.
    pub(in crate::plugin) held: String,
    /// The digest of the version that serves.
    pub(in crate::plugin) serves: String,
}

impl VersionHistory {
    /// Opens what is kept in `dir`. Lists that cannot be read are left out with a warning. Blocks.
    ///
    /// # Errors
    /// It cannot be listed.
    pub(in crate::plugin) fn open(dir: PrivateDir) -> Result<Self, NotPrivate> {
        let files = dir.files().map_err(|error| NotPrivate::Unavailable(dir.path().to_owned(), error))?;
        let mut lists = BTreeMap::new();
        for file in files {
            let Some(name) = file.name.strip_suffix(".json").filter(|name| crate::plugin::is_name(name)) else {
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

    /// What serves in the place of the file with this digest. A version that is held is let go when the file is another
    /// one; then `true` says that [`save`](Self::save) is to be called.
    pub(in crate::plugin) fn pin_for(&self, name: &str, file_digest: &str) -> (Option<RollbackPin>, bool) {
        let mut lists = self.lists();
        let Some(list) = lists.get_mut(name) else { return (None, false) };
        match &list.pin {
            Some(pin) if pin.held == file_digest => (Some(pin.clone()), false),
            Some(_) => {
                list.let_go();
                (None, true)
            }
            None => (None, false),
        }
    }

    /// Lets the file go that is held, since it was put there again; [`save`](Self::save) is to be called then.
    pub(in crate::plugin) fn let_go(&self, name: &str) {
        if let Some(list) = self.lists().get_mut(name) {
            list.let_go();
        }
    }

    /// Holds a file that was rolled back from; [`save`](Self::save) is to be called then.
    pub(in crate::plugin) fn hold(&self, name: &str, pin: RollbackPin) {
        self.lists().entry(name.to_owned()).or_default().pin = Some(pin);
    }

    /// The version before the one that serves; the last that served, if none does and its file did not go.
    pub(in crate::plugin) fn before(&self, name: &str, serving: Option<&str>) -> Option<String> {
        let lists = self.lists();
        let list = lists.get(name)?;
        let digests = &list.digests;
        let Some(serving) = serving else { return digests.first().filter(|_| !list.is_gone).cloned() };
        match digests.iter().position(|digest| digest == serving) {
            Some(at) => digests.get(at + 1).cloned(),
            None => digests.first().cloned(),
        }
    }

    /// Whether a version of this plugin served last, and its file did not go since.
    pub(in crate::plugin) fn serves(&self, name: &str) -> bool {
        self.before(name, None).is_some()
    }

    /// Whether a version has served, and was not rolled back from since.
    pub(in crate::plugin) fn has_served(&self, name: &str, digest: &str) -> bool {
        self.lists().get(name).is_some_and(|list| list.digests.iter().any(|known| known == digest))
    }

    /// The types that a plugin handled when it served last, if that is known.
    pub(in crate::plugin) fn types(&self, name: &str) -> Option<Vec<TypePattern>> {
        self.lists().get(name)?.types.clone()
    }

    /// Whether a plugin may handle a type with this build since it did so before. Once its file went, only builds that
    /// served are known.
    pub(in crate::plugin) fn had(&self, name: &str, digest: &str, pattern: &TypePattern) -> bool {
        let lists = self.lists();
        let Some(list) = lists.get(name) else { return false };
        let has_served = list.digests.iter().any(|known| known == digest);
        match &list.types {
            Some(types) => types.contains(pattern) && (has_served || !list.is_gone),
            // A list of an earlier release, which kept no types.
            None => has_served,
        }
    }

    /// Notes what types a plugin handles that serves. Blocks.
    ///
    /// # Errors
    /// It cannot be written.
    pub(in crate::plugin) fn note_types(&self, name: &str, types: &[TypePattern]) -> io::Result<()> {
        {
            let mut lists = self.lists();
            let Some(list) = lists.get_mut(name).filter(|list| list.types.as_deref() != Some(types)) else {
                return Ok(());
            };
            list.types = Some(types.to_vec());
        }
        self.save(name)
    }

    /// Notes that the file of a plugin went: nothing of it is to serve until another one comes. Its versions are kept.
    /// Blocks.
    ///
    /// # Errors
    /// It cannot be written.
    pub(in crate::plugin) fn note_gone(&self, name: &str) -> io::Result<()> {
        match self.lists().get_mut(name) {
            Some(list) => {
                list.is_gone = true;
                list.let_go();
            }
            None => return Ok(()),
        }
        self.save(name)
    }

    /// Keeps a version that serves now, with its types, and forgets the oldest past the limit. Blocks.
    ///
    /// # Errors
    /// It cannot be written.
    pub(in crate::plugin) fn remember(
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
            return self.note_types(name, types);
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

    /// A version that is kept. Blocks.
    ///
    /// # Errors
    /// It cannot be read, or is not what it was.
    pub(in crate::plugin) fn read(&self, name: &str, digest: &str) -> io::Result<FileContents> {
        let Some(bytes) = self.dir.read(&file_name(name, digest), MAX_VERSION_BYTES)? else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it is not there any more"));
        };
        let contents = loader::contents(Bytes::from(bytes));
        if contents.digest != digest {
            return Err(io::Error::other("it is damaged"));
        }
        Ok(FileContents { origin: FileOrigin::Version(name.to_owned()), ..contents })
    }

    /// Writes what is known of a plugin, and removes the versions that are not in its list. Blocks.
    ///
    /// # Errors
    /// It cannot be written.
    pub(in crate::plugin) fn save(&self, name: &str) -> io::Result<()> {
        let _turn = self.writing.lock();
        let list = self.lists().get(name).cloned().unwrap_or_default();
        self.dir.write(&format!("{name}.json"), &[&serde_json::to_vec(&list)?])?;
        for file in self.dir.files()? {
            let of_this = file.name.strip_suffix(".wasm").and_then(|file| file.rsplit_once('.'));
            if of_this.is_some_and(|(of, digest)| of == name && !list.digests.iter().any(|kept| kept == digest)) {
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

    /// What was rolled back from is not a version to go back to.
    fn let_go(&mut self) {
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
    // What is looked for by its name is nowhere else.
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

    fn remember(history: &VersionHistory, content: &str) -> String {
        let FileContents { bytes, digest, .. } = loader::contents(Bytes::copy_from_slice(content.as_bytes()));
        history.remember("a", &digest, &bytes, &["a".parse().unwrap()]).unwrap();
        digest
    }

    #[test]
    fn the_last_versions_are_kept_and_those_before_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let history = open(folder.path());
        let digests: Vec<_> = (0..7).map(|n| remember(&history, &n.to_string())).collect();
        for history in [history, open(folder.path())] {
            assert_eq!(history.before("a", Some(&digests[6])), Some(digests[5].clone()));
            assert_eq!(history.before("a", Some(&digests[2])), None, "the oldest that is kept");
            assert_eq!(history.before("a", None), Some(digests[6].clone()));
            assert_eq!(history.read("a", &digests[2]).unwrap().bytes, "2");
            assert!(history.read("a", &digests[1]).is_err());
            assert_eq!(history.before("b", None), None);
        }
    }

    #[test]
    fn what_was_rolled_back_from_is_held_until_the_file_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let history = open(folder.path());
        let [first, second, third] = ["1", "2", "3"].map(|content| remember(&history, content));
        let pin = RollbackPin { held: third.clone(), serves: first.clone() };
        history.hold("a", pin.clone());
        history.save("a").unwrap();
        let history = open(folder.path());
        assert_eq!(history.pin_for("a", &third), (Some(pin), false));
        assert_eq!(history.before("a", Some(&first)), None);
        assert_eq!(history.pin_for("a", "another"), (None, true));
        assert_eq!(history.pin_for("a", &third), (None, false), "it was let go");
        history.save("a").unwrap();
        let fourth = remember(&history, "4");
        assert_eq!(history.before("a", Some(&fourth)), Some(first), "not to {second}, which was rolled back from");
    }

    #[test]
    fn a_version_that_is_damaged_and_a_list_that_is_none_are_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let history = open(folder.path());
        let digest = remember(&history, "1");
        history.dir.write(&file_name("a", &digest), &[b"2"]).unwrap();
        assert!(history.read("a", &digest).unwrap_err().to_string().contains("damaged"));
        for list in [&b"{"[..], br#"{"digests":["../../etc/passwd"]}"#] {
            history.dir.write("a.json", &[list]).unwrap();
            assert_eq!(open(folder.path()).before("a", None), None);
        }
    }
}
