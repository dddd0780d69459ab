//! The phase of a connection, shared by its two sides. The stream knows when a head begins and where a request ends. The
//! service knows when a request is answered.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use hyper::body::Body;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::framing::{BodyLength, HeadFault, RequestFraming};
use super::socket::ClientSigns;
use crate::api::guard::UntrustedHead;
use crate::api::memory_budget::{FREE_BYTES, MemoryBudget, MemoryCharge};
use crate::api::problem::{Problem, ProblemKind};

/// The HTTP library's buffer takes up to this many bytes for each byte of a head, since it grows by doubling.
const BUFFER_FACTOR: usize = 2;

/// The time for which a new connection is spared, since its first request may be on its way.
const MIN_SILENCE: Duration = Duration::from_millis(500);
/// The time for which a client may send or read nothing in the midst of a request before its connection gives way.
const STALL_LIMIT: Duration = Duration::from_secs(1);
/// A client that sends or reads less than this is slow.
const SLOW_BYTES_PER_S: u64 = 256;

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionPhase {
    /// No byte has arrived yet.
    New,
    /// No byte of the next request has arrived yet.
    Idle,
    /// A head has begun.
    Head,
    /// A request is being read and handled.
    Busy,
    /// The answer to a request is being written.
    Answering,
}

/// Why no more bytes of a connection are read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadRefusal {
    /// The HTTP library asks for more bytes of a request that is complete, or whose body breaks the rules.
    BeyondRequest,
    /// The connection gives way to another one, in this phase.
    Evicted(ConnectionPhase),
}

/// What newcomers lack, so that another connection gives way to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shortage {
    /// A place, in which a request is handled.
    Place,
    /// The same, for so long that slow clients give way, too.
    LastingPlace,
    /// Even a connection without a place.
    Connection,
}

/// Why a connection gives way. Those with the first reason give way first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum YieldReason {
    /// The client has closed its sending side and may be gone. Its request changes nothing.
    Leaving,
    /// Nothing moves.
    Stalled,
    /// It has no place, its request was not read yet, and the client has closed its sending side.
    UnreadLeaving,
    /// It has no place, and its request has not arrived whole or changes nothing.
    Unbegun,
    /// It has no place, and its request would change something. The client has to send it again.
    UnbegunChange,
}

/// Tracks the phase of one connection. Clones share it.
#[derive(Clone)]
pub(super) struct PhaseTracker(Arc<Mutex<PhaseState>>);

struct PhaseState {
    phase: ConnectionPhase,
    since: Instant,
    /// When the client last sent or read bytes, or when the phase began.
    last_progress: Instant,
    /// The bytes that the client has sent and read in this phase.
    moved_bytes: u64,
    /// Whether the connection gives way to another one.
    is_evicted: bool,
    framing: RequestFraming,
    /// The memory of the head, until its request is answered.
    head_charge: MemoryCharge,
    /// Whether the connection ends with the answer to this request.
    is_last_request: bool,
    /// Whether the client has not read all that was written.
    is_blocked: bool,
    is_lingering: bool,
    /// Whether the request in progress may be dropped: it changes nothing.
    is_droppable: bool,
    /// Whether the request in progress has not begun, for lack of a place.
    is_waiting: bool,
}

impl PhaseState {
    fn enter(&mut self, phase: ConnectionPhase) {
        self.phase = phase;
        self.since = Instant::now();
        self.last_progress = self.since;
        self.moved_bytes = 0;
    }

    fn note_progress(&mut self, bytes: usize) {
        self.last_progress = Instant::now();
        self.moved_bytes += bytes as u64;
    }

