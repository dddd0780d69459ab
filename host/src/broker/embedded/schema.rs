//! The database file: how it is opened, what stands in it, and how older formats become the present one.
//!
//! The tables are meant to be looked at: `sqlite3 eventstream.db` is allowed while the broker runs, for reading. Every
//! state has an index of its own that holds only the events in it, so that a step of an event costs the same whether ten
//! events wait or a million. Nothing here knows what the broker does with the tables.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::checkpoint;

/// Marks the file as ours: "esdb" in ASCII.
const APPLICATION_ID: i32 = 0x6573_6462;

/// Each entry makes format `n + 1` of format `n`; format 0 is an empty file. Never change one that was released.
const MIGRATIONS: [&str; 3] =
    [include_str!("schema/1.sql"), include_str!("schema/2.sql"), include_str!("schema/3.sql")];

/// How long to wait for somebody who looks at the file with another program and holds it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The size of a page. Log and database are read and written in pages.
pub(super) const PAGE_BYTES: u64 = 4_096;
/// The pages of the writer's cache, in KiB.
const WRITER_CACHE_KIB: i64 = 16 * 1024;
/// A log that grew beyond this, because of a long read for instance, gives the space back.
const KEPT_LOG_BYTES: i64 = 64 * 1024 * 1024;

/// A database up to this size is read through before it is served, which takes a fraction of a second. In a larger one
/// damage is noticed when it is met.
const MAX_CHECKED_BYTES: u64 = 64 * 1024 * 1024;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionPurpose {
    /// The one connection that writes.
    Write,
    /// Looks only, or moves the log into the database.
    Read,
    /// Copies, perhaps from a process that does not own the store and must leave no file behind that its owner, who may
    /// be somebody else, cannot open.
    Copy,
}

/// Why a file is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaError {
    #[error("it was written by a newer version (format {found}, this one knows {known}): start that version")]
    Newer { found: i64, known: i64 },
    #[error("it was written by an older version (format {found}, this one knows {known}): serve it once with this one")]
    Older { found: i64, known: i64 },
    #[error("it is a database of another program")]
    Foreign,
    #[error("it is damaged ({0}): restore a backup, or move the directory away to begin anew")]
    Damaged(String),
    #[error("the log that was left beside it cannot be written ({0}): look after the disk, nothing was changed")]
    Log(#[source] std::io::Error),
    #[error("the log that was left beside it cannot be moved into it ({0}): look after the disk, the log is kept")]
    Unmoved(#[source] rusqlite::Error),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// Opens a connection. One that writes creates the file if there is none, but it holds nothing before [`open`] is done.
pub(super) fn connect(path: &Path, purpose: ConnectionPurpose) -> rusqlite::Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if purpose == ConnectionPurpose::Write {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.set_prepared_statement_cache_capacity(64);
    // The last connection to go would write the log into the database, also after a failed fsync that must not be
    // followed by another. Closing is done in the open instead, by whoever knows that all is well.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, purpose != ConnectionPurpose::Copy)?;
    if purpose == ConnectionPurpose::Write {
        db.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
        db.pragma_update(None, "journal_size_limit", KEPT_LOG_BYTES)?;
    }
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(db)
}

/// Has a connection open its files now, where it would do so when it first needs them and might get no descriptor then.
pub(super) fn open_files(db: &Connection) -> rusqlite::Result<()> {
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0)).map(drop)
}

/// Opens the connection that writes: a new file gets its tables, an older one is brought up to date, and one that cannot
/// be served is refused untouched. What the last owner left in the log is in the database afterwards.
pub(super) fn open(path: &Path) -> Result<Connection, SchemaError> {
    open_with(path, &MIGRATIONS).map_err(|error| match error {
        SchemaError::Sqlite(error) if is_damage(&error) => SchemaError::Damaged(error.to_string()),
        other => other,
    })
}

