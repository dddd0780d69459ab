//! The memory of requests and answers: one budget for all of them.
//!
//! A client decides how long its body takes to arrive and how long an answer takes to leave. Without a budget, the server
//! could hold the largest body once for each connection.
//!
//! The first [`FREE_BYTES`] of each body, head and answer are free, since the limit on connections bounds them. So small
//! requests pass while large ones use up the budget.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::page_turns::PageTurns;
use super::problem::Problem;

/// The bytes of each body, head and answer that are not charged.
pub(super) const FREE_BYTES: usize = 8 * 1024;
/// The unit of a charge, in bytes.
const UNIT_BYTES: usize = 1024;
/// The memory that all bodies, heads and answers in progress may take together. Clones share one budget.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    free_units: Arc<Semaphore>,
    size_bytes: usize,
    page_turns: PageTurns,
}

impl MemoryBudget {
    /// A budget of this size, rounded down to a KiB.
    pub fn new(size_bytes: usize) -> Self {
        let units = (size_bytes / UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        Self { free_units: Arc::new(Semaphore::new(units)), size_bytes, page_turns: PageTurns::default() }
    }

    /// A charge of no bytes yet.
    pub(super) fn new_charge(&self) -> MemoryCharge {
        MemoryCharge { budget: self.clone(), permit: None }
    }

    /// The turns to make pages of events. Drop the turn when the page is written.
    pub(super) fn page_turns(&self) -> &PageTurns {
        &self.page_turns
    }

    /// Charges an answer until it is written. If the budget is used up, returns a refusal instead where `may_refuse` allows
    /// it: the request must not have changed anything.
    pub(super) fn charge_answer(&self, mut answer: Response, may_refuse: bool) -> Response {
        let size_bytes = answer.body().size_hint().lower();
        let size_bytes = usize::try_from(size_bytes).unwrap_or(usize::MAX);
        if size_bytes <= FREE_BYTES {
            return answer;
        }
        let charge = match answer.extensions_mut().remove::<PrepaidCharge>() {
            Some(PrepaidCharge(charge)) => charge,
            None => {
                let mut charge = self.new_charge();
                match charge.grow_to(size_bytes) {
                    Err(problem) if may_refuse => return problem.into_response(),
                    _ => Arc::new(charge),
                }
            }
        };
        answer.map(|body| Body::new(ChargedBody { body, charge }))
    }

    /// What is not charged.
    #[cfg(test)]
    pub(super) fn free_bytes(&self) -> usize {
        self.free_units.available_permits() * UNIT_BYTES
    }

    fn refusal(&self) -> Problem {
        let size_bytes = self.size_bytes;
        tracing::warn!(
            "requests are refused: requests and answers in progress take all of server.max_buffered_bytes = {size_bytes}"
        );
        Problem::overloaded(format!(
            "requests and answers in progress take all of the server's {size_bytes} bytes for them \
             (server.max_buffered_bytes): try again"
        ))
    }
}

/// What one body, head or answer takes of the budget. Dropping it gives the memory back.
#[derive(Debug)]
pub(super) struct MemoryCharge {
    budget: MemoryBudget,
    permit: Option<OwnedSemaphorePermit>,
}

impl MemoryCharge {
    /// Raises the charge to this many bytes in all. It never shrinks.
    ///
    /// # Errors
    /// The refusal to answer with if the budget has too little left. The charge then stays as it was.
    pub(super) fn grow_to(&mut self, size_bytes: usize) -> Result<(), Problem> {
        let units = size_bytes.saturating_sub(FREE_BYTES).div_ceil(UNIT_BYTES);
        let charged_units = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Some(missing) = units.checked_sub(charged_units).filter(|missing| *missing > 0) else { return Ok(()) };
        let more = u32::try_from(missing)
            .ok()
            .and_then(|missing| Arc::clone(&self.budget.free_units).try_acquire_many_owned(missing).ok());
        match (more, &mut self.permit) {
            (None, _) => Err(self.budget.refusal()),
            (Some(more), Some(permit)) => {
                permit.merge(more);
                Ok(())
            }
            (more, permit) => {
                *permit = more;
                Ok(())
            }
        }
    }

    /// Gives the memory back.
    pub(super) fn release(&mut self) {
        self.permit = None;
    }

