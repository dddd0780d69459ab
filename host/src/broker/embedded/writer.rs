//! The one thread that writes: everything that waits is carried out in one transaction, committed once, then answered.
//!
//! What arrives while a group is being committed forms the next one, so that many producers share one fsync and a single
//! one waits for nobody. No answer leaves before its group is as durable as the most demanding job in it asks. A job that
//! refuses (`Ok(Err(_))`) must have written nothing; one that fails undoes the whole group, whose jobs are then tried one
//! by one, so that it spoils nothing but itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rusqlite::{CachedStatement, Connection};
use tokio::sync::{mpsc, oneshot, watch};

use crate::broker::{BrokerOptions, Error, LaneLimits};
use crate::clock;

use super::append;
use super::bulk::BulkInsert;
use super::checkpoint::{Checkpointer, WalProgress};
use super::directory::StoreDirectory;
use super::fault::{SqliteFault, StoreCondition};
use super::leases::{LeaseChange, LeaseTable};
use super::settle;
use super::totals::StoreTotals;

/// The most jobs of one group, and about the most that they write: bounds how long the first one waits for the last, and
/// how much longer the log becomes.
const MAX_GROUP: usize = 512;
const MAX_GROUP_BYTES: usize = 8 * 1024 * 1024;
/// Jobs that wait for the writer. More are turned away or wait themselves.
const QUEUE: usize = 4_096;

/// How often, and how long each time, a group waits for another program that holds the database. It is told after the
/// first time.
const HELD_TRIES: usize = 5;
pub(super) const HELD_WAIT: Duration = Duration::from_secs(1);

/// How durable the commit of a job has to be before its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CommitMode {
    /// Survives the death of the process; a power cut may undo it, never without what came after. For steps that a
    /// restart would do again.
    Written,
    /// Survives a power cut.
    Synced,
}

/// What a job works with.
pub(super) struct WriteStep<'a> {
    pub(super) db: &'a Connection,
    pub(super) often: HotStatements<'a>,
    /// Where new events wait to be written together; `None` if each is to be written by itself. Empty when a job runs that
    /// may look at events.
    pub(super) bulk: Option<BulkInsert>,
    pub(super) totals: &'a mut StoreTotals,
    pub(super) changes: &'a mut Vec<LeaseChange>,
    pub(super) options: &'a BrokerOptions,
    pub(super) limits: &'a LaneLimits,
    /// Which opening of the store this is.
    pub(super) opening: i64,
    /// By the wall clock.
    pub(super) now_ms: i64,
    /// Why nothing new may be taken in: the disk is nearly full.
    pub(super) no_room: Option<&'a str>,
    /// How many pages the log has before this group.
    pub(super) log_pages: i64,
    /// To be set when the database became smaller: the disk has that back only once the log is moved.
    pub(super) has_shrunk: &'a mut bool,
}

/// The statements that every event needs, ready for a whole group: taking one from the connection's cache hashes, copies
/// and compares its text, which is a good part of what carrying it out takes.
pub(super) struct HotStatements<'a> {
    pub(super) insert_event: CachedStatement<'a>,
    pub(super) insert_body: CachedStatement<'a>,
    pub(super) end: CachedStatement<'a>,
}

impl<'a> HotStatements<'a> {
    fn of(db: &'a Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            insert_event: db.prepare_cached(append::INSERT_EVENT)?,
            insert_body: db.prepare_cached(append::INSERT_BODY)?,
            end: db.prepare_cached(settle::END)?,
        })
    }
}

impl WriteStep<'_> {
    fn write_bulk(&mut self) -> rusqlite::Result<()> {
        self.bulk.as_mut().map_or(Ok(()), |bulk| bulk.write(self.db))
    }
}

/// What the writer has to know of a job before it runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct JobKind {
    commit: CommitMode,
    /// It looks at no event, so that those of the jobs before it need not be written yet.
    only_appends: bool,
    /// About how much it writes.
    size_bytes: usize,
}

impl JobKind {
    /// A job that appends so much and does nothing else.
    pub(super) fn appends(size_bytes: usize) -> Self {
        Self { commit: CommitMode::Synced, only_appends: true, size_bytes }
    }

    /// A job of which it is known how much it writes.
    pub(super) fn writes(commit: CommitMode, size_bytes: usize) -> Self {
        Self { commit, only_appends: false, size_bytes }
    }
}

impl From<CommitMode> for JobKind {
    /// A job that writes little, or a piece of something that was cut into pieces.
    fn from(commit: CommitMode) -> Self {
        Self::writes(commit, 0)
    }
}

