//! The writer: one thread that runs all waiting jobs as a group, in one transaction, and answers them after the commit.
//!
//! Jobs that arrive during a commit form the next group. So many producers share one fsync, and a single producer waits
//! for no other. The commit is as durable as the most demanding job of the group asks.
//!
//! A job that refuses (`Ok(Err(_))`) must have written nothing. A job that fails rolls the group back; the writer then
//! runs each job of the group alone, so that only the failing one fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use crate::broker::{BrokerOptions, Error, LaneLimits};
use crate::clock;

use super::bulk_insert::BulkInsert;
use super::leases::{LeaseChange, LeaseTable};
use super::step::{CommitMode, HotStatements, JobKind, WriteContext, WriteJob, job};
use super::store::{Checkpointer, RoomUse, SqliteFault, StoreCondition, WalProgress};
use super::totals::StoreTotals;

/// The most jobs of a group, and about the most bytes that they write. Bounds how long the first job waits for the
/// last, and how far a group extends the log.
const MAX_GROUP: usize = 512;
const MAX_GROUP_BYTES: usize = 8 * 1024 * 1024;
/// The most jobs that wait for the writer. More callers wait or are refused.
const MAX_WAITING_JOBS: usize = 4_096;

/// How often a group tries to begin while another program holds the database, and how long each try waits. The first
/// failure is logged.
const LOCKED_TRIES: usize = 5;
pub(super) const LOCKED_WAIT: Duration = Duration::from_secs(1);

/// Hands jobs to the writer thread. Dropping it ends the thread; [`StoreWriter::stop`] also empties the log.
pub(super) struct StoreWriter {
    jobs: Mutex<Option<mpsc::Sender<Box<dyn WriteJob>>>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    ends_cleanly: Arc<AtomicBool>,
    condition: StoreCondition,
}

impl StoreWriter {
    /// Starts the thread. The receiver resolves when the thread ends, and fails if it panics.
    ///
    /// # Errors
    /// The operating system cannot start a thread.
    pub(super) fn start(mut writer: WriterThread) -> std::io::Result<(Self, oneshot::Receiver<()>)> {
        let (jobs, waiting) = mpsc::channel(MAX_WAITING_JOBS);
        let (ended, end) = oneshot::channel();
        let (ends_cleanly, condition) = (writer.ends_cleanly.clone(), writer.condition.clone());
        let thread = thread::Builder::new().name("embedded-writer".into()).spawn(move || {
            let _guard = PanicGuard(writer.condition.clone());
            writer.run(waiting);
            // Unlock the directory before anyone learns that the thread ended.
            drop(writer);
            let _ = ended.send(());
        })?;
        Ok((Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)), ends_cleanly, condition }, end))
    }

    /// Runs a job and returns its answer. Waits while the queue is full. If the future is dropped the job may still
    /// run.
    pub(super) async fn run<T, W>(&self, kind: impl Into<JobKind>, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: FnMut(&mut WriteContext<'_>) -> rusqlite::Result<Result<T, Error>> + Send + 'static,
    {
        let (job, answer) = job(kind.into(), work);
        self.queue()?.send(job).await.map_err(|_| self.closed())?;
        answered(answer.await)
    }

    /// As [`Self::run`], but refuses when the queue is full.
    pub(super) async fn try_run<T, W>(&self, kind: impl Into<JobKind>, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: FnMut(&mut WriteContext<'_>) -> rusqlite::Result<Result<T, Error>> + Send + 'static,
    {
        let (job, answer) = job(kind.into(), work);
        self.queue()?.try_send(job).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => {
                Error::refused(format!("{MAX_WAITING_JOBS} requests wait for the store already"))
            }
            mpsc::error::TrySendError::Closed(_) => self.closed(),
        })?;
        answered(answer.await)
    }

    /// Runs the waiting jobs, moves the log into the database and ends the thread. Blocks until then.
    pub(super) fn stop(&self) {
        self.ends_cleanly.store(true, Ordering::Relaxed);
        self.end();
    }

    fn end(&self) {
        drop(self.jobs.lock().take());
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes the embedded store panicked");
        }
    }

    fn queue(&self) -> Result<mpsc::Sender<Box<dyn WriteJob>>, Error> {
        self.jobs.lock().clone().ok_or_else(|| self.closed())
    }

    fn closed(&self) -> Error {
        self.condition.usable().err().unwrap_or_else(|| Error::refused("the store is closed"))
    }
}

