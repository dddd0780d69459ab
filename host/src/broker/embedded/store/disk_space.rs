//! Disk space: the reserve for accepted events, and the share of each plugin.
//!
//! Handling an event takes room too. So the store refuses new events while some room is left, and accepted events can
//! still be handled.

use std::path::Path;

use super::connection::PAGE_BYTES;

/// The free space that is reserved for settles, retries and their log.
const RESERVE_BYTES: u64 = 32 * 1024 * 1024;
/// On a small disk the reserve is a tenth of it.
const RESERVE_SHARE: u64 = 10;
/// One plugin may use an eighth of the disk.
const PLUGIN_SHARE: u64 = 8;

/// Why new events must be refused, if so. `log_pages` are the pages that only the log holds: the database needs room
/// for them as well. A file system that does not report its free space counts as having enough.
pub(in crate::broker::embedded) fn shortage(directory: &Path, log_pages: i64) -> Option<String> {
    let disk = rustix::fs::statvfs(directory).ok()?;
    let total = disk.f_blocks.saturating_mul(disk.f_frsize);
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let log = log_pages.unsigned_abs().saturating_mul(PAGE_BYTES);
    let reserve = reserve(total).saturating_add(log);
    (free < reserve).then(|| format!("{free} bytes are free on its disk, and {reserve} are kept for what was accepted"))
}

/// The most bytes for the state of one plugin, and the most for its waiting events. So several plugins at their limits
/// leave room for the others. `None` if the file system does not report its size.
pub(in crate::broker::embedded) fn plugin_share_bytes(directory: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(directory).ok()?;
    Some(disk.f_blocks.saturating_mul(disk.f_frsize) / PLUGIN_SHARE).filter(|room_bytes| *room_bytes > 0)
}

fn reserve(total: u64) -> u64 {
    RESERVE_BYTES.min(total / RESERVE_SHARE)
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
