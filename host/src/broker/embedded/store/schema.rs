//! The format of the database: its tables, and the migration of older formats.
//!
//! Operators may read the tables with `sqlite3 eventstream.db` while the broker runs. Each state has its own index,
//! with only the events in that state. So a step of an event costs the same whether ten events wait or a million.

use std::path::Path;

use rusqlite::Connection;

use super::connection::{ConnectionPurpose, PAGE_BYTES, connect};
use super::wal_recovery::{self, WalError};

/// Marks the file as ours: "esdb" in ASCII.
const APPLICATION_ID: i32 = 0x6573_6462;

/// Entry `n` migrates format `n` to `n + 1`; format 0 is an empty file. Never change a released entry.
const MIGRATIONS: [&str; 10] = [
    include_str!("schema/1.sql"),
    include_str!("schema/2.sql"),
    include_str!("schema/3.sql"),
    include_str!("schema/4.sql"),
    include_str!("schema/5.sql"),
    include_str!("schema/6.sql"),
    include_str!("schema/7.sql"),
    include_str!("schema/8.sql"),
    include_str!("schema/9.sql"),
    include_str!("schema/10.sql"),
];

/// A database up to this size is checked as a whole at the start, which takes a fraction of a second. In a larger one
/// damage shows when it is read.
const MAX_CHECKED_BYTES: u64 = 64 * 1024 * 1024;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::broker::embedded) enum SchemaError {
    #[error("it was written by a newer version (format {found}, this one knows {known}): start that version")]
    Newer { found: i64, known: i64 },
    #[error(
        "it was written by an older version (format {found}, this one knows {known}): open it with this version once"
    )]
    Older { found: i64, known: i64 },
    #[error("it is a database of another program")]
    Foreign,
    #[error("it is damaged ({0}): restore a backup, or move the directory away to begin anew")]
    Damaged(String),
    #[error("the log that was left beside it cannot be written ({0}): check the disk; nothing was changed")]
    WalWrite(#[source] std::io::Error),
    #[error("the log that was left beside it cannot be moved into it ({0}): check the disk; the log is kept")]
    WalMove(#[source] rusqlite::Error),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

impl From<WalError> for SchemaError {
    fn from(error: WalError) -> Self {
        match error {
            WalError::Write(error) => Self::WalWrite(error),
            WalError::Move(error) => Self::WalMove(error),
            WalError::Sqlite(error) => Self::Sqlite(error),
        }
    }
}

/// Opens the connection that writes. Creates the tables of a new file, migrates an older format, and recovers the log
/// of the last owner. Leaves a file that it refuses unchanged.
pub(in crate::broker::embedded) fn open(path: &Path) -> Result<Connection, SchemaError> {
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
    wal_recovery::recover(&mut db, path)?;
    if is_new {
        // These pragmas have an effect only before the first table is created.
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

/// Checks that the database has the present format.
///
/// # Errors
/// It has another one, or the file cannot be read.
pub(in crate::broker::embedded) fn recognize(db: &Connection) -> Result<(), SchemaError> {
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

/// Checks the whole structure of the file.
///
/// # Errors
/// [`SchemaError::Damaged`] with the first thing that is wrong.
pub(in crate::broker::embedded) fn check(db: &Connection) -> Result<(), SchemaError> {
    let verdict: String = db
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| if is_damage(&error) { SchemaError::Damaged(error.to_string()) } else { error.into() })?;
    if verdict == "ok" {
        return Ok(());
    }
    // The first of several lines only names the database.
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
        assert!(matches!(open(&path), Err(SchemaError::Newer { found: 11, known: 10 })));
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
        for (number, state, lane) in
            [(1, 0, 1), (2, 1, 1), (3, 2, 1), (4, 3, 1), (5, 4, 1), (6, 3, 2), (7, 2, 2), (8, 4, 1)]
        {
            let story = (number > 2).then_some("12345");
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
            let columns =
                "SELECT waiting, waiting_bytes, kept, kept_bytes, failed, failed_bytes FROM lane WHERE name = ?1";
            db.query_row(columns, [name], |row| Ok([0, 1, 2, 3, 4, 5].map(|column| row.get::<_, i64>(column).unwrap())))
                .unwrap()
        };
        assert_eq!(lane("a"), [3_i64, 209 + 209 + 214, 1, 214, 2, 2 * 214]);
        assert_eq!(lane("b"), [1, 214, 1, 214, 0, 0]);
        assert_eq!(lane("c"), [0; 6]);
        let bytes = |plugin: &str| {
            let column = "SELECT bytes FROM state_space WHERE plugin = ?1";
            db.query_row(column, [plugin], |row| row.get::<_, i64>(0)).unwrap()
        };
        assert_eq!((bytes("p"), bytes("q")), (100 + 1 + 2 + 100 + 3, 0));
    }

    #[test]
    fn idempotency_keys_from_before_they_were_counted_count_for_the_lane_of_no_plugin() {
        let dir = tempfile::tempdir().unwrap();
        let counted = |name: &str, lanes: &str, keys: i64| {
            let path = dir.path().join(name);
            let db = open_with(&path, &MIGRATIONS[..6]).unwrap();
            db.execute_batch(lanes).unwrap();
            for key in 0..keys {
                db.execute("INSERT INTO idempotency VALUES (?1, zeroblob(32), zeroblob(16), 5)", [[key as u8; 32]])
                    .unwrap();
            }
            drop(db);
            let db = open(&path).unwrap();
            let mut all = db.prepare("SELECT number, name, idempotency_keys FROM lane ORDER BY number").unwrap();
            let rows = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
            rows.map(Result::unwrap).collect::<Vec<(i64, String, i64)>>()
        };
        let a = || (1, "a".to_owned(), 0);
        let first = "INSERT INTO lane VALUES (1, 'a', 0, 0, 0, 0, 0, 0, 0, 0, 0)";
        assert_eq!(counted("a.db", first, 3), [a(), (2, "_".to_owned(), 3)]);
        assert_eq!(counted("b.db", first, 0), [a()]);
        let both = format!("{first}, (2, '_', 0, 0, 0, 0, 0, 0, 0, 0, 0)");
        assert_eq!(counted("c.db", &both, 2), [a(), (2, "_".to_owned(), 2)]);
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
