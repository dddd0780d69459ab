//! Moves the content of a store: export and import.

mod restore;
mod snapshot;

pub(super) use self::restore::SnapshotImporter;
pub(super) use self::snapshot::RedisSnapshot;
