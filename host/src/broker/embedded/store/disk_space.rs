//! Disk space: the reserve for accepted events, and the share of each plugin.
//!
//! Handling an event takes room too. So the store refuses new events while some room is left, and accepted events can
//! still be handled.

use std::path::Path;

use rusqlite::Connection;

use super::connection::PAGE_BYTES;

/// The room that the store holds in the file of its reserve, see [`super::room_reserve`], and the space that must be free
/// beside it before events are accepted.
const RESERVED_BYTES: u64 = 16 * 1024 * 1024;
const FREE_BYTES: u64 = 16 * 1024 * 1024;
/// On a small disk they are a tenth and a twentieth of it.
const RESERVED_SHARE: u64 = 10;
const FREE_SHARE: u64 = 20;
/// One plugin may use an eighth of the disk.
const PLUGIN_SHARE: u64 = 8;

/// What a disk has, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiskRoom {
    total: u64,
    pub(super) free: u64,
}

/// What a database needs and has within its file, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct DatabaseRoom {
    /// By how much the file grows when the log is moved into it.
    growth: u64,
    /// What is free within the file.
    spare: u64,
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

    /// Whether there may be a shortage. `log` is what only the log has: the most by which the database grows.
    pub(super) fn may_be_short(self, reserved: u64, log: u64) -> bool {
        self.shortage(reserved, DatabaseRoom { growth: log, spare: 0 }).is_some()
    }

    fn reserve(self) -> u64 {
        whole_reserve(self.total) + FREE_BYTES.min(self.total / FREE_SHARE)
    }

    /// Why new events must be refused, if so. `reserved` is what the file of the reserve holds.
    pub(super) fn shortage(self, reserved: u64, DatabaseRoom { growth, spare }: DatabaseRoom) -> Option<String> {
        let reserve = self.reserve();
        let (kept, free) = (reserve.saturating_add(growth), self.free);
        // The log needs room on the disk, so what the database has counts for half of the reserve at most.
        (free.saturating_add(reserved).saturating_add(spare.min(reserve / 2)) < kept).then(|| {
            format!(
                "{free} bytes are free on its disk and {reserved} in its reserve, and {kept} are kept for what was accepted: free \
                 some of the disk, or discard failed events"
            )
        })
    }
}

/// What a database needs and has within its file.
pub(super) fn database_room(db: &Connection, path: &Path) -> rusqlite::Result<DatabaseRoom> {
    let pages_bytes = |name: &str| {
        let pages: u32 = db.pragma_query_value(None, name, |row| row.get(0))?;
        Ok::<_, rusqlite::Error>(u64::from(pages) * PAGE_BYTES)
    };
    let file_bytes = std::fs::metadata(path).map_or(0, |file| file.len());
    let growth = pages_bytes("page_count")?.saturating_sub(file_bytes);
    Ok(DatabaseRoom { growth, spare: pages_bytes("freelist_count")? })
}

/// How large the file of the reserve is when nothing of it was used. 0 if the file system does not report its size.
pub(super) fn whole_reserve_bytes(directory: &Path) -> u64 {
    DiskRoom::of(directory).map_or(0, |disk| whole_reserve(disk.total))
}

/// The most bytes for the state of one plugin, and the most for its waiting events. So several plugins at their limits
/// leave room for the others. `None` if the file system does not report its size.
pub(in crate::broker::embedded) fn plugin_share_bytes(directory: &Path) -> Option<u64> {
    Some(DiskRoom::of(directory)?.total / PLUGIN_SHARE).filter(|room_bytes| *room_bytes > 0)
}

fn whole_reserve(total: u64) -> u64 {
    RESERVED_BYTES.min(total / RESERVED_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_disk_keeps_a_fixed_reserve_and_a_small_one_its_part() {
        let free = |total, free, reserved| !DiskRoom { total, free }.may_be_short(reserved, 0);
        const MIB: u64 = 1 << 20;
        assert!(free(1 << 40, 32 * MIB, 0) && !free(1 << 40, 32 * MIB - 1, 0));
        assert!(free(1 << 40, 16 * MIB, 16 * MIB), "what the file holds counts");
        assert!(free(40 * MIB, 6 * MIB, 0) && !free(40 * MIB, 6 * MIB - 1, 0));
        // A file system that counts no blocks has no limit.
        assert!(free(0, 0, 0));
        let room = |free| DiskRoom { total: 1 << 40, free };
        assert!(room(32 * MIB).may_be_short(0, 1), "the log needs room too");
        let spare = |spare| DatabaseRoom { growth: 0, spare };
        assert!(room(20 * MIB).shortage(0, spare(12 * MIB)).is_none(), "the database has room itself");
        assert!(room(15 * MIB).shortage(0, spare(99 * MIB)).is_some(), "the log cannot use that");
    }
}