/// A unit of work for the writer.
trait WriteJob: Send {
    fn kind(&self) -> JobKind;
    /// May be called again after the group was undone.
    fn run(&mut self, step: &mut WriteStep<'_>) -> rusqlite::Result<()>;
    fn finish(self: Box<Self>, fault: Option<&Error>);
}

struct TypedJob<T, W> {
    kind: JobKind,
    work: W,
    done: Option<Result<T, Error>>,
    answer: oneshot::Sender<Result<T, Error>>,
}

impl<T, W> WriteJob for TypedJob<T, W>
where
    T: Send,
    W: FnMut(&mut WriteStep<'_>) -> rusqlite::Result<Result<T, Error>> + Send,
{
    fn kind(&self) -> JobKind {
        self.kind
    }

    fn run(&mut self, step: &mut WriteStep<'_>) -> rusqlite::Result<()> {
        self.done = Some((self.work)(step)?);
        Ok(())
    }

    fn finish(self: Box<Self>, fault: Option<&Error>) {
        let answer = match fault {
            Some(fault) => Err(fault.clone()),
            None => self.done.unwrap_or_else(|| Err(Error::unknown("the step was not carried out"))),
        };
        // Whoever asked may have gone; what was done stays done.
        let _ = self.answer.send(answer);
    }
}

/// Hands work to the thread. When the last one is dropped the thread ends; [`Writer::stop`] ends it in good order.
pub(super) struct StoreWriter {
    jobs: Mutex<Option<mpsc::Sender<Box<dyn WriteJob>>>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    tidy: Arc<AtomicBool>,
    condition: StoreCondition,
}

impl StoreWriter {
    /// Starts the thread. The receiver is told when it ends, and loses its sender if it panics.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub(super) fn start(mut core: WriterThread) -> std::io::Result<(Self, oneshot::Receiver<()>)> {
        let (jobs, waiting) = mpsc::channel(QUEUE);
        let (ended, end) = oneshot::channel();
        let (tidy, condition) = (core.tidy.clone(), core.condition.clone());
        let thread = thread::Builder::new().name("embedded-writer".into()).spawn(move || {
            let _guard = PanicGuard(core.condition.clone());
            core.run(waiting);
            // The lock on the directory is given up before the end is told.
            drop(core);
            let _ = ended.send(());
        })?;
        Ok((Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)), tidy, condition }, end))
    }

    /// Has work done, and waits for room in the queue if need be. If the future is dropped, the work is done or not.
    pub(super) async fn run<T, W>(&self, kind: impl Into<JobKind>, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: FnMut(&mut WriteStep<'_>) -> rusqlite::Result<Result<T, Error>> + Send + 'static,
    {
        let (job, answer) = job(kind.into(), work);
        self.queue()?.send(job).await.map_err(|_| self.closed())?;
        answered(answer.await)
    }

    /// As [`Self::run`], but turned away when the queue is full.
    pub(super) async fn try_run<T, W>(&self, kind: impl Into<JobKind>, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: FnMut(&mut WriteStep<'_>) -> rusqlite::Result<Result<T, Error>> + Send + 'static,
    {
        let (job, answer) = job(kind.into(), work);
        self.queue()?.try_send(job).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => {
                Error::refused(format!("{QUEUE} requests wait for the store already"))
            }
            mpsc::error::TrySendError::Closed(_) => self.closed(),
        })?;
        answered(answer.await)
    }

    /// Does what waits, moves the log into the database and ends the thread. Blocks until that is done.
    pub(super) fn stop(&self) {
        self.tidy.store(true, Ordering::Relaxed);
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
    /// Waits for the work under way, so that the directory is free afterwards.
    fn drop(&mut self) {
        self.end();
    }
}

fn job<T, W>(kind: JobKind, work: W) -> (Box<dyn WriteJob>, oneshot::Receiver<Result<T, Error>>)
where
    T: Send + 'static,
    W: FnMut(&mut WriteStep<'_>) -> rusqlite::Result<Result<T, Error>> + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    (Box::new(TypedJob { kind, work, done: None, answer }), answered)
}

fn answered<T>(answer: Result<Result<T, Error>, oneshot::error::RecvError>) -> Result<T, Error> {
    answer.unwrap_or_else(|_| Err(Error::unknown("the thread that writes ended")))
}

/// Tells everybody when the thread did not end by itself.
struct PanicGuard(StoreCondition);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.note(&SqliteFault::Final("the thread that writes panicked".into()));
        }
    }
}

