//! What stands in the plugin directory, and which of it is ready to be loaded.
//!
//! A file is loaded when it has not changed for a while, by its own time stamp or by ours, or when it is known that
//! whoever wrote it has finished; its settings beside it likewise. Nothing is read here but names, sizes and times; dot files and `*.tmp` do not exist.
//! What has the name of a plugin and is no file is there all the same, so that it is refused when it is to be read, and
//! not taken for a plugin that has gone.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// What a file looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    size_bytes: u64,
    modified: Option<SystemTime>,
    /// Seconds and nanoseconds; nobody can set it, so that a file with a time of old is noticed too.
    changed: (i64, i64),
    inode: u64,
}

/// What a file looks like, and for how long it has not changed by its own time stamp.
type FileLook = (FileStamp, Duration);

/// A plugin's files as they stand in the directory.
#[derive(Clone, Debug)]
pub(in crate::plugin) struct ListedFiles {
    /// The component.
    pub(in crate::plugin) path: PathBuf,
    /// The settings beside it.
    pub(in crate::plugin) settings: Option<PathBuf>,
    /// What the component looks like, and the settings.
    looks: [Option<FileLook>; 2],
    /// The component was written anew since the look before, be it with what it held already.
    pub(in crate::plugin) was_written: bool,
    /// Grows with each time that something is due, so that what is due later is told from what was due before.
    pub(in crate::plugin) order: u64,
}

impl ListedFiles {
    /// The size of the component when it was looked at.
    pub(in crate::plugin) fn size_bytes(&self) -> u64 {
        self.looks[0].map_or(0, |(stamp, _)| stamp.size_bytes)
    }
}

/// Reads the directory. Blocks.
///
/// # Errors
/// Those of the system for the directory; a single file that cannot be looked at is left out.
pub(in crate::plugin) fn list(dir: &Path) -> std::io::Result<BTreeMap<String, ListedFiles>> {
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
        let Some(component) = look(&path) else { continue };
        let beside = dir.join(format!("{name}.toml"));
        let settings = look(&beside);
        let listed = ListedFiles {
            looks: [Some(component), settings],
            settings: settings.map(|_| beside),
            path: path.clone(),
            was_written: false,
            order: 0,
        };
        listing.insert(name.to_owned(), listed);
    }
    Ok(listing)
}

/// Warns if others than the user that this process runs as, and root, decide what lies in the directory. Blocks.
pub(in crate::plugin) fn warn_of_others(dir: &Path) {
    use std::os::unix::fs::MetadataExt;

    let Ok(metadata) = fs::metadata(dir) else { return };
    let ours = rustix::process::geteuid().as_raw();
    for words in others(metadata.mode(), metadata.uid(), ours) {
        tracing::warn!("the plugin directory {dir:?} {words}");
    }
}

