//! Opens a store: takes the directory, looks whether the database can be trusted, and learns what the last owner left.
//!
//! Nothing is served that is newer, damaged, another program's or another process's: each is said with what to do about
//! it, and left as it is.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use arc_swap::ArcSwap;
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::watch;

use crate::broker::list_limiter::ListLimiter;
use crate::broker::{BrokerOptions, LaneLimits};
use crate::event::Timestamp;
use crate::shutdown::TaskGroup;

use super::EmbeddedBroker;
use super::backup::COPIED;
use super::checkpoint::{Checkpointer, WalProgress};
use super::directory::{DirectoryError, StoreDirectory};
use super::fault::{SqliteFault, StoreCondition};
use super::leases::{HeldDelivery, LeaseTable};
use super::memory::{HighWater, HighWaterKeeper};
use super::readers::ReaderPool;
use super::room;
use super::schema::{self, ConnectionPurpose, SchemaError, connect, open_files};
use super::totals::StoreTotals;
use super::writer::{CommitMode, HELD_WAIT, StoreWriter, WriterThread};

/// Why a store was not opened. Trying again does not help before somebody acted, but for [`OpenError::InUse`],
/// [`OpenError::Held`] and [`OpenError::Full`].
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedOpenError {
    /// Another process works with the directory.
    #[error("another eventstream uses {0:?}: stop it, or name another directory")]
    InUse(PathBuf),
    /// Another program, which is no eventstream, holds the database.
    #[error("another program holds the database in {0:?}: end it, perhaps a sqlite3, and start again")]
    Held(PathBuf),
    /// There is no room on the disk for what a store needs to begin with.
    #[error("the disk of {0:?} is full: free some of it and start again; what was accepted is there")]
    Full(PathBuf),
    /// The directory cannot be made or written to.
    #[error("{path:?} cannot be used: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The database is newer, damaged, or not ours.
    #[error("the database in {path:?} cannot be served: {reason}")]
    Database {
        /// The directory.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
}

impl EmbeddedBroker {
    /// Opens the store in a directory, which is made if it is missing. Blocks for as long as it takes to read the log that
    /// a crash left, and a small database as a whole. To be called within a runtime. If the thread that writes panics,
    /// `tasks` stops the program.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing was changed.
    pub fn open(directory: &Path, options: BrokerOptions, tasks: &TaskGroup) -> Result<Arc<Self>, EmbeddedOpenError> {
        let at_fault = |source: std::io::Error| match source.kind() {
            ErrorKind::StorageFull => EmbeddedOpenError::Full(directory.to_owned()),
            _ => EmbeddedOpenError::Directory { path: directory.to_owned(), source },
        };
        let unserved = |error: SchemaError| match error {
            SchemaError::Sqlite(error) | SchemaError::Unmoved(error)
                if matches!(SqliteFault::of(&error), SqliteFault::Full(_)) =>
            {
                EmbeddedOpenError::Full(directory.to_owned())
            }
            SchemaError::Sqlite(error) | SchemaError::Unmoved(error)
                if matches!(SqliteFault::of(&error), SqliteFault::Busy(_)) =>
            {
                EmbeddedOpenError::Held(directory.to_owned())
            }
            SchemaError::Log(error) if error.kind() == ErrorKind::StorageFull => {
                EmbeddedOpenError::Full(directory.to_owned())
            }
            error => EmbeddedOpenError::Database { path: directory.to_owned(), reason: error.to_string() },
        };
        let locked = Arc::new(StoreDirectory::lock(directory).map_err(|error| match error {
            DirectoryError::InUse => EmbeddedOpenError::InUse(directory.to_owned()),
            DirectoryError::Io(source) => at_fault(source),
        })?);
        let memory = locked.memory().map_err(at_fault)?;
        let is_empty = std::fs::metadata(locked.database()).is_ok_and(|file| file.len() == 0);
        if (is_empty && memory.is_some()) || locked.is_cut() {
            return Err(unserved(SchemaError::Damaged("the end of the file is missing".into())));
        }
        locked.create_database().map_err(at_fault)?;
        let mut db = schema::open(&locked.database()).map_err(unserved)?;
        let begun = begin(&mut db, memory.as_ref()).map_err(|error| unserved(error.into()))?;
        locked.sync().map_err(at_fault)?;
        let opening = begun.memory.opening;
        let synced_number = Arc::new(AtomicI64::new(begun.memory.next_number));
        let memory = HighWaterKeeper::start(locked.clone(), begun.memory, synced_number.clone()).map_err(at_fault)?;
        let identity = locked.identity().map_err(at_fault)?;

        let condition = StoreCondition::default();
        let lease = Duration::from_millis(options.lease_ms);
        let leases = LeaseTable::new(opening, lease, begun.left);
        let log = WalProgress::default();
        db.busy_timeout(HELD_WAIT).map_err(|error| unserved(error.into()))?;
        watch_log(&mut db, &log).map_err(|error| unserved(error.into()))?;
        let moving = connect(&locked.database(), ConnectionPurpose::Read).map_err(|error| unserved(error.into()))?;
        open_files(&moving).map_err(|error| unserved(error.into()))?;
        let readers = ReaderPool::open(locked.clone(), condition.clone()).map_err(|error| unserved(error.into()))?;
        let checkpoints =
            Checkpointer::start(moving, log.clone(), locked.clone(), condition.clone()).map_err(at_fault)?;
        let (board, seen) = watch::channel(begun.totals.clone());
        let consumer = format!("{}-{}-{:08x}", options.consumer_name, std::process::id(), fastrand::u32(..));
        let limits = Arc::new(ArcSwap::from_pointee(LaneLimits::new(options.max_waiting, BTreeMap::new())));
        let options = within(room::share(directory), options);
        let max_lane_bytes = options.max_waiting_bytes;
        let core = WriterThread {
            db,
            options,
            limits: limits.clone(),
            opening,
            totals: begun.totals,
            board,
            leases: leases.clone(),
            condition: condition.clone(),
            checkpoints,
            log: log.clone(),
            synced: CommitMode::Synced,
            synced_number,
            tidy: Arc::default(),
            has_shrunk: false,
            directory: locked.clone(),
        };
        let (writer, ended) = StoreWriter::start(core).map_err(at_fault)?;
        let stop = tasks.stop_token().clone();
        tasks.spawn_critical("embedded store", async move {
            ended.await.map_err(|_| anyhow::anyhow!("the thread that writes panicked"))?;
            // The broker was closed, which is for its owner to judge.
            stop.cancelled().await;
            Ok(())
        });
        Ok(Arc::new(Self {
            writer: Arc::new(writer),
            readers,
            lists: ListLimiter::default(),
            leases,
            limits,
            max_lane_bytes,
            state_room_bytes: room::share(directory),
            board: seen,
            condition,
            consumer,
            identity,
            opening,
            memory,
            log,
            directory: locked,
        }))
    }
}

/// The options, with no more of the disk for the events of one plugin than its share, and no more for history than two.
fn within(share_bytes: Option<u64>, mut options: BrokerOptions) -> BrokerOptions {
    let share_bytes = share_bytes.unwrap_or(u64::MAX);
    options.max_waiting_bytes = options.max_waiting_bytes.min(share_bytes);
    options.retention.processed_max_bytes = options.retention.processed_max_bytes.min(share_bytes.saturating_mul(2));
    options
}

/// What is known when a store has been opened.
struct OpenedStore {
    memory: HighWater,
    totals: StoreTotals,
    left: Vec<HeldDelivery>,
}

/// Notes in the store that it was opened once more, and reads what is in it.
fn begin(db: &mut Connection, memory: Option<&HighWater>) -> rusqlite::Result<OpenedStore> {
    let step = db.transaction()?;
    step.execute("INSERT INTO store VALUES ('epoch', ?1) ON CONFLICT DO NOTHING", [uuid::Uuid::now_v7().to_string()])?;
    let epoch: String = step.query_row("SELECT value FROM store WHERE name = 'epoch'", [], |row| row.get(0))?;
    let opening: i64 = step.query_row(
        "INSERT INTO store VALUES ('openings', 1) ON CONFLICT DO UPDATE SET value = value + 1 RETURNING value",
        [],
        |row| row.get(0),
    )?;
    let before = StoreTotals::load(&step)?;
    let mut totals = before.clone();
    let found = HighWater { epoch, opening, next_number: before.next_number };
    if let Some(reason) = lost(&step, memory, &found)? {
        tracing::error!("the embedded store lost data: {reason}; serving what is there");
        totals.counters.data_losses += 1;
        totals.save(&before, &step)?;
    }
    let left = step
        .prepare("SELECT number, lane, place, deliveries FROM event INDEXED BY running WHERE state = 1")?
        .query_map([], |row| {
            Ok(HeldDelivery { number: row.get(0)?, lane: row.get(1)?, place: row.get(2)?, deliveries: row.get(3)? })
        })?
        .collect::<Result<_, _>>()?;
    // Receipts of the openings that were forgotten must not fit those of this one.
    let opening = opening.max(memory.map_or(0, |memory| memory.opening) + 1);
    step.execute("UPDATE store SET value = ?1 WHERE name = 'openings'", [opening])?;
    step.commit()?;
    Ok(OpenedStore { memory: HighWater { opening, ..found }, totals, left })
}

/// Why something is missing that was in the store once, if so. A copy says it of itself, once.
fn lost(step: &Connection, memory: Option<&HighWater>, found: &HighWater) -> rusqlite::Result<Option<String>> {
    let copied_at_ms: Option<i64> = step
        .query_row(&format!("DELETE FROM store WHERE name = '{COPIED}' RETURNING value"), [], |row| row.get(0))
        .optional()?;
    Ok(match copied_at_ms {
        Some(at_ms) => {
            let at = Timestamp::from_unix_ms(at_ms);
            Some(format!("it is a backup that was made at {at}, and what came afterwards is not in it"))
        }
        None => memory.and_then(|memory| memory.lost(found)).map(str::to_owned),
    })
}

/// Keeps the number of pages in the log where it can be seen, and switches SQLite's own checkpoints off.
fn watch_log(db: &mut Connection, log: &WalProgress) -> rusqlite::Result<()> {
    let log = log.clone();
    db.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: i32| {
        log.set_pages(i64::from(pages));
        Ok(())
    }))
}
