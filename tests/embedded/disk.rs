//! A disk beneath SQLite that can lose what was not synced, refuse to sync, and be full.
//!
//! SQLite reaches files through a table of functions, its VFS. This module puts a VFS of its own in front for the whole
//! process. For files below the directories that tests name, it replaces write, truncate and sync. It remembers what was
//! written since the last sync. From that it can write an image of what a power cut would leave: all that was synced, and
//! any part of the rest. Shared memory is left alone, since SQLite builds it again after a cut.
#![expect(unsafe_code, reason = "SQLite calls the disk through C functions")]

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_int, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_filename, sqlite3_io_methods, sqlite3_vfs};

/// The files of one directory.
pub struct Disk(PathBuf);

/// What SQLite did to the disks. Process-wide, as SQLite's table is.
static STATE: Mutex<State> = Mutex::new(State { disks: BTreeMap::new(), files: None });
/// SQLite's own table, which does the work.
static REAL: OnceLock<SqliteVfs> = OnceLock::new();

struct State {
    disks: BTreeMap<PathBuf, Contents>,
    /// Open files, by the address that SQLite gave them.
    files: Option<HashMap<usize, Open>>,
}

#[derive(Default)]
struct Contents {
    files: BTreeMap<PathBuf, Content>,
    syncs: u64,
    syncs_fail: bool,
    /// Bytes by which files may still grow.
    room: Option<u64>,
}

/// What is on the disk for certain, and what may be.
#[derive(Default)]
struct Content {
    synced: Vec<u8>,
    since: Vec<FileChange>,
    length: u64,
}

enum FileChange {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
}

struct Open {
    path: PathBuf,
    disk: PathBuf,
    methods: &'static sqlite3_io_methods,
}

struct SqliteVfs(*mut sqlite3_vfs);

// SAFETY: SQLite's table lives as long as the process and is never written to.
unsafe impl Send for SqliteVfs {}
// SAFETY: as above.
unsafe impl Sync for SqliteVfs {}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    /// Watches the files of a directory from now on. No database may be open in it.
    pub fn under(dir: &Path) -> Self {
        REAL.get_or_init(install);
        let dir = dir.canonicalize().unwrap();
        state().disks.insert(dir.clone(), Contents::default());
        Self(dir)
    }

    /// Whether syncs fail from now on, as on a disk that reports errors.
    pub fn fail_syncs(&self, fail: bool) {
        self.with(|contents| contents.syncs_fail = fail);
    }

    /// By how many bytes files may grow from now on; `None` for no limit.
    pub fn limit_room(&self, bytes: Option<u64>) {
        self.with(|contents| contents.room = bytes);
    }

    /// How often something was synced.
    pub fn syncs(&self) -> u64 {
        self.with(|contents| contents.syncs)
    }

    /// Writes what a power cut at this moment could leave to a directory.
    pub fn cut_power(&self, random: &mut fastrand::Rng, to: &Path) {
        fs::create_dir_all(to).unwrap();
        self.with(|contents| {
            for (path, content) in &contents.files {
                fs::write(to.join(path.file_name().unwrap()), content.after_cut(random)).unwrap();
            }
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut Contents) -> T) -> T {
        act(state().disks.get_mut(&self.0).unwrap())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        state().disks.remove(&self.0);
    }
}

impl Content {
    fn after_cut(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut left = self.synced.clone();
        // Nothing of it, all of it, or any part: the first two are the likeliest on real disks.
        let some = random.f64();
        let kept = [0.0, 1.0, some][random.usize(..3)];
        for change in &self.since {
            if random.f64() < kept {
                change.apply(&mut left, if random.u8(..8) == 0 { random.usize(..8) * 512 } else { usize::MAX });
            }
        }
        left
    }
}

