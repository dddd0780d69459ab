//! Which files of the plugin directory are ready to be loaded, and which plugins went.
//!
//! A file is ready when it has not changed for a while, by its own time stamp or by our clock. It is ready at once when its
//! writer is known to have finished. The settings beside it must be ready too. This module reads neither files nor clocks.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::time::{Duration, Instant};

use super::directory::{FileStamp, ListedFiles, ObservedFile};

/// The state of the directory over all scans so far.
#[derive(Debug, Default)]
pub(super) struct DirectoryScan {
    seen: BTreeMap<String, SeenPlugin>,
    due_count: u64,
}

#[derive(Debug)]
struct SeenPlugin {
    /// The component and the settings.
    files: [SeenFile; 2],
    is_due: bool,
    /// The component was written since it was due last.
    was_written: bool,
    order: u64,
    not_before: Instant,
    missing_since: Option<Instant>,
}

#[derive(Debug)]
struct SeenFile {
    stamp: Option<FileStamp>,
    since: Instant,
    /// Its writer is known to have finished.
    is_finished: bool,
}

impl SeenFile {
    fn new(file: Option<ObservedFile>, now: Instant) -> Self {
        // A file that never was there is not waited for. One that went may be about to come back.
        Self { stamp: file.map(|file| file.stamp), since: now, is_finished: file.is_none() }
    }

    /// Notes the file of a new scan. `true` if it changed.
    fn observe(&mut self, file: Option<ObservedFile>, now: Instant) -> bool {
        let stamp = file.map(|file| file.stamp);
        let has_changed = self.stamp != stamp;
        if has_changed {
            *self = Self { stamp, since: now, is_finished: false };
        }
        has_changed
    }

    /// How much longer the file must stay unchanged.
    fn remaining_quiet(&self, file: Option<ObservedFile>, quiet_time: Duration, now: Instant) -> Duration {
        let quiet_for = now.duration_since(self.since).max(file.map_or(Duration::ZERO, |file| file.quiet_for));
        if self.is_finished { Duration::ZERO } else { quiet_time.saturating_sub(quiet_for) }
    }
}

/// The files of a plugin that are ready to be loaded.
#[derive(Clone, Debug)]
pub(super) struct DueLoad {
    pub(super) listed: ListedFiles,
    /// The component was written since it was due last, perhaps with the same content.
    pub(super) was_written: bool,
    /// Grows each time that anything is due; tells these files from those that were due earlier.
    order: u64,
}

/// What follows from a scan.
#[derive(Debug, Default)]
pub(super) struct DueWork {
    /// To be loaded, once for each change.
    pub(super) load: Vec<(String, DueLoad)>,
    /// To be unloaded.
    pub(super) unload: Vec<String>,
    /// When to scan again, if a file is not ready yet.
    pub(super) rescan_in: Option<Duration>,
}

