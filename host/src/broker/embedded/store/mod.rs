//! The files of a store: the directory and its lock, the database and its write-ahead log, the disk beneath them, and the
//! room that the store reserves there.

mod backup;
mod checkpoint;
mod connection;
mod directory;
mod disk_space;
mod fault;
mod high_water;
mod private_files;
mod readers;
mod room_reserve;
mod schema;
mod wal_recovery;

pub use backup::{BackupError, backup};

pub(super) use backup::COPIED;
pub(super) use checkpoint::{Checkpointer, WalProgress};
pub(super) use connection::{ConnectionPurpose, connect, open_files};
pub(super) use directory::{DirectoryError, NOT_IN_PLACE, StoreDirectory, StoreIdentity, database_in};
pub(super) use disk_space::plugin_share_bytes;
pub(super) use fault::{SqliteFault, StoreCondition, contradiction};
pub(super) use high_water::{HighWater, HighWaterKeeper};
pub(super) use readers::ReaderPool;
pub(super) use room_reserve::{RoomReserve, RoomUse};
pub(super) use schema::{SchemaError, open as open_database, recognize};
