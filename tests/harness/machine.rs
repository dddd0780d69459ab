//! The disk and the clock beneath a process under test. In a power cut the disk loses what was not synced; it can be full,
//! and the clock can be wrong.
//!
//! A process that is started with [`Machine::variables`] loads the library of `tests/machine`, which keeps a journal of
//! its writes and syncs. The head of that library has a diagram. This works on Linux only, and for programs that use
//! the C library, as `redis-server` and the host do.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fastrand::Rng;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use tempfile::TempDir;

use crate::layout;

/// The offset in the control page of the switch for a full disk, in bytes.
const DISK_IS_FULL: u64 = 0;
/// The offset of the error of the clock.
const CLOCK_OFFSET_NS: u64 = 8;
/// The length of the control page, a page of memory.
const PAGE_BYTES: u64 = 4_096;
/// A disk writes a sector completely or not at all.
const SECTOR_BYTES: usize = 512;

/// What a record of the journal begins with and what it ends with.
const MARKS: [u64; 2] = [0x9d3f_61c7_e08b_2a54, 0x4be2_975d_13fa_c06e];

/// The endings of files in which a store keeps what it acknowledges and without which it can start.
const LOSABLE: [&str; 4] = [".incr.aof", ".db", ".db-wal", ".log"];

/// A disk and a clock.
pub struct Machine {
    folder: TempDir,
    control: File,
    lies: bool,
}

/// What was lost in a power cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PowerCutLoss {
    /// Writes that were not synced when it came.
    pub unsynced: usize,
    /// Bytes by which files got shorter.
    pub bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct JournaledFile {
    device: u64,
    inode: u64,
    born_ns: u64,
}

/// A change that was not synced, with the bytes before it.
struct UnsyncedChange {
    at: usize,
    length_before: usize,
    old: Vec<u8>,
    /// The bytes that were written. `None` if the length of the file was set, to `at`.
    new: Option<Vec<u8>>,
}

/// The changes of a file that may be lost.
#[derive(Default)]
struct UnsyncedWrites {
    changes: Vec<UnsyncedChange>,
    /// For each sync that has not ended, by thread: how many changes there were when it began.
    syncing: HashMap<usize, usize>,
}

impl Machine {
    /// A machine without faults.
    ///
    /// # Panics
    /// Its files cannot be made.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let control = File::create_new(folder.path().join("control")).expect("the control page can be made");
        control.set_len(PAGE_BYTES).expect("the control page has its length");
        File::create_new(folder.path().join("journal")).expect("the journal can be made");
        Self { folder, control, lies: false }
    }

    /// The same with a disk that confirms the syncs of logs and databases without carrying them out.
    #[must_use]
    pub fn lying(mut self) -> Self {
        self.lies = true;
        self
    }

    /// The environment for a process on this machine with its files below `disk`.
    ///
    /// # Panics
    /// The library was not built.
    pub fn variables(&self, disk: &Path) -> Vec<(String, String)> {
        let library = layout::profile_dir().join("libeventstream_machine.so");
        assert!(library.is_file(), "there is no {}: run `cargo build --workspace`", library.display());
        let disk = disk.canonicalize().expect("the disk is a directory");
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        [
            ("LD_PRELOAD", library),
            ("MACHINE_CONTROL", self.folder.path().join("control")),
            ("MACHINE_JOURNAL", self.folder.path().join("journal")),
            ("MACHINE_DISK", disk),
        ]
        .map(|(name, path)| (name.to_owned(), text(path)))
        .to_vec()
    }

    /// Fills the disk, so that no file can grow, or frees it again.
    pub fn fill_disk(&self, is_full: bool) {
        self.set(DISK_IS_FULL, i64::from(is_full));
    }

    /// Whether the disk is full.
    pub fn disk_is_full(&self) -> bool {
        let mut number = [0; 8];
        self.control.read_exact_at(&mut number, DISK_IS_FULL).expect("the control page can be read");
        number != [0; 8]
    }

    /// Moves the wall clock this far ahead of the right time.
    pub fn move_clock(&self, ahead: Duration) {
        self.set(CLOCK_OFFSET_NS, i64::try_from(ahead.as_nanos()).expect("not longer than centuries"));
    }

    fn set(&self, at: u64, number: i64) {
        self.control.write_all_at(&number.to_ne_bytes(), at).expect("the control page can be written");
    }

    /// Changes the files below `disk` to what a power cut would have left. Everything that was synced stays. Of the rest,
    /// each overwritten sector may or may not be new, and appended data is there up to some length. No process may have the
    /// files open.
    ///
    /// # Panics
    /// The files or the journal cannot be read or written.
    pub fn cut_power(&self, disk: &Path, rng: &mut Rng) -> PowerCutLoss {
        let path = self.folder.path().join("journal");
        let journal = fs::read(&path).expect("the journal can be read");
        let (mut unsynced, mut never_synced) = (pending(&journal, false), pending(&journal, true));
        let mut lost = PowerCutLoss::default();
        each_file(disk, &mut |file| {
            // The index of a log is shared memory, which SQLite builds again after a cut.
            if file.extension().is_some_and(|extension| extension == "db-shm") {
                fs::remove_file(file).expect("the index can be removed");
                return;
            }
            let is_lost = self.lies && LOSABLE.iter().any(|end| file.to_string_lossy().ends_with(end));
            let from = if is_lost { &mut never_synced } else { &mut unsynced };
            let UnsyncedWrites { changes, .. } = from.remove(&id_of(file)).unwrap_or_default();
            if !changes.is_empty() {
                let before = fs::read(file).expect("a file of the store can be read");
                let after = image(before.clone(), &changes, is_lost, rng);
                lost.unsynced += changes.len();
                lost.bytes += before.len().saturating_sub(after.len()) as u64;
                fs::write(file, after).expect("a file of the store can be written");
            }
        });
        File::options().write(true).open(&path).and_then(|file| file.set_len(0)).expect("the journal can be emptied");
        lost
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

fn each_file(folder: &Path, then: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).expect("the disk can be read").flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => each_file(&entry.path(), then),
            Ok(kind) if kind.is_file() => then(&entry.path()),
            _ => {}
        }
    }
}