/// What belongs to the thread.
pub(super) struct WriterThread {
    pub(super) db: Connection,
    pub(super) options: BrokerOptions,
    /// How much may wait; set anew when plugins change.
    pub(super) limits: Arc<ArcSwap<LaneLimits>>,
    pub(super) opening: i64,
    /// As they will be after the group under way.
    pub(super) totals: StoreTotals,
    /// As they were after the last commit.
    pub(super) board: watch::Sender<StoreTotals>,
    pub(super) leases: Arc<LeaseTable>,
    pub(super) condition: StoreCondition,
    pub(super) checkpoints: Checkpointer,
    pub(super) log: WalProgress,
    pub(super) synced: CommitMode,
    /// The next number as the last synced commit left it.
    pub(super) synced_number: Arc<AtomicI64>,
    pub(super) tidy: Arc<AtomicBool>,
    /// The group under way made the database smaller.
    pub(super) has_shrunk: bool,
    /// Kept locked until the database is closed.
    pub(super) directory: Arc<StoreDirectory>,
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
            self.carry_out(std::mem::take(&mut group), Some(BulkInsert::default()));
        }
        if self.tidy.load(Ordering::Relaxed) && self.condition.usable().is_ok() {
            self.checkpoints.finish(&self.db);
        }
    }

    /// Carries out a group, and commits and answers it as a whole.
    fn carry_out(&mut self, mut group: Vec<Box<dyn WriteJob>>, bulk: Option<BulkInsert>) {
        if let Err(reason) = self.condition.usable() {
            return group.into_iter().for_each(|job| job.finish(Some(&reason)));
        }
        let mut changes = Vec::new();
        let is_bulk = bulk.is_some();
        match self.transact(&mut group, &mut changes, bulk) {
            Ok(()) => {
                // A commit that changed nothing was not synced, and those before it need not be.
                if self.synced == CommitMode::Synced && self.totals.next_number != self.board.borrow().next_number {
                    self.synced_number.store(self.totals.next_number, Ordering::Relaxed);
                }
                self.leases.apply(&changes);
                self.board.send_if_modified(|board| {
                    let differs = *board != self.totals;
                    if differs {
                        board.clone_from(&self.totals);
                    }
                    differs
                });
                group.into_iter().for_each(|job| job.finish(None));
                let log_pages = self.log.pages();
                if std::mem::take(&mut self.has_shrunk) {
                    self.checkpoints.wake();
                }
                self.checkpoints.spread(&self.db, log_pages);
            }
            Err(error) => {
                let fault = SqliteFault::of(&error);
                self.condition.note(&fault);
                self.totals.clone_from(&self.board.borrow());
                // Who holds the file holds it against every job of the group, and each would wait for it in vain.
                if (group.len() > 1 || is_bulk) && !matches!(fault, SqliteFault::Final(_) | SqliteFault::Busy(_)) {
                    return group.into_iter().for_each(|job| self.carry_out(vec![job], None));
                }
                let answer = fault.answer();
                group.into_iter().for_each(|job| job.finish(Some(&answer)));
            }
        }
    }

    fn transact(
        &mut self,
        group: &mut [Box<dyn WriteJob>],
        changes: &mut Vec<LeaseChange>,
        bulk: Option<BulkInsert>,
    ) -> rusqlite::Result<()> {
        let commit = group.iter().map(|job| job.kind().commit).max().unwrap_or(CommitMode::Synced);
        if self.synced != commit {
            let level = if commit == CommitMode::Synced { "FULL" } else { "NORMAL" };
            self.db.pragma_update(None, "synchronous", level)?;
            self.synced = commit;
        }
        let no_room = self.checkpoints.shortage(&self.db, self.directory.path())?;
        if let Some(shortage) = &no_room {
            self.condition.note(&SqliteFault::Full(shortage.clone()));
            self.checkpoints.wake();
        }
        self.begin()?;
        let done = self.fill(group, changes, bulk, no_room.as_deref());
        if done.is_err() && !self.db.is_autocommit() {
            self.db.prepare_cached("ROLLBACK")?.execute([])?;
        }
        done
    }

    fn begin(&self) -> rusqlite::Result<()> {
        let mut begin = self.db.prepare_cached("BEGIN IMMEDIATE")?;
        for left in (0..HELD_TRIES).rev() {
            match begin.execute([]) {
                Ok(_) => break,
                Err(error) if matches!(SqliteFault::of(&error), SqliteFault::Busy(_)) => {
                    self.condition.held(&error.to_string());
                    if left == 0 {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.condition.released();
        Ok(())
    }

    fn fill(
        &mut self,
        group: &mut [Box<dyn WriteJob>],
        changes: &mut Vec<LeaseChange>,
        bulk: Option<BulkInsert>,
        no_room: Option<&str>,
    ) -> rusqlite::Result<()> {
        let limits = self.limits.load();
        {
            let mut step = WriteStep {
                db: &self.db,
                often: HotStatements::of(&self.db)?,
                bulk,
                totals: &mut self.totals,
                changes,
                options: &self.options,
                limits: &limits,
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
        self.totals.save(&self.board.borrow(), &self.db)?;
        self.db.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
}
