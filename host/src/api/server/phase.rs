//! The phase of a connection, shared by its two sides. The stream knows when a head begins and where a request ends. The
//! service knows when a request is answered.

use std::sync::Arc;

use axum::http::Request;
use hyper::body::Body;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::framing::{BodyLength, HeadFault, RequestFraming};
use crate::api::guard::UntrustedHead;
use crate::api::memory_budget::{FREE_BYTES, MemoryBudget, MemoryCharge};
use crate::api::problem::{Problem, ProblemKind};

/// The HTTP library's buffer takes up to this many bytes for each byte of a head, since it grows by doubling.
const BUFFER_FACTOR: usize = 2;

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionPhase {
    /// No byte has arrived yet.
    New,
    /// No byte of the next request has arrived yet.
    Idle,
    /// A head has begun.
    Head,
    /// A request is being answered.
    Busy,
}

/// The HTTP library asks for more bytes of a request that is complete: it disagrees about the end of the request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FramingMismatch;

/// Tracks the phase of one connection. Clones share it.
#[derive(Clone)]
pub(super) struct PhaseTracker(Arc<Mutex<PhaseState>>);

struct PhaseState {
    phase: ConnectionPhase,
    since: Instant,
    framing: RequestFraming,
    /// The memory of the head, until its request is answered.
    head_charge: MemoryCharge,
    /// Whether the connection ends with the answer to this request.
    is_last_request: bool,
    /// Whether the client has not read all that was written.
    is_blocked: bool,
    is_lingering: bool,
}

impl PhaseState {
    fn enter(&mut self, phase: ConnectionPhase) {
        self.phase = phase;
        self.since = Instant::now();
    }
}

/// Marks a request as in progress until it is dropped.
pub(super) struct RequestInProgress(PhaseTracker);

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.head_charge.release();
        state.enter(ConnectionPhase::Idle);
    }
}

impl PhaseTracker {
    /// A tracker for a connection that begins now.
    pub(super) fn new(memory: &MemoryBudget) -> Self {
        Self(Arc::new(Mutex::new(PhaseState {
            phase: ConnectionPhase::New,
            since: Instant::now(),
            framing: RequestFraming::default(),
            head_charge: memory.new_charge(),
            is_last_request: false,
            is_blocked: false,
            is_lingering: false,
        })))
    }

    /// The phase and its beginning.
    pub(super) fn current(&self) -> (ConnectionPhase, Instant) {
        let state = self.0.lock();
        (state.phase, state.since)
    }

    /// Since when the connection has been idle, if it is and all answers are written. The flag says whether it is new: it has
    /// never had a request.
    pub(super) fn idle_since(&self) -> Option<(Instant, bool)> {
        let state = self.0.lock();
        match state.phase {
            _ if state.is_blocked => None,
            ConnectionPhase::New => Some((state.since, true)),
            ConnectionPhase::Idle => Some((state.since, false)),
            ConnectionPhase::Head | ConnectionPhase::Busy => None,
        }
    }

    /// Call before each read for the HTTP library. Begins the next request if the last one is answered.
    ///
    /// # Errors
    /// [`FramingMismatch`] if the library already has all bytes of the request.
    pub(super) fn prepare_read(&self) -> Result<(), FramingMismatch> {
        let mut state = self.0.lock();
        match (state.framing.is_complete(), state.phase) {
            (false, _) => Ok(()),
            (true, ConnectionPhase::Idle) => {
                state.framing.begin_next();
                Ok(())
            }
            (true, _) => Err(FramingMismatch),
        }
    }

    /// Takes in bytes from the client. Returns how many of them belong to the current request.
    ///
    /// # Errors
    /// The refusal to answer with if there is no memory for the head.
    pub(super) fn record_bytes(&self, bytes: &[u8]) -> Result<usize, Problem> {
        let mut state = self.0.lock();
        if state.framing.is_in_head() && state.phase != ConnectionPhase::Head {
            state.enter(ConnectionPhase::Head);
        }
        let consumed = state.framing.consume(bytes);
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
        state.phase = ConnectionPhase::Busy;
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