fn id_of(file: &Path) -> JournaledFile {
    let born = statx(CWD, file, AtFlags::empty(), StatxFlags::BTIME).expect("a file can be looked at").stx_btime;
    let metadata = fs::metadata(file).expect("a file can be looked at");
    let born_ns = born.tv_sec.cast_unsigned() * 1_000_000_000 + u64::from(born.tv_nsec);
    JournaledFile { device: metadata.st_dev(), inode: metadata.st_ino(), born_ns }
}

/// A record of the journal.
struct Entry<'a> {
    /// Kind, device, inode, time of birth, offset or thread, length before.
    numbers: [u64; 6],
    old: &'a [u8],
    new: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The record at the beginning and the bytes after it. `None` if it is not complete.
    fn first(journal: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, rest) = journal.split_first_chunk::<72>()?;
        let [begins, numbers @ .., old_bytes, new_bytes] = number_list::<9>(head);
        let (old, rest) = rest.split_at_checked(usize::try_from(old_bytes).ok()?)?;
        let (new, rest) = rest.split_at_checked(usize::try_from(new_bytes).ok()?)?;
        let (end, rest) = rest.split_first_chunk::<8>()?;
        ([begins, u64::from_le_bytes(*end)] == MARKS).then_some((Self { numbers, old, new }, rest))
    }
}

fn number_list<const N: usize>(bytes: &[u8]) -> [u64; N] {
    std::array::from_fn(|n| u64::from_le_bytes(std::array::from_fn(|byte| bytes[n * 8 + byte])))
}

/// The records of a journal. A partial record, whose process was killed meanwhile, is skipped.
fn entries(mut journal: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    std::iter::from_fn(move || {
        loop {
            if let Some((entry, rest)) = Entry::first(journal) {
                journal = rest;
                return Some(entry);
            }
            let mark = MARKS[0].to_le_bytes();
            let next = journal.get(1..)?.windows(mark.len()).position(|bytes| bytes == mark)?;
            journal = &journal[1 + next..];
        }
    })
}

/// The changes of each file that were not synced, from the journal.
fn pending(journal: &[u8], nothing_is_synced: bool) -> HashMap<JournaledFile, UnsyncedWrites> {
    let mut files: HashMap<JournaledFile, UnsyncedWrites> = HashMap::new();
    for Entry { numbers, old, new } in entries(journal) {
        let [kind, device, inode, born_ns, ..] = numbers;
        let size = |n: usize| usize::try_from(numbers[n]).expect("files fit into memory");
        let file = files.entry(JournaledFile { device, inode, born_ns }).or_default();
        let change = |new: Option<&[u8]>| UnsyncedChange {
            at: size(4),
            length_before: size(5),
            old: old.to_owned(),
            new: new.map(<[u8]>::to_owned),
        };
        match kind {
            1 => file.changes.push(change(Some(new))),
            2 => file.changes.push(change(None)),
            // An earlier sync of this thread number that did not end had no effect.
            3 => _ = file.syncing.insert(size(4), file.changes.len()),
            4 if !nothing_is_synced => {
                let synced = file.syncing.remove(&size(4)).unwrap_or(0);
                file.changes.drain(..synced);
                file.syncing.values_mut().for_each(|begun| *begun = begun.saturating_sub(synced));
            }
            _ => {}
        }
    }
    files
}

