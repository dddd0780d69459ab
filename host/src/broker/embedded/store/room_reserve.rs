//! The reserve: room on the disk that the store holds in a file, for steps that must go on when the disk is full.
//!
//! Other programs may fill the disk. Then the store makes this file smaller and uses the room: settles may use half of
//! it, and steps that make room, such as discarding, three quarters. The rest is for opening the store and for moving its
//! log. The file holds nothing. An operator may remove it; the store creates it again as soon as there is room.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use super::disk_space;
use super::private_files;

/// The file within the directory of the store.
pub(super) const RESERVE: &str = "reserve";
/// A step gets one part in so many of the file at a time.
const PARTS: u64 = 16;
/// The size of a block in the answer of the system, whatever the blocks of the file system are.
const STAT_BLOCK_BYTES: u64 = 512;

/// What a step is that finds the disk full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::broker::embedded) enum RoomUse {
    /// It brings new events. It gets nothing of the reserve.
    Accepting,
    /// It handles what was accepted. It may use half of the reserve.
    Handling,
    /// Others have more room after it. It may use three quarters of the reserve.
    Relief,
    /// Without it nothing goes on: the store is opened, or its log is moved. It may use all of the reserve.
    Opening,
}

/// The file, and how much of the disk it holds.
#[derive(Debug)]
pub(in crate::broker::embedded) struct RoomReserve {
    path: PathBuf,
    reserved_bytes: u64,
    whole_bytes: u64,
    /// A step that found the disk full is tried again. Until it ends, only what it must not use is taken back.
    giving: Option<RoomUse>,
}

impl RoomReserve {
    /// The reserve of a directory as the last owner left it.
    pub(in crate::broker::embedded) fn find(directory: &Path) -> Self {
        let path = directory.join(RESERVE);
        // A copy of the file may have its length without holding its room.
        let reserved_bytes = fs::symlink_metadata(&path)
            .ok()
            .filter(fs::Metadata::is_file)
            .map_or(0, |file| file.len().min(file.blocks().saturating_mul(STAT_BLOCK_BYTES)));
        Self { path, reserved_bytes, whole_bytes: disk_space::whole_reserve_bytes(directory), giving: None }
    }

    /// The bytes of the disk that the file holds now.
    pub(super) fn reserved_bytes(&self) -> u64 {
        self.reserved_bytes
    }

    /// Notes that a step needs room: what is free belongs to the step, as far as it may use the reserve.
    pub(super) fn begin_giving(&mut self, room_use: RoomUse) {
        self.giving = Some(room_use);
    }

    /// Notes that the step was committed or given up.
    pub(super) fn end_giving(&mut self) {
        self.giving = None;
    }

    /// How much [`Self::give`] gives.
    pub(super) fn part_bytes(&self) -> u64 {
        (self.whole_bytes / PARTS).max(1)
    }

    /// Gives a part back to the disk. False if such a step gets no more of it.
    pub(in crate::broker::embedded) fn give(&mut self, room_use: RoomUse) -> bool {
        let kept_at_least = self.kept_from(room_use);
        if self.reserved_bytes <= kept_at_least {
            return false;
        }
        let kept_bytes = self.reserved_bytes.saturating_sub(self.part_bytes()).max(kept_at_least);
        match self.resize(kept_bytes) {
            Ok(()) => {
                tracing::debug!("the disk is full: {kept_bytes} bytes of the reserve are left");
                true
            }
            Err(error) => {
                tracing::debug!("the reserve {:?} was not made smaller: {error}", self.path);
                false
            }
        }
    }

    /// The bytes that such a step must leave.
    fn kept_from(&self, room_use: RoomUse) -> u64 {
        match room_use {
            RoomUse::Accepting => self.whole_bytes,
            RoomUse::Handling => self.whole_bytes / 2,
            RoomUse::Relief => self.whole_bytes / 4,
            RoomUse::Opening => 0,
        }
    }