impl DirectoryScan {
    /// Notes a listing. `finished` are the names of files whose writers are known to have finished.
    pub(super) fn observe(
        &mut self,
        listing: BTreeMap<String, ListedFiles>,
        finished: &HashSet<OsString>,
        quiet_time: Duration,
        now: Instant,
    ) -> DueWork {
        let mut due = DueWork::default();
        let mut wait = |wait: Duration| {
            due.rescan_in = Some(due.rescan_in.map_or(wait, |other| other.min(wait)));
        };
        self.seen.retain(|name, seen| {
            if listing.contains_key(name) {
                seen.missing_since = None;
                return true;
            }
            // Editors and some tools replace a file by removing it first.
            let missing_for = now.duration_since(*seen.missing_since.get_or_insert(now));
            if missing_for >= quiet_time {
                due.unload.push(name.clone());
                return false;
            }
            wait(quiet_time - missing_for);
            true
        });
        for (name, listed) in listing {
            let fresh = || SeenPlugin {
                files: listed.observed.map(|file| SeenFile::new(file, now)),
                is_due: false,
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
            for ((seen, file), path) in seen.files.iter_mut().zip(listed.observed).zip(paths) {
                has_changed |= seen.observe(file, now);
                seen.is_finished |= path.and_then(|path| path.file_name()).is_some_and(|name| finished.contains(name));
            }
            seen.was_written |= written(&seen.files[0]) != before;
            if has_changed {
                (seen.is_due, seen.not_before) = (false, now);
            }
            if seen.is_due {
                continue;
            }
            if now < seen.not_before {
                wait(seen.not_before - now);
                continue;
            }
            // Both must be ready: that one is finished says nothing of the other.
            let files = seen.files.iter().zip(listed.observed);
            let left = files.map(|(seen, file)| seen.remaining_quiet(file, quiet_time, now)).max().unwrap_or_default();
            if left.is_zero() {
                self.due_count += 1;
                (seen.is_due, seen.order) = (true, self.due_count);
                let was_written = std::mem::take(&mut seen.was_written);
                due.load.push((name, DueLoad { listed, was_written, order: self.due_count }));
            } else {
                wait(left);
            }
        }
        due
    }

    /// Makes a plugin's files due again in the first scan from `not_before` on, though they did not change.
    pub(super) fn retry(&mut self, name: &str, not_before: Instant) {
        if let Some(seen) = self.seen.get_mut(name) {
            (seen.is_due, seen.not_before) = (false, not_before);
        }
    }

    /// Whether these files are the ones of their plugin that were due last, and are still there.
    pub(super) fn is_current(&self, name: &str, due: &DueLoad) -> bool {
        self.seen.get(name).is_some_and(|seen| seen.is_due && seen.order == due.order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET_TIME: Duration = Duration::from_millis(500);

    fn stamp(size_bytes: u64) -> FileStamp {
        FileStamp { size_bytes, modified: None, changed: (0, 0), inode: 1 }
    }

    fn listed(size_bytes: u64, quiet_for: Duration) -> BTreeMap<String, ListedFiles> {
        let observed = [Some(ObservedFile { stamp: stamp(size_bytes), quiet_for }), None];
        let listed = ListedFiles { path: "plugins/a.wasm".into(), settings: None, observed };
        BTreeMap::from([("a".to_owned(), listed)])
    }

    /// The same with settings beside it, both written a moment ago.
    fn pair(component_bytes: u64, settings_bytes: u64) -> BTreeMap<String, ListedFiles> {
        let file = |size_bytes| Some(ObservedFile { stamp: stamp(size_bytes), quiet_for: Duration::ZERO });
        let observed = [component_bytes, settings_bytes].map(file);
        let settings = Some("plugins/a.toml".into());
        BTreeMap::from([("a".to_owned(), ListedFiles { path: "plugins/a.wasm".into(), settings, observed })])
    }

    fn names(due: &DueWork) -> Vec<&str> {
        due.load.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn a_file_is_loaded_once_it_has_been_quiet_and_once_for_each_change() {
        let mut directory = DirectoryScan::default();
        let start = Instant::now();
        let mut scan = |size, quiet_ms, at_ms| {
            let now = start + Duration::from_millis(at_ms);
            directory.observe(listed(size, Duration::from_millis(quiet_ms)), &HashSet::new(), QUIET_TIME, now)
        };
        let due = scan(1, 100, 0);
        assert_eq!((names(&due).len(), due.rescan_in), (0, Some(Duration::from_millis(400))));
        assert!(names(&scan(2, 0, 400)).is_empty(), "it grew meanwhile");
        assert!(names(&scan(2, 0, 899)).is_empty());
        assert_eq!(names(&scan(2, 0, 900)), ["a"]);
        assert!(names(&scan(2, 0, 5_000)).is_empty(), "it was loaded");
        assert_eq!(names(&scan(3, 700, 6_000)), ["a"], "old by its own time stamp");
        let second = |second| start + Duration::from_secs(second);
        directory.retry("a", second(8));
        directory.retry("gone", second(8));
        let mut scan = |at| directory.observe(listed(3, QUIET_TIME), &HashSet::new(), QUIET_TIME, second(at));
        let early = scan(7);
        assert_eq!((names(&early), early.rescan_in), (vec![], Some(Duration::from_secs(1))));
        assert_eq!(
            (names(&scan(8)), names(&scan(9))),
            (vec!["a"], vec![]),
            "a load that failed for a temporary reason"
        );
    }

    #[test]
    fn files_that_were_due_earlier_are_not_current() {
        let mut directory = DirectoryScan::default();
        let mut scan = |listing| directory.observe(listing, &HashSet::new(), QUIET_TIME, Instant::now()).load;
        let (first, second) = (scan(listed(1, QUIET_TIME)), scan(listed(2, QUIET_TIME)));
        assert!(!directory.is_current("a", &first[0].1) && directory.is_current("a", &second[0].1));
        directory.observe(BTreeMap::new(), &HashSet::new(), Duration::ZERO, Instant::now());
        assert!(!directory.is_current("a", &second[0].1), "it is gone");
    }

    #[test]
    fn a_rewritten_file_differs_from_one_with_changed_settings() {
        let mut directory = DirectoryScan::default();
        let start = Instant::now();
        let mut scan = |listing, at_s| {
            let work = directory.observe(listing, &HashSet::new(), Duration::ZERO, start + Duration::from_secs(at_s));
            work.load.first().map(|(_, due)| due.was_written)
        };
        assert_eq!(scan(pair(1, 1), 0), Some(false), "it was there from the start");
        assert_eq!(scan(pair(1, 2), 1), Some(false));
        assert_eq!(scan(pair(2, 2), 2), Some(true));
        assert_eq!(scan(pair(2, 2), 3), None);
    }

    #[test]
    fn a_file_that_is_known_to_be_finished_is_loaded_at_once() {
        let finished = HashSet::from([OsString::from("a.wasm")]);
        let due = DirectoryScan::default().observe(listed(1, Duration::ZERO), &finished, QUIET_TIME, Instant::now());
        assert_eq!(names(&due), ["a"]);
    }

    #[test]
    fn that_one_file_is_finished_says_nothing_of_the_other() {
        let start = Instant::now();
        let finished = |name: &str| HashSet::from([OsString::from(name)]);
        for (first, second) in [("a.wasm", "a.toml"), ("a.toml", "a.wasm")] {
            let mut directory = DirectoryScan::default();
            let mut scan = |files, finished: &HashSet<OsString>, at_ms| {
                let due = directory.observe(files, finished, QUIET_TIME, start + Duration::from_millis(at_ms));
                (names(&due).len(), due.rescan_in)
            };
            assert_eq!(scan(pair(1, 1), &finished(first), 0), (0, Some(QUIET_TIME)), "{second} is written still");
            assert_eq!(scan(pair(1, 1), &finished(second), 100), (1, None), "both are finished");
            let half = if first == "a.wasm" { pair(1, 2) } else { pair(2, 1) };
            assert_eq!(scan(half.clone(), &finished(first), 1_000), (0, Some(QUIET_TIME)));
            assert_eq!(scan(half, &HashSet::new(), 1_500), (1, None), "quiet for long enough");
        }
    }

    #[test]
    fn settings_that_went_may_be_about_to_come_back() {
        let (mut directory, start) = (DirectoryScan::default(), Instant::now());
        let mut scan = |files, at_ms| {
            let now = start + Duration::from_millis(at_ms);
            directory.observe(files, &HashSet::new(), QUIET_TIME, now).load.len()
        };
        assert_eq!((scan(pair(1, 1), 0), scan(pair(1, 1), 500)), (0, 1));
        assert_eq!(scan(listed(1, QUIET_TIME), 600), 0);
        assert_eq!(scan(listed(1, QUIET_TIME), 1_100), 1);
    }

    #[test]
    fn a_file_that_is_gone_for_a_while_is_unloaded() {
        let mut directory = DirectoryScan::default();
        let start = Instant::now();
        directory.observe(listed(1, QUIET_TIME), &HashSet::new(), QUIET_TIME, start);
        let mut scan = |listing, at_ms| {
            directory.observe(listing, &HashSet::new(), QUIET_TIME, start + Duration::from_millis(at_ms)).unload
        };
        assert!(scan(BTreeMap::new(), 1).is_empty());
        assert!(scan(listed(1, QUIET_TIME), 400).is_empty(), "it came back");
        assert!(scan(BTreeMap::new(), 600).is_empty());
        assert_eq!(scan(BTreeMap::new(), 1_100), ["a"]);
        assert!(scan(BTreeMap::new(), 9_999).is_empty(), "once");
    }
}
