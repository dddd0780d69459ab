//! A library that stands between a process under test and the C library (`LD_PRELOAD`). It simulates a disk that loses
//! unsynced data in a power cut, a full disk, and a wrong clock.
//!
//! ```text
//!     test (tests/harness/machine.rs)              process under test (the host, redis-server)
//!       |                                            | write, pwrite64, ftruncate64,
//!       |                                            | fsync, fdatasync, clock_gettime
//!       |  sets: disk full? clock offset?            v
//!       |----> control page (shared memory) ----> [ this library ]
//!       |                                            |         |
//!       |  reads what was written and synced         |         | passes the call on
//!       |<---- journal (append only) <---------------'         v
//!       |                                                    C library
//!       |  cut_power: undoes a random part of what             |
//!       '----> was not synced -------------------------> files below MACHINE_DISK
//! ```
//!
//! A record of the journal is appended before the write that it describes, and has the bytes that the write replaces. So
//! the test can undo each write that no later sync covers. Without `MACHINE_CONTROL` in the environment every call passes
//! unchanged. Only regular files below `MACHINE_DISK` count. The library takes no lock and starts no thread, so the
//! process may fork.
#![expect(unsafe_code, reason = "functions of the C library are replaced")]

mod journal;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use libc::{clockid_t, off_t, size_t, ssize_t, time_t, timespec, timeval};

use journal::{FileId, MachineJournal, RecordKind};

/// Nanoseconds in a second.
const SECOND_NS: i64 = 1_000_000_000;

/// A function of the C library that this library replaces; looked up at its first use.
struct LibcFunction {
    name: &'static CStr,
    address: AtomicUsize,
}

impl LibcFunction {
    const fn new(name: &'static CStr) -> Self {
        Self { name, address: AtomicUsize::new(0) }
    }

    /// # Safety
    /// `F` must be the type of the function.
    unsafe fn get<F: Copy>(&self) -> F {
        let mut address = self.address.load(Ordering::Relaxed);
        if address == 0 {
            // SAFETY: the name ends with a zero byte.
            address = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) } as usize;
            self.address.store(address, Ordering::Relaxed);
        }
        // SAFETY: the caller knows the type, and the C library has all functions that are asked for.
        unsafe { std::mem::transmute_copy(&address) }
    }
}

type Write = unsafe extern "C" fn(c_int, *const c_void, size_t) -> ssize_t;
type WriteAt = unsafe extern "C" fn(c_int, *const c_void, size_t, off_t) -> ssize_t;
type Truncate = unsafe extern "C" fn(c_int, off_t) -> c_int;
type Sync = unsafe extern "C" fn(c_int) -> c_int;
type GetTime = unsafe extern "C" fn(clockid_t, *mut timespec) -> c_int;
type GetTimeOfDay = unsafe extern "C" fn(*mut timeval, *mut c_void) -> c_int;

static WRITE: LibcFunction = LibcFunction::new(c"write");
static WRITE_AT: LibcFunction = LibcFunction::new(c"pwrite64");
static TRUNCATE: LibcFunction = LibcFunction::new(c"ftruncate64");
static FSYNC: LibcFunction = LibcFunction::new(c"fsync");
static FDATASYNC: LibcFunction = LibcFunction::new(c"fdatasync");
static GET_TIME: LibcFunction = LibcFunction::new(c"clock_gettime");
static GET_TIME_OF_DAY: LibcFunction = LibcFunction::new(c"gettimeofday");

/// Records a write and carries it out, unless the disk is full and the file would grow.
fn noted(fd: c_int, bytes: *const c_void, size: size_t, at: Option<off_t>, write: impl FnOnce() -> ssize_t) -> ssize_t {
    let Some(beneath) = MachineJournal::get() else { return write() };
    let Some(file) = beneath.file(fd) else { return write() };
    let at = at.unwrap_or_else(|| file.position(fd));
    if beneath.is_full() && at + size as off_t > file.length {
        // SAFETY: every thread has an errno.
        unsafe { *libc::__errno_location() = libc::ENOSPC };
        return -1;
    }
    // SAFETY: the caller of write promises so many bytes.
    let new = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), size) };
    beneath.note(RecordKind::Write, file.id, at, file.length, &file.read(fd, at, size), new);
    write()
}

fn truncated(fd: c_int, length: off_t) -> c_int {
    if let Some(beneath) = MachineJournal::get()
        && let Some(file) = beneath.file(fd)
    {
        let cut = usize::try_from(file.length - length).unwrap_or(0);
        beneath.note(RecordKind::Truncate, file.id, length, file.length, &file.read(fd, length, cut), &[]);
    }
    // SAFETY: the arguments are those of the caller.
    unsafe { TRUNCATE.get::<Truncate>()(fd, length) }
}