/// Who else decides what lies in a directory, and what to do about it.
fn others(mode: u32, owner: u32, ours: u32) -> Vec<String> {
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

/// What stands there, symbolic links followed if they lead somewhere, and for how long it has not changed.
fn look(path: &Path) -> Option<FileLook> {
    use std::os::unix::fs::MetadataExt;

    let metadata = fs::metadata(path).or_else(|_| fs::symlink_metadata(path)).ok()?;
    let modified = metadata.modified().ok();
    let quiet_for = modified.and_then(|modified| SystemTime::now().duration_since(modified).ok()).unwrap_or_default();
    let changed = (metadata.ctime(), metadata.ctime_nsec());
    Some((FileStamp { size_bytes: metadata.len(), modified, changed, inode: metadata.ino() }, quiet_for))
}

/// What was seen of the directory so far.
#[derive(Debug, Default)]
pub(in crate::plugin) struct DirectoryScan {
    seen: BTreeMap<String, SeenPlugin>,
    orders: u64,
}

#[derive(Debug)]
struct SeenPlugin {
    /// The component and the settings.
    files: [SeenFile; 2],
    taken: bool,
    was_written: bool,
    order: u64,
    not_before: Instant,
    missing_since: Option<Instant>,
}

/// What was seen of a file.
#[derive(Debug)]
struct SeenFile {
    stamp: Option<FileStamp>,
    since: Instant,
    /// Whoever wrote it is known to have finished.
    is_finished: bool,
}

impl SeenFile {
    fn new(look: Option<FileLook>, now: Instant) -> Self {
        // What never was there is not waited for; what went may be about to come back.
        Self { stamp: look.map(|(stamp, _)| stamp), since: now, is_finished: look.is_none() }
    }

    /// Takes a look in, and says whether it is another one.
    fn observe(&mut self, look: Option<FileLook>, now: Instant) -> bool {
        let stamp = look.map(|(stamp, _)| stamp);
        let has_changed = self.stamp != stamp;
        if has_changed {
            *self = Self { stamp, since: now, is_finished: false };
        }
        has_changed
    }

    /// How much longer it is to be left alone.
    fn unsettled_for(&self, look: Option<FileLook>, settle: Duration, now: Instant) -> Duration {
        let quiet_for = now.duration_since(self.since).max(look.map_or(Duration::ZERO, |(_, quiet_for)| quiet_for));
        if self.is_finished { Duration::ZERO } else { settle.saturating_sub(quiet_for) }
    }
}

/// What a look at the directory asks for.
#[derive(Debug, Default)]
pub(in crate::plugin) struct DueWork {
    /// To be loaded; each of them once for each change.
    pub(in crate::plugin) load: Vec<(String, ListedFiles)>,
    /// To be unloaded.
    pub(in crate::plugin) unload: Vec<String>,
    /// When to look again, if something is not ready yet.
    pub(in crate::plugin) look_again_in: Option<Duration>,
}

impl DirectoryScan {
    /// Takes a listing in. `finished` are the names of files that are known to be written to their end.
    pub(in crate::plugin) fn observe(
        &mut self,
        listing: BTreeMap<String, ListedFiles>,
        finished: &HashSet<OsString>,
        settle: Duration,
        now: Instant,
    ) -> DueWork {
        let mut due = DueWork::default();
        let mut wait = |wait: Duration| {
            due.look_again_in = Some(due.look_again_in.map_or(wait, |other| other.min(wait)));
        };
        self.seen.retain(|name, seen| {
            if listing.contains_key(name) {
                seen.missing_since = None;
                return true;
            }
            // Editors and some tools replace a file by removing it first.
            let missing_for = now.duration_since(*seen.missing_since.get_or_insert(now));
            if missing_for >= settle {
                due.unload.push(name.clone());
                return false;
            }
            wait(settle - missing_for);
            true
        });
        for (name, listed) in listing {
            let fresh = || SeenPlugin {
                files: listed.looks.map(|look| SeenFile::new(look, now)),
                taken: false,
                was_written: false,
                order: 0,
                not_before: now,
                missing_since: None,
            };
            let seen = self.seen.entry(name.clone()).or_insert_with(fresh);
            let written = |file: &SeenFile| file.stamp.map(|stamp| (stamp.size_bytes, stamp.modified, stamp.inode));
            let before = written(&seen.files[0]);
            let paths = [Some(&listed.path), listed.settings.as_ref()];
            let mut has_changed = false;
            for ((file, look), path) in seen.files.iter_mut().zip(listed.looks).zip(paths) {
                has_changed |= file.observe(look, now);
                file.is_finished |= path.and_then(|path| path.file_name()).is_some_and(|name| finished.contains(name));
            }
            seen.was_written |= written(&seen.files[0]) != before;
            if has_changed {
                (seen.taken, seen.not_before) = (false, now);
            }
            if seen.taken {
                continue;
            }
            if now < seen.not_before {
                wait(seen.not_before - now);
                continue;
            }
            // Either may be half-written, whatever is known of the other.
            let looked = seen.files.iter().zip(listed.looks);
            let left = looked.map(|(file, look)| file.unsettled_for(look, settle, now)).max().unwrap_or_default();
            if left.is_zero() {
                self.orders += 1;
                (seen.taken, seen.order) = (true, self.orders);
                let was_written = std::mem::take(&mut seen.was_written);
                due.load.push((name, ListedFiles { order: self.orders, was_written, ..listed }));
            } else {
                wait(left);
            }
        }
        due
    }

    /// Has a plugin's files be due at the next look from then on although they did not change.
    pub(in crate::plugin) fn look_again(&mut self, name: &str, not_before: Instant) {
        if let Some(seen) = self.seen.get_mut(name) {
            (seen.taken, seen.not_before) = (false, not_before);
        }
    }

    /// Whether this is what was due last of a plugin, and its file did not go since.
    pub(in crate::plugin) fn is_current(&self, name: &str, listed: &ListedFiles) -> bool {
        self.seen.get(name).is_some_and(|seen| seen.taken && seen.order == listed.order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_else_can_put_plugins_there_is_told() {
        for (mode, owner, expected) in [(0o755, 7, 0), (0o775, 0, 0), (0o757, 7, 1), (0o1777, 0, 1), (0o777, 8, 2)] {
            let words = others(mode, owner, 7);
            assert_eq!(words.len(), expected, "{mode:o} of {owner}: {words:?}");
        }
        assert!(others(0o40757, 7, 7)[0].contains("(mode 757)"));
    }

    const SETTLE: Duration = Duration::from_millis(500);

    fn stamp(size_bytes: u64) -> FileStamp {
        FileStamp { size_bytes, modified: None, changed: (0, 0), inode: 1 }
    }

    fn listed(size_bytes: u64, quiet_for: Duration) -> BTreeMap<String, ListedFiles> {
        let looks = [Some((stamp(size_bytes), quiet_for)), None];
        let listed = ListedFiles { path: "plugins/a.wasm".into(), settings: None, looks, was_written: false, order: 0 };
        BTreeMap::from([("a".to_owned(), listed)])
    }

    /// The same with settings beside it, both written a moment ago.
    fn pair(component_bytes: u64, settings_bytes: u64) -> BTreeMap<String, ListedFiles> {
        let looks = [component_bytes, settings_bytes].map(|size_bytes| Some((stamp(size_bytes), Duration::ZERO)));
        let settings = Some("plugins/a.toml".into());
        BTreeMap::from([(
            "a".to_owned(),
            ListedFiles { path: "plugins/a.wasm".into(), settings, looks, was_written: false, order: 0 },
        )])
    }

    fn names(due: &DueWork) -> Vec<&str> {
        due.load.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn a_file_is_loaded_once_it_has_been_quiet_and_once_for_each_change() {
        let mut directory = DirectoryScan::default();
        let start = Instant::now();
        let mut look = |size, quiet_ms, at_ms| {
            let now = start + Duration::from_millis(at_ms);
            directory.observe(listed(size, Duration::from_millis(quiet_ms)), &HashSet::new(), SETTLE, now)
        };
        let due = look(1, 100, 0);
        assert_eq!((names(&due).len(), due.look_again_in), (0, Some(Duration::from_millis(400))));
        assert!(names(&look(2, 0, 400)).is_empty(), "it grew meanwhile");
        assert!(names(&look(2, 0, 899)).is_empty());
        assert_eq!(names(&look(2, 0, 900)), ["a"]);
        assert!(names(&look(2, 0, 5_000)).is_empty(), "it was taken");
        assert_eq!(names(&look(3, 700, 6_000)), ["a"], "old by its own time stamp");
        let second = |second| start + Duration::from_secs(second);
        directory.look_again("a", second(8));
        directory.look_again("gone", second(8));
        let mut look = |at| directory.observe(listed(3, SETTLE), &HashSet::new(), SETTLE, second(at));
        let early = look(7);
        assert_eq!((names(&early), early.look_again_in), (vec![], Some(Duration::from_secs(1))));
        assert_eq!((names(&look(8)), names(&look(9))), (vec!["a"], vec![]), "what failed for another's fault");
    }

    #[test]
    fn what_was_due_before_is_told_from_what_is_due_since() {
        let mut directory = DirectoryScan::default();
        let mut look = |listing| directory.observe(listing, &HashSet::new(), SETTLE, Instant::now()).load;
        let (first, second) = (look(listed(1, SETTLE)), look(listed(2, SETTLE)));
        assert!(!directory.is_current("a", &first[0].1) && directory.is_current("a", &second[0].1));
        directory.observe(BTreeMap::new(), &HashSet::new(), Duration::ZERO, Instant::now());
        assert!(!directory.is_current("a", &second[0].1), "it is gone");
    }

    #[test]
    fn that_a_file_was_written_anew_is_told_from_a_change_of_its_settings() {
        let mut directory = DirectoryScan::default();
        let start = Instant::now();
        let mut look = |listing, at_s| {
            let due = directory.observe(listing, &HashSet::new(), Duration::ZERO, start + Duration::from_secs(at_s));
            due.load.first().map(|(_, listed)| listed.was_written)
        };
        assert_eq!(look(pair(1, 1), 0), Some(false), "it was there from the start");
        assert_eq!(look(pair(1, 2), 1), Some(false));
        assert_eq!(look(pair(2, 2), 2), Some(true));
        assert_eq!(look(pair(2, 2), 3), None);
    }

    #[test]
    fn a_file_that_is_known_to_be_finished_is_loaded_at_once() {
        let finished = HashSet::from([OsString::from("a.wasm")]);
        let due = DirectoryScan::default().observe(listed(1, Duration::ZERO), &finished, SETTLE, Instant::now());
        assert_eq!(names(&due), ["a"]);
    }

    #[test]
    fn that_one_file_is_finished_says_nothing_of_the_other() {
        let start = Instant::now();
        let finished = |name: &str| HashSet::from([OsString::from(name)]);
        for (first, second) in [("a.wasm", "a.toml"), ("a.toml", "a.wasm")] {
            let mut directory = DirectoryScan::default();
            let mut look = |files, finished: &HashSet<OsString>, at_ms| {
                let due = directory.observe(files, finished, SETTLE, start + Duration::from_millis(at_ms));
                (names(&due).len(), due.look_again_in)
            };
            assert_eq!(look(pair(1, 1), &finished(first), 0), (0, Some(SETTLE)), "{second} is written still");
            assert_eq!(look(pair(1, 1), &finished(second), 100), (1, None), "both are finished");
            let half = if first == "a.wasm" { pair(1, 2) } else { pair(2, 1) };
            assert_eq!(look(half.clone(), &finished(first), 1_000), (0, Some(SETTLE)));
            assert_eq!(look(half, &HashSet::new(), 1_500), (1, None), "quiet for long enough");
        }
    }

    #[test]
    fn settings_that_went_may_be_about_to_come_back() {
        let (mut directory, start) = (DirectoryScan::default(), Instant::now());
        let mut look = |files, at_ms| {
            let now = start + Duration::from_millis(at_ms);
            directory.observe(files, &HashSet::new(), SETTLE, now).load.len()
        };
        assert_eq!((look(pair(1, 1), 0), look(pair(1, 1), 500)), (0, 1));
        assert_eq!(look(listed(1, SETTLE), 600), 0);
        assert_eq!(look(listed(1, SETTLE), 1_100), 1);
    }

    #[test]
    fn a_file_that_is_gone_for_a_while_is_unloaded() {
        let mut directory = DirectoryScan::default();
        let start = Instant::now();
        directory.observe(listed(1, SETTLE), &HashSet::new(), SETTLE, start);
        let mut look = |listing, at_ms| {
            directory.observe(listing, &HashSet::new(), SETTLE, start + Duration::from_millis(at_ms)).unload
        };
        assert!(look(BTreeMap::new(), 1).is_empty());
        assert!(look(listed(1, SETTLE), 400).is_empty(), "it came back");
        assert!(look(BTreeMap::new(), 600).is_empty());
        assert_eq!(look(BTreeMap::new(), 1_100), ["a"]);
        assert!(look(BTreeMap::new(), 9_999).is_empty(), "once");
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
