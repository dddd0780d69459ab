//! Opens a store: locks the directory, checks the database, and reads what the last owner left.
//!
//! A database that is newer, damaged, of another program or in use is refused and left as it is. The error says what to
//! do.

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

use super::broker::EmbeddedBroker;
use super::leases::{LeaseTable, LeasedDelivery};
use super::step::CommitMode;
use super::store::{
    COPIED, Checkpointer, ConnectionPurpose, DirectoryError, HighWater, HighWaterKeeper, ReaderPool, RoomReserve,
    RoomUse, SchemaError, SqliteFault, StoreCondition, StoreDirectory, WalProgress, connect, open_database, open_files,
    plugin_share_bytes,
};
use super::totals::{StoreByteLimits, StoreTotals};
use super::writer::{LOCKED_WAIT, StoreWriter, WriterThread};

/// Why a store was not opened. Trying again may help for [`Self::InUse`], [`Self::Locked`] and [`Self::Full`]; otherwise
/// an operator has to act first.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedOpenError {
    /// Another process owns the directory.
    #[error("another eventstream uses {0:?}: stop it, or name another directory")]
    InUse(PathBuf),
    /// Another program, not eventstream, locks the database.
    #[error("another program holds the database in {0:?}: end it, perhaps a sqlite3, and start again")]
    Locked(PathBuf),
    /// The disk has no room for what an opened store needs, and nothing is left of the reserve.
    #[error("the disk of {0:?} is full: free some of it and start again; accepted events are safe")]
    Full(PathBuf),
    /// The directory cannot be created or written to.
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
    /// Opens the store in a directory, and creates the directory if it is missing. Call it within a runtime. If the
    /// writer thread panics, `tasks` stops the program.
    ///
    /// Blocks while it reads the log that a crash left and checks a small database as a whole.
    ///
    /// # Errors
    /// See [`EmbeddedOpenError`]. Nothing was changed.
    pub fn open(directory: &Path, options: BrokerOptions, tasks: &TaskGroup) -> Result<Arc<Self>, EmbeddedOpenError> {
        let at_fault = |source: std::io::Error| match source.kind() {
            ErrorKind::StorageFull => EmbeddedOpenError::Full(directory.to_owned()),
            _ => EmbeddedOpenError::Directory { path: directory.to_owned(), source },
        };
        let unserved = |error: SchemaError| match error {
            SchemaError::Sqlite(error) | SchemaError::WalMove(error)
                if matches!(SqliteFault::classify(&error), SqliteFault::Full(_)) =>
            {
                EmbeddedOpenError::Full(directory.to_owned())
            }
            SchemaError::Sqlite(error) | SchemaError::WalMove(error)
                if matches!(SqliteFault::classify(&error), SqliteFault::Busy(_)) =>
            {
                EmbeddedOpenError::Locked(directory.to_owned())
            }
            SchemaError::WalWrite(error) if error.kind() == ErrorKind::StorageFull => {
                EmbeddedOpenError::Full(directory.to_owned())
            }
            error => EmbeddedOpenError::Database { path: directory.to_owned(), reason: error.to_string() },
        };
        let locked = Arc::new(StoreDirectory::lock(directory).map_err(|error| match error {
            DirectoryError::InUse => EmbeddedOpenError::InUse(directory.to_owned()),
            DirectoryError::Io(source) => at_fault(source),
        })?);
        let mark = HighWater::read(&locked).map_err(at_fault)?;
        let is_empty = std::fs::metadata(locked.database()).is_ok_and(|file| file.len() == 0);
        if (is_empty && mark.is_some()) || locked.is_truncated() {
            return Err(unserved(SchemaError::Damaged("the end of the file is missing".into())));
        }
        locked.create_database().map_err(at_fault)?;
        let mut reserve = RoomReserve::find(locked.path());
        let (mut db, opened) = loop {
            let open = || -> Result<_, SchemaError> {
                let mut db = open_database(&locked.database())?;
                let opened = begin(&mut db, mark.as_ref())?;
                Ok((db, opened))
            };
            match open().map_err(unserved) {
                Err(EmbeddedOpenError::Full(_)) if reserve.give(RoomUse::Opening) => {}
                opened => break opened?,
            }
        };
        locked.sync().map_err(at_fault)?;
        let opening = opened.mark.opening;
        let synced_number = Arc::new(AtomicI64::new(opened.mark.next_number));
        let high_water =
            HighWaterKeeper::start(locked.clone(), opened.mark, synced_number.clone()).map_err(at_fault)?;
        let identity = locked.identity().map_err(at_fault)?;

        let condition = StoreCondition::default();
        let lease = Duration::from_millis(options.lease_ms);
        let leases = LeaseTable::new(opening, lease, opened.orphaned);
        let log = WalProgress::default();
        db.busy_timeout(LOCKED_WAIT).map_err(|error| unserved(error.into()))?;
        watch_log(&mut db, &log).map_err(|error| unserved(error.into()))?;
        let checkpoint_db =
            connect(&locked.database(), ConnectionPurpose::Read).map_err(|error| unserved(error.into()))?;
        open_files(&checkpoint_db).map_err(|error| unserved(error.into()))?;
        let readers = ReaderPool::open(locked.clone(), condition.clone()).map_err(|error| unserved(error.into()))?;
        let checkpoints = Checkpointer::start(checkpoint_db, log.clone(), locked.clone(), reserve, condition.clone())
            .map_err(at_fault)?;
        let (committed, totals) = watch::channel(opened.totals.clone());
        let consumer = format!("{}-{}-{:08x}", options.consumer_name, std::process::id(), fastrand::u32(..));
        let limits = Arc::new(ArcSwap::from_pointee(LaneLimits::new(options.max_waiting, BTreeMap::new())));
        let share_bytes = plugin_share_bytes(directory);
        let options = limit_to_disk(share_bytes, options);
        let byte_limits = StoreByteLimits {
            max_lane_bytes: options.max_waiting_bytes,
            share_bytes,
            max_history_bytes: options.retention.processed_max_bytes,
            max_idempotency_bytes: options.retention.idempotency_max_bytes,
        };
        let writer = WriterThread {
            db,
            options,
            share_bytes,
            limits: limits.clone(),
            opening,
            totals: opened.totals,
            committed,
            leases: leases.clone(),
            condition: condition.clone(),
            checkpoints,
            log: log.clone(),
            commit_mode: CommitMode::Synced,
            synced_number,
            ends_cleanly: Arc::default(),
            has_shrunk: false,
        };
        let (writer, ended) = StoreWriter::start(writer).map_err(at_fault)?;
        let stop = tasks.stop_token().clone();
        tasks.spawn_critical("embedded store", async move {
            ended.await.map_err(|_| anyhow::anyhow!("the thread that writes panicked"))?;
            // The owner closed the broker, so the end of the thread is no failure.
            stop.cancelled().await;
            Ok(())
        });
        Ok(Arc::new(Self {
            writer: Arc::new(writer),
            readers,
            lists: ListLimiter::default(),
            leases,
            limits,
            byte_limits,
            totals,
            condition,
            consumer,
            identity,
            opening,
            high_water,
            wal: log,
            directory: locked,
        }))
    }
}

