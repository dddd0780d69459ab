//! Where a connection stands, known to both of its sides: the bytes, which know when a head begins, and the service,
//! which knows when a request is answered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::Request;
use axum::http::header::TRANSFER_ENCODING;
use tokio::time::Instant;

use super::head::Head;
use crate::api::guard::Distrusted;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has come yet.
    New,
    /// No byte of the next request has come.
    Idle,
    /// A head has begun.
    Head,
    /// A request is being answered.
    Busy,
}

/// The phases of one connection.
#[derive(Clone)]
pub(in crate::api) struct Phases(Arc<Mutex<State>>);

struct State {
    phase: Phase,
    since: Instant,
    head: Head,
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
        self.0.lock().turn(Phase::Idle);
    }
}

impl Default for Phases {
    /// Those of a connection that begins now.
    fn default() -> Self {
        let state = State { phase: Phase::New, since: Instant::now(), head: Head::default(), lingers: false };
        Self(Arc::new(Mutex::new(state)))
    }
}

impl Phases {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The phase, and since when it lasts.
    pub(super) fn current(&self) -> (Phase, Instant) {
        let state = self.lock();
        (state.phase, state.since)
    }

    /// Bytes came from the client.
    pub(super) fn received(&self, bytes: &[u8]) {
        let mut state = self.lock();
        if bytes.is_empty() || state.phase == Phase::Busy {
            return;
        }
        if state.phase != Phase::Head {
            state.turn(Phase::Head);
        }
        state.head.push(bytes);
    }

    /// A head is complete: its request is being answered until what is returned is dropped. What is wrong with the way
    /// the head was written is put beside the request.
    pub(in crate::api) fn begin<B>(&self, request: &mut Request<B>) -> Under {
        let mut state = self.lock();
        state.phase = Phase::Busy;
        let verdict = state.head.judge(request.method().as_str());
        state.head.clear();
        drop(state);
        let distrust = match verdict {
            Some(verdict) => verdict.err(),
            // Its bytes came while another request was being answered, and were not looked at.
            None if request.headers().contains_key(TRANSFER_ENCODING) => {
                Some("a request with Transfer-Encoding was sent before the last one was answered")
            }
            None => None,
        };
        if let Some(why) = distrust {
            request.extensions_mut().insert(Distrusted(why.to_owned()));
        }
        Under(self.clone())
    }

    /// The connection is to be read for a while after its end.
    pub(in crate::api) fn linger(&self) {
        self.lock().lingers = true;
    }

    pub(super) fn lingers(&self) -> bool {
        self.lock().lingers
    }
}