    /// Why and from when on the connection gives way, unless something moves before.
    fn gives_way(&self, shortage: Shortage, signs: ClientSigns) -> Option<(YieldReason, Instant)> {
        let is_arriving = !matches!(self.phase, ConnectionPhase::Answering) && !self.is_blocked && !self.is_lingering;
        let is_whole =
            matches!(self.phase, ConnectionPhase::Head | ConnectionPhase::Busy) && self.framing.is_complete();
        let reason = match shortage {
            _ if self.is_evicted => return None,
            _ if is_whole && self.is_droppable && signs.is_sending_closed => YieldReason::Leaving,
            Shortage::Connection if is_whole && self.is_waiting && self.is_droppable => YieldReason::Unbegun,
            Shortage::Connection if is_whole && self.is_waiting => YieldReason::UnbegunChange,
            // Nothing of the request is missing, so the client waits for the server.
            _ if is_whole => return None,
            Shortage::Connection if is_arriving && signs.is_sending_closed => YieldReason::UnreadLeaving,
            Shortage::Connection if is_arriving && signs.has_unread => YieldReason::Unbegun,
            // The client did its part, and the server comes to read it.
            _ if is_arriving && signs.has_unread => return None,
            _ => {
                let stalled_at = self.stalled_at(shortage != Shortage::Place);
                if shortage == Shortage::Connection && stalled_at > Instant::now() {
                    YieldReason::Unbegun
                } else {
                    return Some((YieldReason::Stalled, stalled_at));
                }
            }
        };
        Some((reason, self.since))
    }

    /// From when on the client counts as stalled, unless something moves before.
    fn stalled_at(&self, slow_too: bool) -> Instant {
        let min_bytes = SLOW_BYTES_PER_S.saturating_mul(self.since.elapsed().as_secs());
        match self.phase {
            ConnectionPhase::New => self.since + MIN_SILENCE,
            ConnectionPhase::Idle if !self.is_blocked && !self.is_lingering => self.since,
            _ if slow_too && self.moved_bytes < min_bytes => self.since + STALL_LIMIT,
            _ => self.last_progress + STALL_LIMIT,
        }
    }
}

/// Marks a request as in progress until it is dropped.
pub(super) struct RequestInProgress(PhaseTracker);

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.head_charge.release();
        (state.is_droppable, state.is_waiting) = (false, false);
        state.enter(ConnectionPhase::Idle);
    }
}

impl PhaseTracker {
    /// A tracker for a connection that begins now.
    pub(super) fn new(memory: &MemoryBudget) -> Self {
        let now = Instant::now();
        Self(Arc::new(Mutex::new(PhaseState {
            phase: ConnectionPhase::New,
            since: now,
            last_progress: now,
            moved_bytes: 0,
            is_evicted: false,
            framing: RequestFraming::default(),
            head_charge: memory.new_charge(),
            is_last_request: false,
            is_blocked: false,
            is_lingering: false,
            is_droppable: false,
            is_waiting: false,
        })))
    }

    /// The phase and its beginning.
    pub(super) fn current(&self) -> (ConnectionPhase, Instant) {
        let state = self.0.lock();
        (state.phase, state.since)
    }

    /// Why and from when on the connection gives way, unless something moves before. `None` while its request is handled, unless
    /// that changes nothing and its client may be gone.
    pub(super) fn gives_way(&self, shortage: Shortage, signs: ClientSigns) -> Option<(YieldReason, Instant)> {
        self.0.lock().gives_way(shortage, signs)
    }

    /// Lets the connection give way, if it does so by now. No byte is read from then on, so no request can begin or become
    /// complete.
    pub(super) fn evict(&self, shortage: Shortage, signs: ClientSigns) -> bool {
        let mut state = self.0.lock();
        let gives_way = state.gives_way(shortage, signs);
        state.is_evicted = state.is_evicted || gives_way.is_some_and(|(_, at)| at <= Instant::now());
        state.is_evicted
    }

    /// Notes that the request waits for a place.
    pub(super) fn begin_wait(&self) {
        self.0.lock().is_waiting = true;
    }

    /// Notes that the request begins, unless the connection has given way.
    pub(super) fn end_wait(&self) -> bool {
        let mut state = self.0.lock();
        state.is_waiting = false;
        !state.is_evicted
    }

    /// Drops the request in progress, whose client is gone, if it may be dropped.
    pub(super) fn try_drop_request(&self) -> bool {
        let mut state = self.0.lock();
        state.is_evicted |= state.is_droppable;
        state.is_droppable
    }

    /// Has the request in progress carried to its end, whatever becomes of its client.
    pub(super) fn carry_on(&self) {
        self.0.lock().is_droppable = false;
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.0.lock().is_evicted
    }