impl Drop for StoreWriter {
    /// Waits for the group under way, so that the directory is free afterwards.
    fn drop(&mut self) {
        self.end();
    }
}

/// How much of the reserve a group may use.
fn room_use_of(group: &[Box<dyn WriteJob>]) -> RoomUse {
    group.iter().map(|job| job.kind().room_use).min().unwrap_or(RoomUse::Accepting)
}

fn answered<T>(answer: Result<Result<T, Error>, oneshot::error::RecvError>) -> Result<T, Error> {
    answer.unwrap_or_else(|_| Err(Error::unknown("the thread that writes ended")))
}

/// Marks the store as failed if the thread panics.
struct PanicGuard(StoreCondition);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.note(&SqliteFault::Final("the thread that writes panicked".into()));
        }
    }
}

/// The state of the writer thread.
pub(super) struct WriterThread {
    pub(super) db: Connection,
    pub(super) options: BrokerOptions,
    /// What one lane may take of the disk while there is room; `None` if its size is unknown.
    pub(super) share_bytes: Option<u64>,
    /// The limits of waiting events; replaced when the plugins change.
    pub(super) limits: Arc<ArcSwap<LaneLimits>>,
    pub(super) opening: i64,
    /// The totals with the group under way.
    pub(super) totals: StoreTotals,
    /// The totals after the last commit.
    pub(super) committed: watch::Sender<StoreTotals>,
    pub(super) leases: Arc<LeaseTable>,
    pub(super) condition: StoreCondition,
    /// Keeps the directory locked until the database is closed.
    pub(super) checkpoints: Checkpointer,
    pub(super) log: WalProgress,
    /// The durability that `PRAGMA synchronous` is set to.
    pub(super) commit_mode: CommitMode,
    /// The next number after the last synced commit.
    pub(super) synced_number: Arc<AtomicI64>,
    /// Whether the thread empties the log when it ends.
    pub(super) ends_cleanly: Arc<AtomicBool>,
    /// The group under way made the database smaller.
    pub(super) has_shrunk: bool,
}

impl WriterThread {
    fn run(&mut self, mut waiting: mpsc::Receiver<Box<dyn WriteJob>>) {
        let mut group = Vec::new();
        while let Some(first) = waiting.blocking_recv() {
            let mut size_bytes = first.kind().size_bytes;
            group.push(first);
            while group.len() < MAX_GROUP
                && size_bytes < MAX_GROUP_BYTES
                && let Ok(job) = waiting.try_recv()
            {
                size_bytes += job.kind().size_bytes;
                group.push(job);
            }
            self.run_group(std::mem::take(&mut group), Some(BulkInsert::default()));
        }
        if self.ends_cleanly.load(Ordering::Relaxed) && self.condition.usable().is_ok() {
            self.checkpoints.finish(&self.db);
        }
    }

