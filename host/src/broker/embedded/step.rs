//! A job for the writer, and the step of the open transaction that it works on, with the SQL that every event needs.

use rusqlite::{CachedStatement, Connection};
use tokio::sync::oneshot;

use crate::broker::{BrokerOptions, Error, LaneLimits};

use super::bulk_insert::BulkInsert;
use super::leases::LeaseChange;
use super::store::RoomUse;
use super::totals::StoreTotals;

/// Inserts an event, unless its id exists.
const INSERT_EVENT: &str = "INSERT INTO event (number, id, state, lane, place, deliveries, type, checksum, \
    story, result, ended_at, class) VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (id) DO NOTHING";
/// Inserts the body of an event.
const INSERT_BODY: &str = "INSERT INTO body (number, head, data, checksum) VALUES (?1, ?2, ?3, ?4)";

/// Settles a running event, if the place and delivery count are those of the receipt.
const SETTLE: &str = "UPDATE event SET state = ?4, lane = coalesce(?5, lane), place = ?6, deliveries = 0, \
    settled_place = ?2, settled_deliveries = ?3, ended_at = ?7, class = ?8, checksum = ?9, story = ?10, result = ?11 \
    WHERE number = ?1 AND state = 1 AND place = ?2 AND deliveries = ?3";

/// Whether more of the same work is left to do at once.
pub(super) type MoreWork = bool;

/// How durable the commit must be before a job is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CommitMode {
    /// It survives the death of the process. A power cut may undo it together with all later commits. For steps that a
    /// restart repeats.
    Written,
    /// It survives a power cut.
    Synced,
}

/// What a job reads and changes while the transaction of its group is open.
pub(super) struct WriteContext<'a> {
    pub(super) db: &'a Connection,
    pub(super) statements: HotStatements<'a>,
    /// New events that are written together; `None` writes each on its own. Empty when a job runs that may read events.
    pub(super) bulk: Option<BulkInsert>,
    pub(super) totals: &'a mut StoreTotals,
    pub(super) changes: &'a mut Vec<LeaseChange>,
    pub(super) options: &'a BrokerOptions,
    pub(super) limits: &'a LaneLimits,
    /// What one lane may take of the disk while there is room; `None` if its size is unknown.
    pub(super) share_bytes: Option<u64>,
    /// The number of this opening of the store.
    pub(super) opening: i64,
    /// The wall clock, in Unix milliseconds.
    pub(super) now_ms: i64,
    /// Why new events are refused: the disk is nearly full.
    pub(super) no_room: Option<&'a str>,
    /// The pages of the write-ahead log before this group.
    pub(super) log_pages: i64,
    /// A job sets this when it made the database smaller: the disk gets that back only with the next checkpoint.
    pub(super) has_shrunk: &'a mut bool,
}

impl WriteContext<'_> {
    /// Writes the new events that wait to be written together.
    pub(super) fn write_bulk(&mut self) -> rusqlite::Result<()> {
        self.bulk.as_mut().map_or(Ok(()), |bulk| bulk.write(self.db))
    }
}

/// The statements that every event needs, prepared once for a group of jobs.
///
/// The connection's cache hashes, copies and compares the text of a statement at each use. For statements this small
/// that is a good part of their cost.
pub(super) struct HotStatements<'a> {
    pub(super) insert_event: CachedStatement<'a>,
    pub(super) insert_body: CachedStatement<'a>,
    pub(super) settle: CachedStatement<'a>,
}

impl<'a> HotStatements<'a> {
    /// Prepares the statements.
    pub(super) fn prepare(db: &'a Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            insert_event: db.prepare_cached(INSERT_EVENT)?,
            insert_body: db.prepare_cached(INSERT_BODY)?,
            settle: db.prepare_cached(SETTLE)?,
        })
    }
}

/// What the writer knows of a job before it runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct JobKind {
    pub(super) commit: CommitMode,
    /// It reads no events, so the bulk of the jobs before it need not be written yet.
    pub(super) only_appends: bool,
    /// About how many bytes it writes.
    pub(super) size_bytes: usize,
    /// How much of the reserve it may use when the disk is full.
    pub(super) room_use: RoomUse,
}

impl JobKind {
    /// A job that appends about so many bytes and does nothing else.
    pub(super) fn appends(size_bytes: usize) -> Self {
        Self { only_appends: true, room_use: RoomUse::Accepting, ..Self::writes(CommitMode::Synced, size_bytes) }
    }

    /// A job that writes about so many bytes.
    pub(super) fn writes(commit: CommitMode, size_bytes: usize) -> Self {
        Self { commit, only_appends: false, size_bytes, room_use: RoomUse::Handling }
    }

    /// The same job, known to make room for others.
    pub(super) fn relieving(self) -> Self {
        Self { room_use: RoomUse::Relief, ..self }
    }
}

impl From<CommitMode> for JobKind {
    /// A job that writes little, or one piece of a larger task.
    fn from(commit: CommitMode) -> Self {
        Self::writes(commit, 0)
    }
}

/// A unit of work for the writer.
pub(super) trait WriteJob: Send {
    fn kind(&self) -> JobKind;
    /// Runs the job. The writer may call it again after the group was rolled back.
    fn run(&mut self, step: &mut WriteContext<'_>) -> rusqlite::Result<()>;
    /// Answers the job, with `fault` if its group failed.
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
    W: FnMut(&mut WriteContext<'_>) -> rusqlite::Result<Result<T, Error>> + Send,
{
    fn kind(&self) -> JobKind {
        self.kind
    }

    fn run(&mut self, step: &mut WriteContext<'_>) -> rusqlite::Result<()> {
        self.done = Some((self.work)(step)?);
        Ok(())
    }

    fn finish(self: Box<Self>, fault: Option<&Error>) {
        let answer = match fault {
            Some(fault) => Err(fault.clone()),
            None => self.done.unwrap_or_else(|| Err(Error::unknown("the job did not run"))),
        };
        // The caller may have dropped its future.
        let _ = self.answer.send(answer);
    }
}

/// Makes a job of some work, and what its answer comes from.
pub(super) fn job<T, W>(kind: JobKind, work: W) -> (Box<dyn WriteJob>, oneshot::Receiver<Result<T, Error>>)
where
    T: Send + 'static,
    W: FnMut(&mut WriteContext<'_>) -> rusqlite::Result<Result<T, Error>> + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    (Box::new(TypedJob { kind, work, done: None, answer }), answered)
}