    /// Call before each read for the HTTP library. Begins the next request if the last one is answered.
    ///
    /// # Errors
    /// Why nothing may be read.
    pub(super) fn prepare_read(&self) -> Result<(), ReadRefusal> {
        let mut state = self.0.lock();
        match (state.framing.is_complete(), state.phase) {
            (_, phase) if state.is_evicted => Err(ReadRefusal::Evicted(phase)),
            (false, _) => Ok(()),
            (true, ConnectionPhase::Idle) => {
                state.framing.begin_next();
                Ok(())
            }
            (true, _) => Err(ReadRefusal::BeyondRequest),
        }
    }

    /// Takes in bytes from the client. Returns how many of them belong to the current request.
    ///
    /// # Errors
    /// The refusal to answer with if there is no memory for the head.
    pub(super) fn record_bytes(&self, bytes: &[u8]) -> Result<usize, Problem> {
        let mut state = self.0.lock();
        if state.is_evicted {
            return Ok(0);
        }
        if state.framing.is_in_head() && state.phase != ConnectionPhase::Head {
            state.enter(ConnectionPhase::Head);
        }
        let consumed = state.framing.consume(bytes);
        state.note_progress(consumed);
        let head_bytes = state.framing.head_bytes();
        if head_bytes > FREE_BYTES {
            // The library keeps its grown buffer as long as the connection is open.
            state.is_last_request = true;
            state.head_charge.grow_to(head_bytes.saturating_mul(BUFFER_FACTOR))?;
        }
        Ok(consumed)
    }

    /// Begins to answer a request whose head is complete. A head that must not be trusted is marked by [`UntrustedHead`].
    pub(super) fn begin_request<B: Body>(&self, request: &mut Request<B>) -> RequestInProgress {
        let mut state = self.0.lock();
        state.enter(ConnectionPhase::Busy);
        state.is_droppable = request.method().is_safe();
        let library_length = request.body().size_hint().exact();
        let fault = match state.framing.take_verdict() {
            Some(Ok(BodyLength::Bytes(length))) if library_length == Some(length) => None,
            Some(Ok(BodyLength::Chunked)) if library_length.is_none() => {
                state.is_last_request = true;
                None
            }
            Some(Err(fault)) => Some(describe_fault(fault)),
            _ => Some((ProblemKind::BadRequest, "the length of the request can be read in two ways")),
        };
        drop(state);
        if let Some((kind, reason)) = fault {
            request.extensions_mut().insert(UntrustedHead(kind, reason));
        }
        RequestInProgress(self.clone())
    }

    /// Notes that the request is handled and its answer begins.
    pub(super) fn begin_answer(&self) {
        self.0.lock().enter(ConnectionPhase::Answering);
    }

    /// Notes that the client has taken bytes of an answer.
    pub(super) fn record_written(&self, bytes: usize) {
        self.0.lock().note_progress(bytes);
    }

    /// Whether the connection ends with the answer to the current request.
    pub(super) fn is_last_request(&self) -> bool {
        self.0.lock().is_last_request
    }

    /// What is wrong with the current head, if anything.
    pub(super) fn head_fault(&self) -> Option<(ProblemKind, &'static str)> {
        self.0.lock().framing.fault().map(describe_fault)
    }

    /// Notes whether the client has not read all that was written.
    pub(super) fn set_blocked(&self, is_blocked: bool) {
        self.0.lock().is_blocked = is_blocked;
    }

    /// Makes the connection read on for a while at its end, so that the client sees the last answer.
    pub(super) fn set_lingering(&self) {
        self.0.lock().is_lingering = true;
    }

    pub(super) fn is_lingering(&self) -> bool {
        self.0.lock().is_lingering
    }
}

fn describe_fault(fault: HeadFault) -> (ProblemKind, &'static str) {
    match fault {
        HeadFault::Ambiguous(reason) => (ProblemKind::BadRequest, reason),
        HeadFault::UnknownCoding => (
            ProblemKind::UnknownCoding,
            "chunked is the only transfer coding that is supported; send the body without others",
        ),
    }
}