/// Records the beginning of a sync, carries it out, and records its success. Everything written before the beginning is
/// on the disk then. Both records name the thread, since the process may be killed between them.
fn synced(fd: c_int, real: &LibcFunction) -> c_int {
    let noted = MachineJournal::get().and_then(|beneath| Some((beneath, beneath.file(fd)?.id)));
    // SAFETY: it only asks.
    let thread = off_t::from(unsafe { libc::gettid() });
    let note = |kind: RecordKind, (beneath, id): (&MachineJournal, FileId)| beneath.note(kind, id, thread, 0, &[], &[]);
    if let Some(noted) = noted {
        note(RecordKind::SyncBegins, noted);
    }
    // SAFETY: the argument is that of the caller.
    let done = unsafe { real.get::<Sync>()(fd) };
    if let Some(noted) = noted
        && done == 0
    {
        note(RecordKind::SyncEnds, noted);
    }
    done
}

/// Replaces the function of the C library.
///
/// # Safety
/// That of the function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, size: size_t) -> ssize_t {
    // SAFETY: the arguments are those of the caller.
    noted(fd, bytes, size, None, || unsafe { WRITE.get::<Write>()(fd, bytes, size) })
}

/// Replaces the function of the C library.
///
/// # Safety
/// That of the function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(fd: c_int, bytes: *const c_void, size: size_t, at: off_t) -> ssize_t {
    // SAFETY: the arguments are those of the caller.
    noted(fd, bytes, size, Some(at), || unsafe { WRITE_AT.get::<WriteAt>()(fd, bytes, size, at) })
}

/// Replaces the function of the C library.
///
/// # Safety
/// That of the function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, bytes: *const c_void, size: size_t, at: off_t) -> ssize_t {
    // SAFETY: the arguments are those of the caller.
    noted(fd, bytes, size, Some(at), || unsafe { WRITE_AT.get::<WriteAt>()(fd, bytes, size, at) })
}

/// Replaces the function of the C library.
#[unsafe(no_mangle)]
pub extern "C" fn ftruncate(fd: c_int, length: off_t) -> c_int {
    truncated(fd, length)
}

/// Replaces the function of the C library.
#[unsafe(no_mangle)]
pub extern "C" fn ftruncate64(fd: c_int, length: off_t) -> c_int {
    truncated(fd, length)
}

/// Replaces the function of the C library.
#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: c_int) -> c_int {
    synced(fd, &FSYNC)
}

/// Replaces the function of the C library.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    synced(fd, &FDATASYNC)
}

/// The offset of the wall clock, in nanoseconds.
fn offset_ns() -> i64 {
    MachineJournal::get().map_or(0, |beneath| beneath.control(journal::CLOCK_OFFSET_NS))
}

/// Replaces the function of the C library.
///
/// # Safety
/// That of the function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    // SAFETY: the arguments are those of the caller.
    let done = unsafe { GET_TIME.get::<GetTime>()(clock, time) };
    if done == 0 && matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE) {
        // SAFETY: the real function has written it.
        let time = unsafe { &mut *time };
        let now_ns = time.tv_sec * SECOND_NS + time.tv_nsec + offset_ns();
        (time.tv_sec, time.tv_nsec) = (now_ns.div_euclid(SECOND_NS), now_ns.rem_euclid(SECOND_NS));
    }
    done
}

/// Replaces the function of the C library.
///
/// # Safety
/// That of the function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(time: *mut timeval, zone: *mut c_void) -> c_int {
    // SAFETY: the arguments are those of the caller.
    let done = unsafe { GET_TIME_OF_DAY.get::<GetTimeOfDay>()(time, zone) };
    if done == 0 && !time.is_null() {
        // SAFETY: the real function has written it.
        let time = unsafe { &mut *time };
        let now_us = time.tv_sec * (SECOND_NS / 1_000) + time.tv_usec + offset_ns() / 1_000;
        (time.tv_sec, time.tv_usec) = (now_us.div_euclid(SECOND_NS / 1_000), now_us.rem_euclid(SECOND_NS / 1_000));
    }
    done
}

/// Replaces the function of the C library.
///
/// # Safety
/// That of the function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(to: *mut time_t) -> time_t {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it is written to.
    unsafe { clock_gettime(libc::CLOCK_REALTIME, &raw mut now) };
    if !to.is_null() {
        // SAFETY: the caller gives a place for it.
        unsafe { *to = now.tv_sec };
    }
    now.tv_sec
}

/// Reads a variable of the environment without the lock of the standard library.
fn variable(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: the name ends with a zero byte; what is found is never changed by a process under test.
    let found: *const c_char = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: the environment holds texts that end with a zero byte.
    (!found.is_null()).then(|| unsafe { CStr::from_ptr(found) })
}

/// Reads a number of the control page, which the harness may change at any time.
fn atomic(page: usize, n: usize) -> &'static AtomicI64 {
    // SAFETY: the page is mapped for as long as the process lives, is aligned and larger than all numbers in it.
    unsafe { &*((page + n * size_of::<AtomicI64>()) as *const AtomicI64) }
}