impl FileChange {
    /// Does it, a write with its first bytes only.
    fn apply(&self, to: &mut Vec<u8>, most: usize) {
        match self {
            Self::Truncate(length) => to.resize((*length).min(to.len()), 0),
            Self::Write { at, bytes } => {
                let bytes = &bytes[..bytes.len().min(most)];
                if to.len() < at + bytes.len() {
                    to.resize(at + bytes.len(), 0);
                }
                to[*at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
    }
}

/// Puts a copy of SQLite's table in front that opens files through us.
fn install() -> SqliteVfs {
    // SAFETY: the default table exists for as long as the process; the copy is leaked, so that it does as well.
    unsafe {
        ffi::sqlite3_initialize();
        let real = ffi::sqlite3_vfs_find(std::ptr::null());
        let mut table = *real;
        table.zName = c"faulty".as_ptr();
        table.xOpen = Some(open);
        table.xDelete = Some(delete);
        let table = Box::leak(Box::new(table));
        assert_eq!(ffi::sqlite3_vfs_register(table, 1), ffi::SQLITE_OK);
        SqliteVfs(real)
    }
}

fn real() -> *mut sqlite3_vfs {
    REAL.get().unwrap().0
}

fn path_of(name: &CStr) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: sqlite3_filename,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's arguments are handed on as they came. A file that was opened has a table of its own functions,
    // of which it gets a copy with ours in it; SQLite only ever reads it.
    unsafe {
        let opened = ((*real()).xOpen.unwrap())(real(), name, file, flags, out);
        if opened != ffi::SQLITE_OK || name.is_null() {
            return opened;
        }
        let path = path_of(CStr::from_ptr(name));
        let mut state = state();
        let Some(disk) = path.parent().filter(|dir| state.disks.contains_key(*dir)).map(Path::to_owned) else {
            return opened;
        };
        let length = fs::metadata(&path).map_or(0, |file| file.len());
        let contents = state.disks.get_mut(&disk).unwrap();
        contents.files.entry(path.clone()).or_insert_with(|| Content {
            synced: fs::read(&path).unwrap_or_default(),
            since: Vec::new(),
            length,
        });
        let methods: &'static sqlite3_io_methods = &*(*file).pMethods;
        let mut ours = *methods;
        ours.xClose = Some(close);
        ours.xWrite = Some(write);
        ours.xTruncate = Some(truncate);
        ours.xSync = Some(sync);
        // A few hundred bytes for each file that a test opens.
        (*file).pMethods = Box::leak(Box::new(ours));
        state.files.get_or_insert_default().insert(file as usize, Open { path, disk, methods });
        opened
    }
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const std::ffi::c_char, sync: c_int) -> c_int {
    // SAFETY: SQLite's arguments are handed on as they came.
    unsafe {
        let path = path_of(CStr::from_ptr(name));
        let mut held = state();
        if let Some(contents) = path.parent().and_then(|dir| held.disks.get_mut(dir)) {
            // The removal of a name is taken to be durable at once.
            contents.files.remove(&path);
        }
        ((*real()).xDelete.unwrap())(real(), name, sync)
    }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let open = state().files.get_or_insert_default().remove(&(file as usize)).unwrap();
    // SAFETY: the file was opened by the real table, whose function this is.
    unsafe { (open.methods.xClose.unwrap())(file) }
}

/// Does something to a file of a disk, unless the disk is gone; nobody else sees either while it is done.
fn on_disk(
    file: *mut sqlite3_file,
    act: impl FnOnce(&'static sqlite3_io_methods, Option<(&mut Contents, &Path)>) -> c_int,
) -> c_int {
    let mut state = state();
    let State { disks, files } = &mut *state;
    let open = &files.as_ref().unwrap()[&(file as usize)];
    act(open.methods, disks.get_mut(&open.disk).map(|contents| (contents, open.path.as_path())))
}

unsafe extern "C" fn write(file: *mut sqlite3_file, data: *const c_void, size: c_int, at: i64) -> c_int {
    on_disk(file, |methods, disk| {
        if let Some((contents, path)) = disk {
            // SAFETY: SQLite hands over `size` bytes.
            let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), usize::try_from(size).unwrap()) };
            let content = contents.files.entry(path.to_owned()).or_default();
            let end = u64::try_from(at).unwrap() + bytes.len() as u64;
            let growth = end.saturating_sub(content.length);
            if let Some(room) = &mut contents.room {
                if growth > *room {
                    return ffi::SQLITE_FULL;
                }
                *room -= growth;
            }
            content.length = content.length.max(end);
            content.since.push(FileChange::Write { at: usize::try_from(at).unwrap(), bytes: bytes.to_vec() });
        }
        // SAFETY: as for `close`.
        unsafe { (methods.xWrite.unwrap())(file, data, size, at) }
    })
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, length: i64) -> c_int {
    on_disk(file, |methods, disk| {
        if let Some((contents, path)) = disk {
            let content = contents.files.entry(path.to_owned()).or_default();
            content.length = content.length.min(u64::try_from(length).unwrap());
            content.since.push(FileChange::Truncate(usize::try_from(length).unwrap()));
        }
        // SAFETY: as for `close`.
        unsafe { (methods.xTruncate.unwrap())(file, length) }
    })
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    on_disk(file, |methods, disk| {
        if let Some((contents, path)) = disk {
            let syncs_fail = contents.syncs_fail;
            contents.syncs += u64::from(!syncs_fail);
            let content = contents.files.entry(path.to_owned()).or_default();
            if syncs_fail {
                // As Linux does: the pages can still be read, but they count as clean and no later sync writes them.
                content.since.clear();
                return ffi::SQLITE_IOERR_FSYNC;
            }
            for change in std::mem::take(&mut content.since) {
                change.apply(&mut content.synced, usize::MAX);
            }
        }
        // SAFETY: as for `close`.
        unsafe { (methods.xSync.unwrap())(file, flags) }
    })
}