    /// Takes back what was given, where `free_bytes` are free on the disk. Leaves nothing free that others could take: the
    /// next step that needs room gets it from here.
    pub(super) fn refill(&mut self, free_bytes: u64) {
        let most_bytes = self.giving.map_or(self.whole_bytes, |room_use| self.kept_from(room_use));
        let wanted_bytes = most_bytes.min(self.reserved_bytes.saturating_add(free_bytes));
        let missing_bytes = most_bytes.saturating_sub(self.reserved_bytes);
        // A few pages are not worth a call.
        if wanted_bytes.saturating_sub(self.reserved_bytes) < self.part_bytes().min(missing_bytes).max(1) {
            return;
        }
        if let Err(error) = self.resize(wanted_bytes) {
            // Without it the store works, but a disk that others fill stops it.
            tracing::debug!("the reserve {:?} was not made larger: {error}", self.path);
            // Do not try at each commit on a file system that cannot do it.
            if error.kind() != io::ErrorKind::StorageFull {
                self.whole_bytes = self.reserved_bytes;
            }
        }
    }

    fn resize(&mut self, size_bytes: u64) -> io::Result<()> {
        let file = match private_files::create_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // No link: it may lead to a file of somebody else.
                let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
                File::options().write(true).custom_flags(no_follow).open(&self.path)?
            }
            made => made?,
        };
        if size_bytes > self.reserved_bytes {
            fallocate(&file, FallocateFlags::empty(), 0, size_bytes)?;
        } else {
            file.set_len(size_bytes)?;
        }
        self.reserved_bytes = size_bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE_BYTES: u64 = 400_000;

    fn reserved_in(directory: &Path) -> u64 {
        RoomReserve::find(directory).reserved_bytes()
    }

    fn whole(directory: &Path) -> RoomReserve {
        let mut reserve = RoomReserve { whole_bytes: WHOLE_BYTES, ..RoomReserve::find(directory) };
        reserve.refill(1 << 30);
        reserve
    }

    #[test]
    fn settles_get_half_of_the_reserve_steps_that_make_room_more_and_opening_all() {
        let dir = tempfile::tempdir().unwrap();
        let mut reserve = whole(dir.path());
        assert_eq!(reserved_in(dir.path()), WHOLE_BYTES);
        assert!(!reserve.give(RoomUse::Accepting), "new events get nothing");
        assert!(reserve.give(RoomUse::Handling));
        assert_eq!(reserved_in(dir.path()), WHOLE_BYTES - WHOLE_BYTES / 16);
        while reserve.give(RoomUse::Handling) {}
        assert_eq!(reserved_in(dir.path()), WHOLE_BYTES / 2, "the rest is for others");
        while reserve.give(RoomUse::Relief) {}
        assert_eq!(reserved_in(dir.path()), WHOLE_BYTES / 4, "the store can be opened");
        while reserve.give(RoomUse::Opening) {}
        assert_eq!(reserved_in(dir.path()), 0);
    }

    #[test]
    fn what_was_given_is_taken_back_as_far_as_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let mut reserve = whole(dir.path());
        while reserve.give(RoomUse::Opening) {}
        reserve.refill(1_000);
        assert_eq!(reserved_in(dir.path()), 0, "that is not worth a call");
        reserve.refill(200_000);
        assert_eq!(reserved_in(dir.path()), 200_000);
        while reserve.give(RoomUse::Opening) {}
        reserve.begin_giving(RoomUse::Opening);
        reserve.refill(1 << 30);
        assert_eq!(reserved_in(dir.path()), 0, "what is free belongs to the step that needs it");
        reserve.begin_giving(RoomUse::Handling);
        reserve.refill(1 << 30);
        assert_eq!(reserved_in(dir.path()), WHOLE_BYTES / 2, "which must leave the half that is for others");
        reserve.end_giving();
        reserve.refill(1 << 30);
        assert_eq!(reserved_in(dir.path()), WHOLE_BYTES);
        assert!(RoomReserve::find(dir.path()).reserved_bytes() >= WHOLE_BYTES, "the next owner finds it");
    }

    #[test]
    fn a_link_in_its_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other");
        fs::write(&other, "kept").unwrap();
        std::os::unix::fs::symlink(&other, dir.path().join(RESERVE)).unwrap();
        let mut reserve = whole(dir.path());
        assert!(!reserve.give(RoomUse::Relief));
        assert_eq!(fs::read(&other).unwrap(), b"kept");
    }
}