fn open_with(path: &Path, migrations: &[&str]) -> Result<Connection, SchemaError> {
    let mut db = connect(path, ConnectionPurpose::Write)?;
    let application_id: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let found: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let objects: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let is_new = application_id == 0 && found == 0 && objects == 0;
    if !is_new && application_id != APPLICATION_ID {
        return Err(SchemaError::Foreign);
    }
    let known = migrations.len() as i64;
    if found > known {
        return Err(SchemaError::Newer { found, known });
    }
    if !is_new && std::fs::metadata(path).is_ok_and(|file| file.len() <= MAX_CHECKED_BYTES) {
        check(&db)?;
    }
    checkpoint::renew(&mut db, path)?;
    if is_new {
        // These have an effect only before the first table is made.
        db.pragma_update(None, "page_size", PAGE_BYTES as i64)?;
        db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    let missing = usize::try_from(found).unwrap_or(usize::MAX);
    let step = db.transaction()?;
    for migration in migrations.iter().skip(missing) {
        step.execute_batch(migration)?;
    }
    step.pragma_update(None, "application_id", APPLICATION_ID)?;
    step.pragma_update(None, "user_version", known)?;
    step.commit()?;
    Ok(db)
}

/// Whether a connection that only looks finds the tables of this format.
///
/// # Errors
/// It does not, or the file cannot be read.
pub(super) fn recognize(db: &Connection) -> Result<(), SchemaError> {
    let known = MIGRATIONS.len() as i64;
    let pragma = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let id = pragma("application_id")
        .map_err(|error| if is_damage(&error) { SchemaError::Damaged(error.to_string()) } else { error.into() })?;
    match pragma("user_version")? {
        _ if id != i64::from(APPLICATION_ID) => Err(SchemaError::Foreign),
        found if found > known => Err(SchemaError::Newer { found, known }),
        found if found < known => Err(SchemaError::Older { found, known }),
        _ => Ok(()),
    }
}

/// Reads the whole structure of the file.
///
/// # Errors
/// [`SchemaError::Damaged`] with the first thing that is wrong.
pub(super) fn check(db: &Connection) -> Result<(), SchemaError> {
    let verdict: String = db
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| if is_damage(&error) { SchemaError::Damaged(error.to_string()) } else { error.into() })?;
    if verdict == "ok" {
        return Ok(());
    }
    // The first of several lines names the database, which there is only one of.
    let findings: Vec<&str> = verdict.lines().map(str::trim).filter(|line| !line.starts_with("***")).collect();
    Err(SchemaError::Damaged(findings.join("; ")))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_gets_its_tables_and_an_old_one_keeps_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let db = open(&path).unwrap();
        db.execute("INSERT INTO total VALUES ('x', 1)", []).unwrap();
        drop(db);
        let db = open(&path).unwrap();
        let kept: i64 = db.query_row("SELECT value FROM total WHERE name = 'x'", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, 1);
        let vacuum: i64 = db.pragma_query_value(None, "auto_vacuum", |row| row.get(0)).unwrap();
        assert_eq!(vacuum, 2);
    }

    #[test]
    fn an_older_format_is_brought_up_to_date_and_a_newer_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        open(&path).unwrap();
        let newer = [&MIGRATIONS[..], &["ALTER TABLE lane ADD COLUMN color TEXT"]].concat();
        open_with(&path, &newer).unwrap();
        Connection::open(&path).unwrap().prepare("SELECT color FROM lane").unwrap();
        assert!(matches!(open(&path), Err(SchemaError::Newer { found: 4, known: 3 })));
        Connection::open(&path).unwrap().prepare("SELECT color FROM lane").unwrap();
    }

    #[test]
    fn each_format_that_was_released_becomes_the_present_one_with_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        for format in 1..MIGRATIONS.len() {
            let path = dir.path().join(format!("{format}.db"));
            let db = open_with(&path, &MIGRATIONS[..format]).unwrap();
            db.execute("INSERT INTO total VALUES ('x', 1)", []).unwrap();
            assert!(matches!(recognize(&db), Err(SchemaError::Older { .. })));
            drop(db);
            let db = open(&path).unwrap();
            recognize(&db).unwrap();
            check(&db).unwrap();
            let kept: i64 = db.query_row("SELECT value FROM total WHERE name = 'x'", [], |row| row.get(0)).unwrap();
            assert_eq!(kept, 1);
        }
    }

    #[test]
    fn what_each_lane_and_plugin_has_is_counted_in_a_store_that_did_not_count_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let db = open_with(&path, &MIGRATIONS[..2]).unwrap();
        db.execute_batch("INSERT INTO lane VALUES (1, 'a', 1), (2, 'b', 0), (3, 'c', 0)").unwrap();
        for (number, state, lane) in [(1, 0, 1), (2, 1, 1), (3, 2, 1), (4, 3, 1), (5, 4, 1), (6, 3, 2), (7, 2, 2)] {
            let story = (state > 2).then_some("12345");
            db.execute(
                "INSERT INTO event (number, id, state, lane, place, deliveries, type, story) \
                 VALUES (?1, zeroblob(?1), ?2, ?3, ?1, 0, 't', ?4)",
                (number, state, lane, story),
            )
            .unwrap();
            db.execute("INSERT INTO body VALUES (?1, '{}', 'payload', 0)", [number]).unwrap();
        }
        db.execute_batch(
            "INSERT INTO state_space VALUES (1, 'p', 2), (2, 'q', 0);
             INSERT INTO state (space, key, version, value, checksum) VALUES (1, 'k', 1, x'0011', 0), (1, 'ké', 2, x'', 0)",
        )
        .unwrap();
        drop(db);
        let db = open(&path).unwrap();
        let lane = |name: &str| {
            let columns = "SELECT waiting, waiting_bytes, kept, kept_bytes FROM lane WHERE name = ?1";
            db.query_row(columns, [name], |row| Ok([row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))
                .unwrap()
        };
        assert_eq!(lane("a"), [3_i64, 3 * 207, 1, 212]);
        assert_eq!(lane("b"), [1, 207, 1, 212]);
        assert_eq!(lane("c"), [0, 0, 0, 0]);
        let bytes = |plugin: &str| {
            let column = "SELECT bytes FROM state_space WHERE plugin = ?1";
            db.query_row(column, [plugin], |row| row.get::<_, i64>(0)).unwrap()
        };
        assert_eq!((bytes("p"), bytes("q")), (100 + 1 + 2 + 100 + 3, 0));
    }

    #[test]
    fn a_migration_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        open(&path).unwrap();
        let broken = [&MIGRATIONS[..], &["ALTER TABLE lane ADD COLUMN color TEXT; SELECT * FROM nowhere;"]].concat();
        assert!(open_with(&path, &broken).is_err());
        assert!(Connection::open(&path).unwrap().prepare("SELECT color FROM lane").is_err());
        open(&path).unwrap();
    }

    #[test]
    fn a_file_of_another_program_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(open(&path), Err(SchemaError::Foreign)));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        std::fs::write(&path, b"This is a shopping list, and has nothing to do with databases at all.").unwrap();
        assert!(matches!(open(&path), Err(SchemaError::Damaged(_))));
    }
}
