//! Where a connection stands, known to both of its sides: the bytes, which know when a head begins and a request ends, and
//! the service, which knows when a request is answered.

use std::sync::Arc;

use axum::http::Request;
use hyper::body::Body;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::framing::{BodyLength, HeadFault, RequestFraming};
use crate::api::guard::UntrustedHead;
use crate::api::memory::{FREE_BYTES, MemoryBudget, MemoryCharge};
use crate::api::problem::{Problem, ProblemKind};

/// How much of the HTTP library's buffer a byte of a head may take, since the buffer grows by doubling.
const BUFFER_FACTOR: usize = 2;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum ConnectionPhase {
    /// Nothing has come yet.
    New,
    /// No byte of the next request has come.
    Idle,
    /// A head has begun.
    Head,
    /// A request is being answered.
    Busy,
}

/// The HTTP library wants more bytes for a request that is whole: it reads it in another way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FramingMismatch;

/// The phases of one connection.
#[derive(Clone)]
pub(in crate::api) struct PhaseTracker(Arc<Mutex<PhaseState>>);

struct PhaseState {
    phase: ConnectionPhase,
    since: Instant,
    framing: RequestFraming,
    /// What the head takes of the budget until its request is answered.
    head_memory: MemoryCharge,
    /// The connection ends with the answer to this request.
    is_last: bool,
    /// The client has not taken what is written.
    is_blocked: bool,
    lingers: bool,
}

impl PhaseState {
    fn turn(&mut self, phase: ConnectionPhase) {
        self.phase = phase;
        self.since = Instant::now();
    }
}

/// A request is being answered as long as this lives.
pub(in crate::api) struct RequestInProgress(PhaseTracker);

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.head_memory.clear();
        state.turn(ConnectionPhase::Idle);
    }
}

impl PhaseTracker {
    /// Those of a connection that begins now.
    pub(in crate::api) fn new(memory: &MemoryBudget) -> Self {
        Self(Arc::new(Mutex::new(PhaseState {
            phase: ConnectionPhase::New,
            since: Instant::now(),
            framing: RequestFraming::default(),
            head_memory: memory.charge(),
            is_last: false,
            is_blocked: false,
            lingers: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, PhaseState> {
        self.0.lock()
    }

    /// The phase, and since when it lasts.
    pub(super) fn current(&self) -> (ConnectionPhase, Instant) {
        let state = self.lock();
        (state.phase, state.since)
    }

    /// Since when the connection has been waiting for a request, if it waits for one and has written all answers. `true`
    /// for a connection that never had a request.
    pub(in crate::api) fn quiet_since(&self) -> Option<(Instant, bool)> {
        let state = self.lock();
        match state.phase {
            _ if state.is_blocked => None,
            ConnectionPhase::New => Some((state.since, true)),
            ConnectionPhase::Idle => Some((state.since, false)),
            ConnectionPhase::Head | ConnectionPhase::Busy => None,
        }
    }

    /// The HTTP library wants bytes. Begins the next request if the last one is answered.
    ///
    /// # Errors
    /// [`ReadAstray`] if it has all bytes of the request under way already.
    pub(super) fn ask(&self) -> Result<(), FramingMismatch> {
        let mut state = self.lock();
        match (state.framing.is_whole(), state.phase) {
            (false, _) => Ok(()),
            (true, ConnectionPhase::Idle) => {
                state.framing.begin_next();
                Ok(())
            }
            (true, _) => Err(FramingMismatch),
        }
    }

    /// Bytes came from the client: how many of them belong to the request under way.
    ///
    /// # Errors
    /// The refusal to answer with if there is no memory for the head.
    pub(super) fn received(&self, bytes: &[u8]) -> Result<usize, Problem> {
        let mut state = self.lock();
        if state.framing.is_in_head() && state.phase != ConnectionPhase::Head {
            state.turn(ConnectionPhase::Head);
        }
        let taken = state.framing.take(bytes);
        let head_bytes = state.framing.head_bytes();
        if head_bytes > FREE_BYTES {
            // The library keeps the buffer for the rest of the connection.
            state.is_last = true;
            state.head_memory.grow_to(head_bytes.saturating_mul(BUFFER_FACTOR))?;
        }
        Ok(taken)
    }

    /// A head is complete: its request is being answered until what is returned is dropped. What is wrong with the way
    /// the head was written is put beside the request.
    pub(in crate::api) fn begin<B: Body>(&self, request: &mut Request<B>) -> RequestInProgress {
        let mut state = self.lock();
        state.phase = ConnectionPhase::Busy;
        let read_length = request.body().size_hint().exact();
        let distrust = match state.framing.take_verdict() {
            Some(Ok(BodyLength::Bytes(length))) if read_length == Some(length) => None,
            Some(Ok(BodyLength::Chunked)) if read_length.is_none() => {
                state.is_last = true;
                None
            }
            Some(Err(fault)) => Some(refusal(fault)),
            _ => Some((ProblemKind::BadRequest, "the length of the request can be read in two ways")),
        };
        drop(state);
        if let Some((kind, why)) = distrust {
            request.extensions_mut().insert(UntrustedHead(kind, why));
        }
        RequestInProgress(self.clone())
    }

    /// Whether the connection is to end with the answer to the request under way.
    pub(in crate::api) fn is_last(&self) -> bool {
        self.lock().is_last
    }

    /// What is wrong with the head under way, as the refusal tells it.
    pub(super) fn head_refusal(&self) -> Option<(ProblemKind, &'static str)> {
        self.lock().framing.fault().map(refusal)
    }

    /// Whether the client leaves what is written where it is.
    pub(super) fn set_blocked(&self, is_blocked: bool) {
        self.lock().is_blocked = is_blocked;
    }

    /// The connection is to be read for a while after its end.
    pub(in crate::api) fn linger(&self) {
        self.lock().lingers = true;
    }

    pub(super) fn lingers(&self) -> bool {
        self.lock().lingers
    }
}

fn refusal(fault: HeadFault) -> (ProblemKind, &'static str) {
    match fault {
        HeadFault::Ambiguous(why) => (ProblemKind::BadRequest, why),
        HeadFault::UnknownCoding => (
            ProblemKind::UnknownCoding,
            "the only transfer coding that is decoded here is chunked; send the body without others",
        ),
    }
}
