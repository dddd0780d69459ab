//! Bodies of requests and responses. Both are bounded in size, and response bodies in time.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;
use wasmtime_wasi_http::{Error, WasiBody};

/// The body of a request. More than `limit_bytes` cancels the request.
pub(super) fn outgoing(body: WasiBody, limit_bytes: u64) -> WasiBody {
    let too_large = move || Error::HttpRequestBodySize(Some(limit_bytes));
    BoundedBody { body: Box::pin(body), left_bytes: limit_bytes, too_large, timeout: None }.boxed_unsync()
}

/// The body of a response, with at most `limit_bytes`. It must end before `deadline` and pause at most for `pause`.
pub(super) fn incoming(body: Incoming, limit_bytes: u64, deadline: Instant, pause: Option<Duration>) -> WasiBody {
    let too_large = move || Error::HttpResponseBodySize(Some(limit_bytes));
    let sleep = Box::pin(tokio::time::sleep_until(next_deadline(deadline, pause)));
    let timeout = BodyTimeout { deadline, pause, sleep };
    let body = Box::pin(body.map_err(|_| Error::HttpResponseIncomplete));
    BoundedBody { body, left_bytes: limit_bytes, too_large, timeout: Some(timeout) }.boxed_unsync()
}

fn next_deadline(deadline: Instant, pause: Option<Duration>) -> tokio::time::Instant {
    pause.and_then(|pause| Instant::now().checked_add(pause)).map_or(deadline, |pause| pause.min(deadline)).into()
}

struct BodyTimeout {
    deadline: Instant,
    pause: Option<Duration>,
    sleep: Pin<Box<Sleep>>,
}

struct BoundedBody<B, F> {
    body: Pin<Box<B>>,
    left_bytes: u64,
    too_large: F,
    timeout: Option<BodyTimeout>,
}

impl<B, F> Body for BoundedBody<B, F>
where
    B: Body<Data = Bytes, Error = Error>,
    F: Fn() -> Error + Unpin,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = this.body.as_mut().poll_frame(context) else {
            let has_expired = |timeout: &mut BodyTimeout| timeout.sleep.as_mut().poll(context).is_ready();
            return match this.timeout.as_mut().is_some_and(has_expired) {
                true => Poll::Ready(Some(Err(Error::HttpResponseTimeout))),
                false => Poll::Pending,
            };
        };
        if let Some(timeout) = &mut this.timeout {
            // Checked here too, because the timer is not polled while data is always ready.
            if Instant::now() >= timeout.deadline {
                return Poll::Ready(Some(Err(Error::HttpResponseTimeout)));
            }
            timeout.sleep.as_mut().reset(next_deadline(timeout.deadline, timeout.pause));
        }
        let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
        let size_bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        match this.left_bytes.checked_sub(size_bytes) {
            Some(left_bytes) => this.left_bytes = left_bytes,
            None => return Poll::Ready(Some(Err((this.too_large)()))),
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
