//! Connections to the database.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

/// How long a statement waits for another program that locks the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The size of a page, the unit in which database and log are read and written.
pub(in crate::broker::embedded) const PAGE_BYTES: u64 = 4_096;
/// The writer's page cache, in KiB.
const WRITER_CACHE_KIB: i64 = 16 * 1024;
/// The size to which a log is cut that grew larger, for instance because of a long read.
const KEPT_LOG_BYTES: i64 = 64 * 1024 * 1024;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker::embedded) enum ConnectionPurpose {
    /// The only connection that writes.
    Write,
    /// Only reads, or moves the log into the database.
    Read,
    /// Copies the database, perhaps in a process of another user. It must leave no file behind that the owner of the
    /// store cannot open.
    Copy,
}

/// Opens a connection. For [`ConnectionPurpose::Write`] it creates a missing file, without tables.
pub(in crate::broker::embedded) fn connect(path: &Path, purpose: ConnectionPurpose) -> rusqlite::Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if purpose == ConnectionPurpose::Write {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.set_prepared_statement_cache_capacity(64);
    // By default the last connection that closes moves the log into the database, even after a failed fsync. The
    // checkpointer does it instead, if the store has not failed.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, purpose != ConnectionPurpose::Copy)?;
    if purpose == ConnectionPurpose::Write {
        db.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
        db.pragma_update(None, "journal_size_limit", KEPT_LOG_BYTES)?;
    }
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(db)
}

/// Opens the files of a connection now. By default SQLite opens them at first use, when descriptors may have run out.
pub(in crate::broker::embedded) fn open_files(db: &Connection) -> rusqlite::Result<()> {
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0)).map(drop)
}