/// The content of a file after a cut: all changes undone, then a random part of them done again.
fn image(mut bytes: Vec<u8>, changes: &[UnsyncedChange], none: bool, rng: &mut Rng) -> Vec<u8> {
    for change in changes.iter().rev() {
        let end = change.at + change.old.len();
        bytes.resize(change.length_before.max(end), 0);
        bytes[change.at..end].copy_from_slice(&change.old);
        bytes.truncate(change.length_before);
    }
    if none {
        return bytes;
    }
    let synced = bytes.len();
    for change in changes {
        let Some(new) = &change.new else {
            if rng.bool() {
                bytes.truncate(change.at);
            }
            continue;
        };
        bytes.resize(bytes.len().max(change.at + new.len()), 0);
        let mut at = change.at;
        for sector in new.chunks(SECTOR_BYTES) {
            // A file that grows gets its data before its length.
            if at >= synced || rng.bool() {
                bytes[at..at + sector.len()].copy_from_slice(sector);
            }
            at += sector.len();
        }
    }
    let length = if bytes.len() > synced { rng.usize(synced..=bytes.len()) } else { bytes.len() };
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Runs a shell command on a machine, in the directory of its disk.
    fn shell(machine: &Machine, disk: &Path, script: &str) -> bool {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(disk).envs(machine.variables(disk)).stderr(Stdio::null());
        command.status().unwrap().success()
    }

    #[test]
    fn a_power_cut_takes_what_was_not_synced_and_nothing_else() {
        let (disk, mut rng) = (tempfile::tempdir().unwrap(), Rng::with_seed(7));
        let file = disk.path().join("a.log");
        let mut lost_something = false;
        for _ in 0..20 {
            let machine = Machine::new();
            fs::write(&file, b"").unwrap();
            assert!(shell(&machine, disk.path(), "echo first >> a.log; sync -d a.log; echo second >> a.log"));
            machine.cut_power(disk.path(), &mut rng);
            let left = fs::read_to_string(&file).unwrap();
            assert!("first\nsecond\n".starts_with(&left) && left.starts_with("first\n"), "{left:?} is left");
            lost_something |= left.len() < 13;
        }
        assert!(lost_something);
        let machine = Machine::new().lying();
        fs::write(&file, b"").unwrap();
        assert!(shell(&machine, disk.path(), "echo first >> a.log; sync -d a.log"));
        machine.cut_power(disk.path(), &mut rng);
        assert_eq!(fs::read(&file).unwrap(), b"");
    }

    fn record(kind: u64, thread: u64, new: &[u8]) -> Vec<u8> {
        let [begins, ends] = MARKS;
        let head = [begins, kind, 1, 1, 1, thread, 0, 0, new.len() as u64];
        let head: Vec<u8> = head.iter().flat_map(|number| number.to_le_bytes()).collect();
        [&head[..], new, &ends.to_le_bytes()].concat()
    }

    #[test]
    fn a_record_that_its_process_did_not_live_to_finish_spoils_none_of_the_next() {
        let cut = record(1, 2, &[7; 4_096]);
        for left in [1, 8, 40, 72, 100, cut.len() - 1] {
            let next = [record(1, 3, b"b"), record(3, 7, b""), record(4, 7, b""), record(1, 4, b"c")];
            let journal = [&record(1, 0, b"a")[..], &cut[..left], &next.concat()].concat();
            let files = pending(&journal, false);
            let at: Vec<usize> = files.values().flat_map(|file| &file.changes).map(|change| change.at).collect();
            assert_eq!(at, [4], "{left} bytes of the record");
            assert_eq!(entries(&[&next.concat()[..], &cut[..left]].concat()).count(), 4);
        }
    }

    #[test]
    fn a_sync_that_its_process_did_not_live_to_see_takes_nothing_from_the_next() {
        let journal = [record(1, 0, b"a"), record(3, 7, b""), record(1, 1, b"b"), record(3, 8, b""), record(4, 8, b"")];
        let left: usize = pending(&journal.concat(), false).values().map(|file| file.changes.len()).sum();
        assert_eq!(left, 0, "both writes were there when the second sync began");
        let journal = [record(3, 7, b""), record(1, 0, b"a"), record(4, 7, b"")];
        let left: usize = pending(&journal.concat(), false).values().map(|file| file.changes.len()).sum();
        assert_eq!(left, 1, "what is written while a sync is under way is not synced by it");
    }

    #[test]
    fn on_a_full_disk_nothing_grows() {
        let (disk, machine) = (tempfile::tempdir().unwrap(), Machine::new());
        machine.fill_disk(true);
        assert!(machine.disk_is_full());
        assert!(!shell(&machine, disk.path(), "echo first > a.log"));
        machine.fill_disk(false);
        assert!(shell(&machine, disk.path(), "echo first > a.log"));
        assert_eq!(fs::read(disk.path().join("a.log")).unwrap(), b"first\n");
    }

    #[test]
    fn the_clock_of_the_day_can_be_moved() {
        let (disk, machine) = (tempfile::tempdir().unwrap(), Machine::new());
        machine.move_clock(Duration::from_secs(1_000_000));
        let date = || {
            let mut command = Command::new("date");
            let output = command.arg("+%s").envs(machine.variables(disk.path())).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap()
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(date() >= now + 1_000_000);
        machine.move_clock(Duration::ZERO);
        assert!(date() < now + 500_000);
    }
}
