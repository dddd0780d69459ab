//! Snapshot: reads everything that another store can go on with, as of one moment.
//!
//! A snapshot is one read transaction with its own connection. It sees what was committed when it began and delays
//! nothing, but the log cannot be restarted meanwhile and grows. It needs no lock on the directory, so it can run
//! beside the process that owns the store. Each part is read in the order of an index.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::Connection;

use crate::broker::{
    Error, ExportedEvent, ExportedKey, ExportedState, Lane, MAX_PAGE_BYTES, SnapshotItem, SnapshotPart, SnapshotReader,
};
use crate::clock;
use crate::event::{EventId, Idempotency, Timestamp};

use super::columns::{RawColumns, record_columns, state_checksum};
use super::store::{ConnectionPurpose, SchemaError, SqliteFault, connect, database_in, recognize};

/// The most items of one part.
const MAX_ITEMS: usize = 250;

/// Why a store cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The directory holds no store.
    #[error("there is no store in {0:?}")]
    NoStore(PathBuf),
    /// The database has another format, is damaged, or belongs to another program.
    #[error("the database in {path:?} cannot be read: {reason}")]
    Database {
        /// The directory.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
}

/// Begins to read the store in a directory, whether or not a process owns it. Blocks while it reads the log that a
/// crash left.
///
/// # Errors
/// See [`SnapshotError`]. An operator has to act before another try.
pub fn snapshot(directory: &Path) -> Result<Box<dyn SnapshotReader>, SnapshotError> {
    let database = database_in(directory);
    if !database.is_file() {
        return Err(SnapshotError::NoStore(directory.to_owned()));
    }
    let unread = |error: SchemaError| SnapshotError::Database { path: directory.to_owned(), reason: error.to_string() };
    let db = connect(&database, ConnectionPurpose::Read).map_err(|error| unread(error.into()))?;
    recognize(&db).map_err(unread)?;
    let reading = OpenSnapshot::begin(db).map_err(|error| unread(error.into()))?;
    Ok(Box::new(EmbeddedSnapshot { expected_events: reading.expected_events, reading: Some(reading) }))
}

/// The phases in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EmbeddedSnapshotPhase {
    Keys,
    State,
    Running,
    Queued,
    Due,
    Failed,
}

impl EmbeddedSnapshotPhase {
    fn next(self) -> Option<Self> {
        match self {
            Self::Keys => Some(Self::State),
            Self::State => Some(Self::Running),
            Self::Running => Some(Self::Queued),
            Self::Queued => Some(Self::Due),
            Self::Due => Some(Self::Failed),
            Self::Failed => None,
        }
    }

    /// The query for the next events: `?1` and `?2` are the first two columns of the last row.
    ///
    /// It has two parts: of a pair of columns SQLite looks up only the first in the index, and a million events may be
    /// due at the same time.
    fn query(self) -> &'static str {
        macro_rules! events {
            ($index:literal, $state:literal, $first:literal, $second:literal, $after:expr) => {
                concat!(
                    "SELECT ",
                    $first,
                    ", ",
                    $second,
                    ", lane.name, e.place, e.deliveries, ",
                    record_columns!(),
                    " FROM event AS e INDEXED BY ",
                    $index,
                    " JOIN body AS b ON b.number = e.number LEFT JOIN lane ON lane.number = e.lane WHERE e.state = ",
                    $state,
                    $after
                )
            };
            ($index:literal, $state:literal, $first:literal, $second:literal) => {
                concat!(
                    events!($index, $state, $first, $second, concat!(" AND ", $first, " = ?1 AND ", $second, " > ?2")),
                    " UNION ALL ",
                    events!($index, $state, $first, $second, concat!(" AND ", $first, " > ?1")),
                    " ORDER BY 1, 2 LIMIT ?3"
                )
            };
        }
        match self {
            Self::Keys | Self::State | Self::Running => events!("running", "1", "e.place", "e.number"),
            Self::Queued => events!("queued", "0", "e.lane", "e.place"),
            Self::Due => events!("due", "2", "e.place", "e.number"),
            Self::Failed => events!("failed", "4", "e.place", "e.number"),
        }
    }
}

/// A snapshot under way. The drop ends its transaction.
struct OpenSnapshot {
    db: Connection,
    phase: Option<EmbeddedSnapshotPhase>,
    after: (i64, i64),
    after_key: Vec<u8>,
    expected_events: u64,
}

const BEGINNING: (i64, i64) = (i64::MIN, i64::MIN);

impl OpenSnapshot {
    fn begin(db: Connection) -> rusqlite::Result<Self> {
        db.pragma_update(None, "query_only", true)?;
        db.execute_batch("BEGIN")?;
        // The first read fixes the state that the transaction sees.
        let expected: i64 = db.query_row(
            "SELECT coalesce((SELECT sum(queued) FROM lane), 0) + coalesce((SELECT sum(value) FROM total \
             WHERE name IN ('running', 'scheduled', 'failed_kept')), 0)",
            [],
            |row| row.get(0),
        )?;
        let expected_events = u64::try_from(expected).unwrap_or_default();
        Ok(Self {
            db,
            phase: Some(EmbeddedSnapshotPhase::Keys),
            after: BEGINNING,
            after_key: Vec::new(),
            expected_events,
        })
    }