/// Limits the bytes of a lane's waiting events and those of all idempotency keys to one share of the disk, and those of the
/// history to two.
fn limit_to_disk(share_bytes: Option<u64>, mut options: BrokerOptions) -> BrokerOptions {
    let share_bytes = share_bytes.unwrap_or(u64::MAX);
    options.max_waiting_bytes = options.max_waiting_bytes.min(share_bytes);
    options.retention.processed_max_bytes = options.retention.processed_max_bytes.min(share_bytes.saturating_mul(2));
    options.retention.idempotency_max_bytes = options.retention.idempotency_max_bytes.min(share_bytes);
    options
}

/// What a store held when it was opened.
struct OpenedStore {
    mark: HighWater,
    totals: StoreTotals,
    orphaned: Vec<LeasedDelivery>,
}

/// Counts the opening in the store, and reads what it holds.
fn begin(db: &mut Connection, mark: Option<&HighWater>) -> rusqlite::Result<OpenedStore> {
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
    if let Some(reason) = data_loss(&step, mark, &found)? {
        tracing::error!("the embedded store lost data: {reason}; serving what is there");
        totals.counters.data_losses += 1;
        totals.save(&before, &step)?;
    }
    let orphaned = step
        .prepare("SELECT number, lane, place, deliveries FROM event INDEXED BY running WHERE state = 1")?
        .query_map([], |row| {
            Ok(LeasedDelivery { number: row.get(0)?, lane: row.get(1)?, place: row.get(2)?, deliveries: row.get(3)? })
        })?
        .collect::<Result<_, _>>()?;
    // A database that lost openings must not reuse their numbers: their receipts would match again.
    let opening = opening.max(mark.map_or(0, |mark| mark.opening) + 1);
    step.execute("UPDATE store SET value = ?1 WHERE name = 'openings'", [opening])?;
    step.commit()?;
    Ok(OpenedStore { mark: HighWater { opening, ..found }, totals, orphaned })
}

/// Why the store lacks data, if it does. A backup reports that once.
fn data_loss(step: &Connection, mark: Option<&HighWater>, found: &HighWater) -> rusqlite::Result<Option<String>> {
    let copied_at_ms: Option<i64> = step
        .query_row(&format!("DELETE FROM store WHERE name = '{COPIED}' RETURNING value"), [], |row| row.get(0))
        .optional()?;
    Ok(match copied_at_ms {
        Some(at_ms) => {
            let at = Timestamp::from_unix_ms(at_ms);
            Some(format!("it is a backup that was made at {at} and lacks everything after that"))
        }
        None => mark.and_then(|mark| mark.loss(found)).map(str::to_owned),
    })
}

/// Records the length of the log after each commit. The hook replaces SQLite's own automatic checkpoints.
fn watch_log(db: &mut Connection, log: &WalProgress) -> rusqlite::Result<()> {
    let log = log.clone();
    db.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: i32| {
        log.set_pages(i64::from(pages));
        Ok(())
    }))
}
