//! Where a connection stands, known to both of its sides: the bytes, which know when a head begins and a request ends, and
//! the service, which knows when a request is answered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::Request;
use hyper::body::Body;
use tokio::time::Instant;

use super::framing::{BodyLength, Framing, HeadFault};
use crate::api::guard::Distrusted;
use crate::api::memory::{FREE_BYTES, MemoryBudget, MemoryCharge};
use crate::api::problem::{Kind, Problem};

/// How much of the HTTP library's buffer a byte of a head may take, since the buffer grows by doubling.
const BUFFER_FACTOR: usize = 2;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Phase {
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
pub(super) struct ReadAstray;

/// The phases of one connection.
#[derive(Clone)]
pub(in crate::api) struct Phases(Arc<Mutex<State>>);

struct State {
    phase: Phase,
    since: Instant,
    framing: Framing,
    /// What the head takes of the budget until its request is answered.
    head_memory: MemoryCharge,
    /// The connection ends with the answer to this request.
    is_last: bool,
    /// The client has not taken what is written.
    is_blocked: bool,
    lingers: bool,
}

impl State {
    fn turn(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
    }
}

/// A request is being answered as long as this lives.
pub(in crate::api) struct Under(Phases);

impl Drop for Under {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.head_memory.clear();
        state.turn(Phase::Idle);
    }
}

impl Phases {
    /// Those of a connection that begins now.
    pub(in crate::api) fn new(memory: &MemoryBudget) -> Self {
        Self(Arc::new(Mutex::new(State {
            phase: Phase::New,
            since: Instant::now(),
            framing: Framing::default(),
            head_memory: memory.charge(),
            is_last: false,
            is_blocked: false,
            lingers: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The phase, and since when it lasts.
    pub(super) fn current(&self) -> (Phase, Instant) {
        let state = self.lock();
        (state.phase, state.since)
    }

    /// Since when the connection has been waiting for a request, if it waits for one and has written all answers. `true`
    /// for a connection that never had a request.
    pub(in crate::api) fn quiet_since(&self) -> Option<(Instant, bool)> {
        let state = self.lock();
        match state.phase {
            _ if state.is_blocked => None,
            Phase::New => Some((state.since, true)),
            Phase::Idle => Some((state.since, false)),
            Phase::Head | Phase::Busy => None,
        }
    }

    /// The HTTP library wants bytes. Begins the next request if the last one is answered.
    ///
    /// # Errors
    /// [`ReadAstray`] if it has all bytes of the request under way already.
    pub(super) fn ask(&self) -> Result<(), ReadAstray> {
        let mut state = self.lock();
        match (state.framing.is_whole(), state.phase) {
            (false, _) => Ok(()),
            (true, Phase::Idle) => {
                state.framing.begin_next();
                Ok(())
            }
            (true, _) => Err(ReadAstray),
        }
    }

    /// Bytes came from the client: how many of them belong to the request under way.
    ///
    /// # Errors
    /// The refusal to answer with if there is no memory for the head.
    pub(super) fn received(&self, bytes: &[u8]) -> Result<usize, Problem> {
        let mut state = self.lock();
        if state.framing.is_in_head() && state.phase != Phase::Head {
            state.turn(Phase::Head);
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
    pub(in crate::api) fn begin<B: Body>(&self, request: &mut Request<B>) -> Under {
        let mut state = self.lock();
        state.phase = Phase::Busy;
        let read_length = request.body().size_hint().exact();
        let distrust = match state.framing.take_verdict() {
            Some(Ok(BodyLength::Bytes(length))) if read_length == Some(length) => None,
            Some(Ok(BodyLength::Chunked)) if read_length.is_none() => {
                state.is_last = true;
                None
            }
            Some(Err(fault)) => Some(refusal(fault)),
            _ => Some((Kind::BadRequest, "the length of the request can be read in two ways")),
        };
        drop(state);
        if let Some((kind, why)) = distrust {
            request.extensions_mut().insert(Distrusted(kind, why));
        }
        Under(self.clone())
    }

    /// Whether the connection is to end with the answer to the request under way.
    pub(in crate::api) fn is_last(&self) -> bool {
        self.lock().is_last
    }

    /// What is wrong with the head under way, as the refusal tells it.
    pub(super) fn head_refusal(&self) -> Option<(Kind, &'static str)> {
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

fn refusal(fault: HeadFault) -> (Kind, &'static str) {
    match fault {
        HeadFault::Ambiguous(why) => (Kind::BadRequest, why),
        HeadFault::UnknownCoding => (
            Kind::UnknownCoding,
            "the only transfer coding that is decoded here is chunked; send the body without others",
        ),
    }
}