    /// Ties the charge to these bytes: it ends when the last clone of them is dropped.
    pub(super) fn attach(self, bytes: Vec<u8>) -> Bytes {
        match self.permit {
            None => Bytes::from(bytes),
            Some(permit) => Bytes::from_owner(ChargedBytes { bytes, _charge: permit }),
        }
    }
}

/// An extension of an answer that was charged before the request took effect, since it can no longer be refused.
#[derive(Clone)]
pub(super) struct PrepaidCharge(pub(super) Arc<MemoryCharge>);

/// Bytes with their charge.
struct ChargedBytes<B, C> {
    bytes: B,
    _charge: C,
}

impl<B: AsRef<[u8]>, C> AsRef<[u8]> for ChargedBytes<B, C> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

/// The body of an answer. Its bytes are charged until the connection has written them.
struct ChargedBody {
    body: Body,
    charge: Arc<MemoryCharge>,
}

impl HttpBody for ChargedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let charge = &self.charge;
        let charged = |bytes| Bytes::from_owner(ChargedBytes { bytes, _charge: Arc::clone(charge) });
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(charged))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use http_body_util::BodyExt;

    use super::*;

    const KIB: usize = 1024;

    #[test]
    fn what_is_small_is_free() {
        let budget = MemoryBudget::new(0);
        let mut charge = budget.new_charge();
        charge.grow_to(FREE_BYTES).unwrap();
        assert_eq!(charge.grow_to(FREE_BYTES + 1).unwrap_err().status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn a_charge_grows_and_lasts_as_long_as_the_bytes() {
        let budget = MemoryBudget::new(64 * KIB);
        let mut charge = budget.new_charge();
        for size_bytes in [FREE_BYTES + 16 * KIB, FREE_BYTES, FREE_BYTES + 32 * KIB - 1] {
            charge.grow_to(size_bytes).unwrap();
        }
        assert_eq!(budget.free_bytes(), 32 * KIB);
        charge.grow_to(FREE_BYTES + 65 * KIB).unwrap_err();
        charge.grow_to(usize::MAX).unwrap_err();
        let bytes = charge.attach(vec![7; 40 * KIB]);
        let part = bytes.slice(..10);
        drop(bytes);
        assert_eq!((budget.free_bytes(), &part[..]), (32 * KIB, &[7; 10][..]));
        drop(part);
        assert_eq!(budget.free_bytes(), 64 * KIB);
    }

    #[test]
    fn an_answer_that_was_charged_before_is_not_charged_again() {
        let budget = MemoryBudget::new(64 * KIB);
        let mut charge = budget.new_charge();
        charge.grow_to(FREE_BYTES + 60 * KIB).unwrap();
        let mut answer = vec![7; FREE_BYTES + 40 * KIB].into_response();
        answer.extensions_mut().insert(PrepaidCharge(Arc::new(charge)));
        let answer = budget.charge_answer(answer, true);
        assert_eq!((budget.free_bytes(), answer.status()), (4 * KIB, StatusCode::OK));
        drop(answer);
        assert_eq!(budget.free_bytes(), 64 * KIB);
    }

    #[tokio::test]
    async fn an_answer_is_charged_until_its_bytes_are_gone() {
        let budget = MemoryBudget::new(64 * KIB);
        let large = || vec![7; FREE_BYTES + 40 * KIB].into_response();
        let answer = budget.charge_answer(large(), true);
        assert_eq!(budget.free_bytes(), 24 * KIB);
        assert_eq!(budget.charge_answer(large(), true).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(budget.charge_answer(large(), false).status(), StatusCode::OK, "what was done is told");
        assert_eq!(budget.charge_answer(vec![7; FREE_BYTES].into_response(), true).status(), StatusCode::OK);
        // The connection takes the bytes out of the body and keeps them for as long as the client does not read.
        let mut body = answer.into_body();
        let bytes = body.frame().await.unwrap().unwrap().into_data().unwrap();
        drop(body);
        assert_eq!((budget.free_bytes(), bytes.len()), (24 * KIB, FREE_BYTES + 40 * KIB));
        drop(bytes);
        assert_eq!(budget.free_bytes(), 64 * KIB);
    }
}
