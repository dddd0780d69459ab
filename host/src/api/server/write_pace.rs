//! How fast a client must read an answer. A client that reads none of it, or a byte now and then, would hold its memory.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// The time that a client has to read an answer: a fixed part and a part that grows with what it has read.
#[derive(Clone, Copy, Debug)]
pub(super) struct WritePace {
    pub(super) grace_ms: u64,
    pub(super) bytes_per_s: u64,
}

/// Times the writes of a connection, from the first one that blocks until everything is written.
pub(super) struct PaceWatch {
    pace: WritePace,
    blocked: Option<BlockedWrite>,
}

struct BlockedWrite {
    since: Instant,
    written_bytes: u64,
    timer: Pin<Box<Sleep>>,
}

impl PaceWatch {
    pub(super) fn new(pace: WritePace) -> Self {
        Self { pace, blocked: None }
    }

    /// Whether a write has blocked since the last call of [`Self::end_blocked`].
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Returns the outcome of a write, or `TimedOut` if writes have been blocked for too long.
    pub(super) fn check(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = write {
            if let (Some(blocked), Ok(bytes)) = (&mut self.blocked, &written) {
                blocked.written_bytes += *bytes as u64;
            }
            return Poll::Ready(written);
        }
        let pace = self.pace;
        let blocked = self.blocked.get_or_insert_with(|| {
            let since = Instant::now();
            BlockedWrite { since, written_bytes: 0, timer: Box::pin(tokio::time::sleep_until(pace.deadline(since, 0))) }
        });
        let deadline = pace.deadline(blocked.since, blocked.written_bytes);
        if blocked.timer.deadline() != deadline {
            blocked.timer.as_mut().reset(deadline);
        }
        ready!(blocked.timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client reads the answer too slowly or not at all",
        )))
    }

    /// Notes that everything is written.
    pub(super) fn end_blocked(&mut self) {
        self.blocked = None;
    }
}

impl WritePace {
    fn deadline(self, since: Instant, written_bytes: u64) -> Instant {
        let more_ms = written_bytes.saturating_mul(1_000) / self.bytes_per_s.max(1);
        since + Duration::from_millis(self.grace_ms.saturating_add(more_ms))
    }
}
