//! The journal: what a process wrote to the disk and what it synced, in the order in which the calls began.
//!
//! A record is a mark, a head, the bytes before, the bytes after, and another mark. The head has eight little-endian
//! numbers:
//!
//! - kind, device, inode, time of birth in ns
//! - offset (of a sync, its thread), length of the file before
//! - number of bytes before, number of bytes after
//!
//! One call appends a record, before the write itself: undoing a write that never
//! happened changes nothing. A process that is killed in that call leaves a partial record, and the next process appends
//! after it. The marks tell the two apart.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use libc::off_t;

/// The number of the control page that says whether the disk is full.
pub const DISK_IS_FULL: usize = 0;
/// The number of the control page that moves the clock.
pub const CLOCK_OFFSET_NS: usize = 1;
/// The marks at the beginning and at the end of a record: random numbers, so that no file contains them.
const MARKS: [u64; 2] = [0x9d3f_61c7_e08b_2a54, 0x4be2_975d_13fa_c06e];
/// The size of the control page.
const PAGE_BYTES: usize = 4_096;

static BENEATH: OnceLock<Option<MachineJournal>> = OnceLock::new();

/// What the harness prepared for this process.
pub struct MachineJournal {
    page: usize,
    journal: c_int,
    disk: &'static [u8],
}

/// A file, whatever its name. The time of birth is a part of it, since inode numbers are used again.
#[derive(Clone, Copy)]
pub struct FileId {
    device: u64,
    inode: u64,
    born_ns: u64,
}

/// A file on the disk, as it is now.
pub struct File {
    /// Which file it is.
    pub id: FileId,
    /// Its length in bytes.
    pub length: off_t,
}

/// The kind of a record.
#[derive(Clone, Copy)]
pub enum RecordKind {
    /// Bytes are written.
    Write = 1,
    /// The file gets another length, which stands in the place of the offset.
    Truncate = 2,
    /// A sync begins.
    SyncBegins = 3,
    /// The sync of this thread ended.
    SyncEnds = 4,
}

impl MachineJournal {
    /// What the harness prepared, if it did.
    pub fn get() -> Option<&'static Self> {
        BENEATH.get_or_init(Self::open).as_ref()
    }

    fn open() -> Option<Self> {
        let control = super::variable(c"MACHINE_CONTROL")?;
        let journal = super::variable(c"MACHINE_JOURNAL")?;
        let disk = super::variable(c"MACHINE_DISK")?;
        let flags = libc::O_RDWR | libc::O_CLOEXEC;
        // SAFETY: the names end with a zero byte, and the page is as long as the harness made the file.
        unsafe {
            let fd = libc::open(control.as_ptr(), flags);
            let protection = libc::PROT_READ;
            let page = libc::mmap(std::ptr::null_mut(), PAGE_BYTES, protection, libc::MAP_SHARED, fd, 0);
            libc::close(fd);
            let journal = libc::open(journal.as_ptr(), flags | libc::O_APPEND);
            let is_there = page != libc::MAP_FAILED && journal >= 0;
            is_there.then(|| Self { page: page as usize, journal, disk: disk.to_bytes() })
        }
    }

    /// A number of the control page.
    pub fn control(&self, n: usize) -> i64 {
        super::atomic(self.page, n).load(Ordering::Relaxed)
    }

    /// Whether files may not grow.
    pub fn is_full(&self) -> bool {
        self.control(DISK_IS_FULL) != 0
    }

    /// The file behind a descriptor, if it lies on the disk.
    pub fn file(&self, fd: c_int) -> Option<File> {
        // SAFETY: zeros are a valid value of the structure, and the call fills it.
        let stat = unsafe {
            let mut stat: libc::statx = std::mem::zeroed();
            let wanted = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
            let done = libc::statx(fd, c"".as_ptr(), libc::AT_EMPTY_PATH, wanted, &raw mut stat);
            (done == 0).then_some(stat)?
        };
        if u32::from(stat.stx_mode) & libc::S_IFMT != libc::S_IFREG || !self.is_below(fd) {
            return None;
        }
        let born_ns = stat.stx_btime.tv_sec as u64 * 1_000_000_000 + u64::from(stat.stx_btime.tv_nsec);
        let device = libc::makedev(stat.stx_dev_major, stat.stx_dev_minor);
        Some(File { id: FileId { device, inode: stat.stx_ino, born_ns }, length: stat.stx_size as off_t })
    }

    fn is_below(&self, fd: c_int) -> bool {
        let link = format!("/proc/self/fd/{fd}\0");
        let mut path = [0_u8; 4_096];
        // SAFETY: the name ends with a zero byte, and the place is as large as is said.
        let size = unsafe { libc::readlink(link.as_ptr().cast(), path.as_mut_ptr().cast(), path.len()) };
        let path = path.get(..usize::try_from(size).unwrap_or(0)).unwrap_or_default();
        path.strip_prefix(self.disk).is_some_and(|rest| rest.starts_with(b"/"))
    }

    /// Appends a record.
    pub fn note(&self, kind: RecordKind, id: FileId, at: off_t, length: off_t, old: &[u8], new: &[u8]) {
        let (at, length) = (at as u64, length as u64);
        let [begins, ends] = MARKS;
        let head =
            [begins, kind as u64, id.device, id.inode, id.born_ns, at, length, old.len() as u64, new.len() as u64];
        let mut record = Vec::with_capacity(size_of_val(&head) + old.len() + new.len() + size_of_val(&ends));
        record.extend(head.iter().flat_map(|number| number.to_le_bytes()));
        record.extend_from_slice(old);
        record.extend_from_slice(new);
        record.extend(ends.to_le_bytes());
        // SAFETY: the bytes are there; the call goes to the kernel and not to the function that is replaced.
        unsafe { libc::syscall(libc::SYS_write, self.journal, record.as_ptr().cast::<c_void>(), record.len()) };
    }
}

impl File {
    /// Where a plain write goes.
    pub fn position(&self, fd: c_int) -> off_t {
        // SAFETY: both calls only look.
        unsafe {
            let appends = libc::fcntl(fd, libc::F_GETFL) & libc::O_APPEND != 0;
            if appends { self.length } else { libc::lseek(fd, 0, libc::SEEK_CUR).max(0) }
        }
    }

    /// The bytes in a range, as many as there are.
    pub fn read(&self, fd: c_int, at: off_t, size: usize) -> Vec<u8> {
        let there = usize::try_from(self.length - at).unwrap_or(0).min(size);
        let mut bytes = vec![0; there];
        // SAFETY: the name ends with a zero byte, and the place is as large as is said.
        unsafe {
            let place = bytes.as_mut_ptr().cast();
            if libc::pread(fd, place, there, at) < 0 {
                // The descriptor is open for writing only. Otherwise no second one is opened, since closing one releases all
                // locks of the process on the file.
                let link = format!("/proc/self/fd/{fd}\0");
                let readable = libc::open(link.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC);
                libc::pread(readable, place, there, at);
                libc::close(readable);
            }
        }
        bytes
    }
}