    /// Runs a group in one transaction, and then answers its jobs.
    fn run_group(&mut self, mut group: Vec<Box<dyn WriteJob>>, bulk: Option<BulkInsert>) {
        if let Err(reason) = self.condition.usable() {
            return group.into_iter().for_each(|job| job.finish(Some(&reason)));
        }
        let mut changes = Vec::new();
        let is_bulk = bulk.is_some();
        match self.commit_group(&mut group, &mut changes, bulk) {
            Ok(()) => {
                // SQLite does not sync a commit without changes, and then earlier commits may not be synced either.
                if self.commit_mode == CommitMode::Synced
                    && self.totals.next_number != self.committed.borrow().next_number
                {
                    self.synced_number.store(self.totals.next_number, Ordering::Relaxed);
                }
                self.leases.apply(&changes);
                self.committed.send_if_modified(|committed| {
                    let differs = *committed != self.totals;
                    if differs {
                        committed.clone_from(&self.totals);
                    }
                    differs
                });
                group.into_iter().for_each(|job| job.finish(None));
                self.checkpoints.end_step();
                let log_pages = self.log.pages();
                if std::mem::take(&mut self.has_shrunk) {
                    self.checkpoints.wake();
                }
                self.checkpoints.after_commit(&self.db, log_pages);
            }
            Err(error) => {
                let fault = SqliteFault::classify(&error);
                self.condition.note(&fault);
                self.totals.clone_from(&self.committed.borrow());
                // While another program holds the file, each job of the group would wait for it in vain.
                if (group.len() > 1 || is_bulk) && !matches!(fault, SqliteFault::Final(_) | SqliteFault::Busy(_)) {
                    return group.into_iter().for_each(|job| self.run_group(vec![job], None));
                }
                if matches!(fault, SqliteFault::Full(_)) && self.checkpoints.give_room(&self.db, room_use_of(&group)) {
                    return self.run_group(group, None);
                }
                self.checkpoints.end_step();
                let answer = fault.answer();
                group.into_iter().for_each(|job| job.finish(Some(&answer)));
            }
        }
    }

    fn commit_group(
        &mut self,
        group: &mut [Box<dyn WriteJob>],
        changes: &mut Vec<LeaseChange>,
        bulk: Option<BulkInsert>,
    ) -> rusqlite::Result<()> {
        let commit = group.iter().map(|job| job.kind().commit).max().unwrap_or(CommitMode::Synced);
        if self.commit_mode != commit {
            let level = if commit == CommitMode::Synced { "FULL" } else { "NORMAL" };
            self.db.pragma_update(None, "synchronous", level)?;
            self.commit_mode = commit;
        }
        let shortage = self.checkpoints.shortage(&self.db)?;
        if let Some(shortage) = &shortage {
            self.condition.note(&SqliteFault::Full(shortage.clone()));
            self.checkpoints.wake();
        }
        self.begin()?;
        let result = self.run_jobs(group, changes, bulk, shortage.as_deref());
        if result.is_err() && !self.db.is_autocommit() {
            self.db.prepare_cached("ROLLBACK")?.execute([])?;
        }
        result
    }

    fn begin(&self) -> rusqlite::Result<()> {
        let mut begin = self.db.prepare_cached("BEGIN IMMEDIATE")?;
        for left in (0..LOCKED_TRIES).rev() {
            match begin.execute([]) {
                Ok(_) => break,
                Err(error) if matches!(SqliteFault::classify(&error), SqliteFault::Busy(_)) => {
                    self.condition.set_locked(&error.to_string());
                    if left == 0 {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.condition.set_unlocked();
        Ok(())
    }

    fn run_jobs(
        &mut self,
        group: &mut [Box<dyn WriteJob>],
        changes: &mut Vec<LeaseChange>,
        bulk: Option<BulkInsert>,
        no_room: Option<&str>,
    ) -> rusqlite::Result<()> {
        let limits = self.limits.load();
        {
            let mut step = WriteContext {
                db: &self.db,
                statements: HotStatements::prepare(&self.db)?,
                bulk,
                totals: &mut self.totals,
                changes,
                options: &self.options,
                limits: &limits,
                share_bytes: self.share_bytes,
                opening: self.opening,
                now_ms: clock::now().unix_ms(),
                no_room,
                log_pages: self.log.pages(),
                has_shrunk: &mut self.has_shrunk,
            };
            for job in group {
                if !job.kind().only_appends {
                    step.write_bulk()?;
                }
                job.run(&mut step)?;
            }
            step.write_bulk()?;
        }
        self.totals.save(&self.committed.borrow(), &self.db)?;
        self.db.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
}
