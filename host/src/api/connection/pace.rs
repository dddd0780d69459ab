//! How fast a client takes an answer: one that takes none of it, or a byte now and then, holds the answer's memory.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// How long a client may take for what is written to it.
#[derive(Clone, Copy, Debug)]
pub(in crate::api) struct WritePace {
    /// Whatever the size.
    pub(in crate::api) grace_ms: u64,
    /// Beyond that, a second for so many bytes.
    pub(in crate::api) bytes_per_s: u64,
}

/// Watches what is written from the first byte that the client leaves in the way until all of it is taken.
pub(super) struct PaceWatch {
    pace: WritePace,
    blocked: Option<BlockedWrite>,
}

struct BlockedWrite {
    since: Instant,
    taken_bytes: u64,
    timer: Pin<Box<Sleep>>,
}

impl PaceWatch {
    pub(super) fn new(pace: WritePace) -> Self {
        Self { pace, blocked: None }
    }

    /// Whether something is in the way.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// The outcome of a write, or an error for one that is not possible and has not been for too long.
    pub(super) fn judge(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = write {
            if let (Some(blocked), Ok(bytes)) = (&mut self.blocked, &written) {
                blocked.taken_bytes += *bytes as u64;
            }
            return Poll::Ready(written);
        }
        let pace = self.pace;
        let blocked = self.blocked.get_or_insert_with(|| {
            let since = Instant::now();
            BlockedWrite { since, taken_bytes: 0, timer: Box::pin(tokio::time::sleep_until(pace.deadline(since, 0))) }
        });
        let deadline = pace.deadline(blocked.since, blocked.taken_bytes);
        if blocked.timer.deadline() != deadline {
            blocked.timer.as_mut().reset(deadline);
        }
        ready!(blocked.timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take the answer, or too slowly")))
    }

    /// Everything that was written is taken.
    pub(super) fn all_taken(&mut self) {
        self.blocked = None;
    }
}

impl WritePace {
    fn deadline(self, since: Instant, taken_bytes: u64) -> Instant {
        let more_ms = taken_bytes.saturating_mul(1_000) / self.bytes_per_s.max(1);
        since + Duration::from_millis(self.grace_ms.saturating_add(more_ms))
    }
}