    fn read_part(&mut self) -> rusqlite::Result<Option<SnapshotPart>> {
        while let Some(phase) = self.phase {
            let (part, is_last) = match phase {
                EmbeddedSnapshotPhase::Keys => self.read_keys()?,
                EmbeddedSnapshotPhase::State => self.read_state()?,
                _ => self.read_events(phase)?,
            };
            if is_last {
                self.phase = phase.next();
                self.after = BEGINNING;
            }
            if part != SnapshotPart::default() {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }

    fn read_keys(&mut self) -> rusqlite::Result<(SnapshotPart, bool)> {
        let mut keys = self.db.prepare_cached(
            "SELECT key, fingerprint, id, until FROM idempotency WHERE key > ?1 AND until > ?2 ORDER BY key LIMIT ?3",
        )?;
        let mut rows = keys.query((&self.after_key, clock::now().unix_ms(), MAX_ITEMS as i64))?;
        let mut part = SnapshotPart::default();
        let mut n_rows = 0;
        while let Some(row) = rows.next()? {
            n_rows += 1;
            self.after_key = row.get(0)?;
            let idempotency = Idempotency { key: row.get(0)?, fingerprint: row.get(1)? };
            let (id, until) = (EventId::from_bytes(row.get(2)?), Timestamp::from_unix_ms(row.get(3)?));
            part.items.push(SnapshotItem::Key(ExportedKey { idempotency, id, until }));
        }
        Ok((part, n_rows < MAX_ITEMS))
    }

    fn read_state(&mut self) -> rusqlite::Result<(SnapshotPart, bool)> {
        let mut state = self.db.prepare_cached(
            "SELECT s.number, p.plugin, s.key, s.until, s.value, s.checksum FROM state AS s \
             JOIN state_space AS p ON p.number = s.space WHERE s.number > ?1 ORDER BY s.number LIMIT ?2",
        )?;
        let mut rows = state.query((self.after.0, MAX_ITEMS as i64))?;
        let mut part = SnapshotPart::default();
        let (mut n_rows, mut size_bytes) = (0, 0);
        let now_ms = clock::now().unix_ms();
        while let Some(row) = rows.next()? {
            n_rows += 1;
            self.after.0 = row.get(0)?;
            let (plugin, key, until): (String, String, Option<i64>) = (row.get(1)?, row.get(2)?, row.get(3)?);
            if until.is_some_and(|until| until <= now_ms) {
                continue;
            }
            let value: Vec<u8> = row.get(4)?;
            size_bytes += value.len();
            if i64::from(state_checksum(&plugin, &key, &value)) == row.get::<_, i64>(5)? {
                let until = until.map(Timestamp::from_unix_ms);
                part.items.push(SnapshotItem::State(ExportedState { plugin, key, value: value.into(), until }));
            } else {
                part.unreadable.push(format!("the key {key:?} of the plugin {plugin}: its checksum does not match"));
            }
            if size_bytes >= MAX_PAGE_BYTES {
                return Ok((part, false));
            }
        }
        Ok((part, n_rows < MAX_ITEMS))
    }

    fn read_events(&mut self, phase: EmbeddedSnapshotPhase) -> rusqlite::Result<(SnapshotPart, bool)> {
        let mut events = self.db.prepare_cached(phase.query())?;
        let mut rows = events.query((self.after.0, self.after.1, MAX_ITEMS as i64))?;
        let mut part = SnapshotPart::default();
        let (mut n_rows, mut size_bytes) = (0, 0);
        while let Some(row) = rows.next()? {
            n_rows += 1;
            self.after = (row.get(0)?, row.get(1)?);
            let found = RawColumns::read(row, 5)?;
            size_bytes += found.size_bytes();
            match exported(phase, row, &found)? {
                Ok(item) => part.items.push(item),
                Err(why) => part.unreadable.push(why),
            }
            if size_bytes >= MAX_PAGE_BYTES {
                return Ok((part, false));
            }
        }
        Ok((part, n_rows < MAX_ITEMS))
    }
}

/// The item in a row of [`EmbeddedSnapshotPhase::query`], or why the row cannot be read.
fn exported(
    phase: EmbeddedSnapshotPhase,
    row: &rusqlite::Row<'_>,
    found: &RawColumns,
) -> rusqlite::Result<Result<SnapshotItem, String>> {
    let mut record = match found.decode() {
        Ok(record) => record,
        Err(error) => {
            let id = found.id().map_or_else(|_| "no id".to_owned(), |id| id.to_string());
            return Ok(Err(format!("{id}: {error}")));
        }
    };
    if phase == EmbeddedSnapshotPhase::Failed {
        let is_failed = record.end.as_ref().is_some_and(|end| end.failure.is_some());
        let id = record.event.id;
        return Ok(if is_failed {
            Ok(SnapshotItem::Failed(record))
        } else {
            Err(format!("{id}: it failed without a reason"))
        });
    }
    let lane: Option<Lane> = row.get::<_, Option<String>>(2)?.and_then(|name| name.parse().ok());
    let place: i64 = row.get(3)?;
    record.attempts_made = record.attempts_made.saturating_add(row.get(4)?);
    Ok(Ok(SnapshotItem::Waiting(ExportedEvent {
        record,
        lane: lane.unwrap_or_else(Lane::unrouted),
        due: (phase == EmbeddedSnapshotPhase::Due).then(|| Timestamp::from_unix_ms(place)),
    })))
}

/// A snapshot whose reads run on threads for blocking work.
struct EmbeddedSnapshot {
    /// `None` at the end, and after a read that failed or whose future was dropped.
    reading: Option<OpenSnapshot>,
    expected_events: u64,
}

#[async_trait]
impl SnapshotReader for EmbeddedSnapshot {
    fn expected_events(&self) -> u64 {
        self.expected_events
    }

    async fn next(&mut self) -> Result<Option<SnapshotPart>, Error> {
        let Some(mut reading) = self.reading.take() else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || reading.read_part().map(|part| (reading, part))).await;
        let (reading, part) = match read {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return Err(SqliteFault::classify(&error).answer()),
            Err(_) => return Err(Error::refused("reading the store failed")),
        };
        self.reading = part.is_some().then_some(reading);
        Ok(part)
    }
}
