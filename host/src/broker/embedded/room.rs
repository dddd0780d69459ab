//! How much room the disk has left, and how much of it is kept for what was accepted.
//!
//! Ending an event takes room too. So accepting stops while there is still some, and what waits can be worked off.

use std::path::Path;

use super::schema::PAGE_BYTES;

/// So much is kept free for settles, retries and their log.
const RESERVE_BYTES: u64 = 32 * 1024 * 1024;
/// On a small disk: one part in so many of it.
const RESERVE_PART: u64 = 10;
/// The share of one plugin: one part in so many of the disk.
const SHARE_PART: u64 = 8;

/// Why nothing new may be taken in, if so. What only the log has, so many pages, must fit into the database besides, or it
/// could never be begun anew. A file system that does not say is taken to have room.
pub(super) fn shortage(directory: &Path, log_pages: i64) -> Option<String> {
    let disk = rustix::fs::statvfs(directory).ok()?;
    let total = disk.f_blocks.saturating_mul(disk.f_frsize);
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let log = log_pages.unsigned_abs().saturating_mul(PAGE_BYTES);
    let reserve = reserve(total).saturating_add(log);
    (free < reserve).then(|| format!("{free} bytes are free on its disk, and {reserve} are kept for what was accepted"))
}

/// The most that the state of one plugin may take, and as much again its events that wait, so that several plugins that take
/// what they may leave room for the others; `None` for a file system that does not say how large it is.
pub(super) fn share(directory: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(directory).ok()?;
    Some(disk.f_blocks.saturating_mul(disk.f_frsize) / SHARE_PART).filter(|room_bytes| *room_bytes > 0)
}

fn reserve(total: u64) -> u64 {
    RESERVE_BYTES.min(total / RESERVE_PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_disk_keeps_a_fixed_reserve_and_a_small_one_its_part() {
        assert_eq!(reserve(1 << 40), RESERVE_BYTES);
        assert_eq!(reserve(10 << 20), 1 << 20);
        // A file system that counts no blocks has no limit.
        assert_eq!(reserve(0), 0);
    }
}
