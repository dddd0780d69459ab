//! Where a connection stands, known to both of its sides: the bytes, which know when a head begins, and the service,
//! which knows when a request is answered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use axum::http::Request;
use axum::http::header::TRANSFER_ENCODING;

use super::head::Head;
use crate::api::guard::Distrusted;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No byte of the next request has come.
    Idle,
    /// A head has begun.
    Head,
    /// A request is being answered.
    Busy,
}

/// The phases of one connection.
#[derive(Clone, Default)]
pub(in crate::api) struct Phases(Arc<Mutex<State>>);

struct State {
    phase: Phase,
    /// Goes up with each phase.
    number: u64,
    head: Head,
    lingers: bool,
    /// Who waits for bytes.
    reader: Option<Waker>,
}

impl Default for State {
    fn default() -> Self {
        Self { phase: Phase::Idle, number: 0, head: Head::default(), lingers: false, reader: None }
    }
}

impl State {
    fn turn(&mut self, phase: Phase) {
        self.phase = phase;
        self.number += 1;
    }
}

/// A request is being answered as long as this lives.
pub(in crate::api) struct Under(Phases);

impl Drop for Under {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.head = Head::default();
        state.turn(Phase::Idle);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Phases {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The phase and its number. The reader is woken when a request has been answered, for then another time begins.
    pub(super) fn current(&self, reader: &Waker) -> (u64, Phase) {
        let mut state = self.lock();
        if !state.reader.as_ref().is_some_and(|known| known.will_wake(reader)) {
            state.reader = Some(reader.clone());
        }
        (state.number, state.phase)
    }

    /// Bytes came from the client.
    pub(super) fn received(&self, bytes: &[u8]) {
        let mut state = self.lock();
        if bytes.is_empty() || state.phase == Phase::Busy {
            return;
        }
        if state.phase == Phase::Idle {
            state.turn(Phase::Head);
        }
        state.head.push(bytes);
    }

    /// A head is complete: its request is being answered until what is returned is dropped. What is wrong with the way
    /// the head was written is put beside the request.
    pub(in crate::api) fn begin<B>(&self, request: &mut Request<B>) -> Under {
        let mut state = self.lock();
        let head = std::mem::take(&mut state.head);
        state.turn(Phase::Busy);
        let distrust = match head.judge(request.method().as_str()) {
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
