//! Disk space: the reserve for accepted events, and the share of each plugin.
//!
//! Handling an event takes room too. So the store refuses new events while some room is left, and accepted events can
//! still be handled.

use std::path::Path;

/// The room that the store holds in the file of its reserve, see [`super::room_reserve`], and the space that must be free
/// beside it before events are accepted.
const HELD_BYTES: u64 = 16 * 1024 * 1024;
const FREE_BYTES: u64 = 16 * 1024 * 1024;
/// On a small disk they are a tenth and a twentieth of it.
const HELD_SHARE: u64 = 10;
const FREE_SHARE: u64 = 20;
/// One plugin may use an eighth of the disk.
const PLUGIN_SHARE: u64 = 8;

/// What a disk has, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiskRoom {
    total: u64,
    pub(super) free: u64,
}

impl DiskRoom {
    /// The room of the disk beneath a directory; `None` if the file system does not report it.
    pub(super) fn of(directory: &Path) -> Option<Self> {
        let disk = rustix::fs::statvfs(directory).ok()?;
        Some(Self {
            total: disk.f_blocks.saturating_mul(disk.f_frsize),
            free: disk.f_bavail.saturating_mul(disk.f_frsize),
        })
    }

    /// Why new events must be refused, if so. `held` is what the file of the reserve holds, and `growth` what the database
    /// grows by when the log is moved into it. `spare` is free within the database. It counts for half of the reserve at
    /// most, as the log needs room on the disk.
    pub(super) fn shortage(self, held: u64, growth: u64, spare: u64) -> Option<String> {
        let reserve = held_reserve(self.total) + FREE_BYTES.min(self.total / FREE_SHARE);
        let (kept, free) = (reserve.saturating_add(growth), self.free);
        (free.saturating_add(held).saturating_add(spare.min(reserve / 2)) < kept).then(|| {
            format!(
                "{free} bytes are free on its disk and {held} in its reserve, and {kept} are kept for what was accepted: free \
                 some of the disk, or discard failed events"
            )
        })
    }
}

/// How large the file of the reserve is when nothing of it was used. 0 if the file system does not report its size.
pub(super) fn held_reserve_bytes(directory: &Path) -> u64 {
    DiskRoom::of(directory).map_or(0, |disk| held_reserve(disk.total))
}

/// The most bytes for the state of one plugin, and the most for its waiting events. So several plugins at their limits
/// leave room for the others. `None` if the file system does not report its size.
pub(in crate::broker::embedded) fn plugin_share_bytes(directory: &Path) -> Option<u64> {
    Some(DiskRoom::of(directory)?.total / PLUGIN_SHARE).filter(|room_bytes| *room_bytes > 0)
}

fn held_reserve(total: u64) -> u64 {
    HELD_BYTES.min(total / HELD_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_disk_keeps_a_fixed_reserve_and_a_small_one_its_part() {
        let free = |total, free, held| DiskRoom { total, free }.shortage(held, 0, 0).is_none();
        const MIB: u64 = 1 << 20;
        assert!(free(1 << 40, 32 * MIB, 0) && !free(1 << 40, 32 * MIB - 1, 0));
        assert!(free(1 << 40, 16 * MIB, 16 * MIB), "what the file holds counts");
        assert!(free(40 * MIB, 6 * MIB, 0) && !free(40 * MIB, 6 * MIB - 1, 0));
        // A file system that counts no blocks has no limit.
        assert!(free(0, 0, 0));
        let room = |free| DiskRoom { total: 1 << 40, free };
        assert!(room(32 * MIB).shortage(0, 1, 0).is_some(), "the log needs room too");
        assert!(room(20 * MIB).shortage(0, 0, 12 * MIB).is_none(), "the database has room itself");
        assert!(room(15 * MIB).shortage(0, 0, 99 * MIB).is_some(), "the log cannot use that");
    }
}
