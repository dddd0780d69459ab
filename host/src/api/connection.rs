//! One connection's bytes, watched: how long a head takes, how long nothing happens, how fast an answer is taken, and
//! where one request ends and the next begins.
//!
//! The HTTP library has one timeout for a head that counts from the end of the last answer, so that a connection that is
//! kept open and a head that trickles in could not be told apart. It drops what is dubious about a head before a service
//! sees it, and reads beyond the end of a request; so it is handed one request at a time. Bodies are not timed here:
//! `intake` reads them within a time.

mod framing;
mod pace;
mod phase;

pub(super) use pace::WritePace;
pub(super) use phase::{PhaseTracker, RequestInProgress};

use std::io;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::automatic;
use super::problem::Problem;
use pace::PaceWatch;
use phase::ConnectionPhase;

/// The most bytes that the HTTP library is handed at once. It doubles its buffer, which it keeps, whenever it is filled:
/// it is filled once, from 8 to 16 KiB.
const MAX_READ_BYTES: usize = 16 * 1024 - 1;
/// A timer that rang too early is not set again within less.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// The times of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionTimeouts {
    /// For a head, from its first byte on; for the first one, from the beginning of the connection on.
    pub(super) header_timeout_ms: u64,
    /// Without a request.
    pub(super) idle_timeout_ms: u64,
    /// For an answer.
    pub(super) write_pace: WritePace,
    /// For reading on after a refusal, so that a client that is still sending gets to see it.
    pub(super) linger_ms: u64,
}

/// A stream that ends when it takes too long.
pub(super) struct TimedStream<S> {
    stream: S,
    phases: PhaseTracker,
    times: ConnectionTimeouts,
    /// What came together with the end of a request and belongs to the next ones.
    held_back: Vec<u8>,
    /// Rings at the end of the phase, or before.
    timer: Option<Pin<Box<Sleep>>>,
    pace: PaceWatch,
    linger_deadline: Option<Pin<Box<Sleep>>>,
    /// What is written in place of what the HTTP library wrote, and how much of it has been.
    replacement: Option<(Vec<u8>, usize)>,
}

impl<S> TimedStream<S> {
    /// Watches a stream. `phases` is shared with the service that answers the requests.
    pub(super) fn new(stream: S, phases: PhaseTracker, times: ConnectionTimeouts) -> Self {
        Self {
            stream,
            phases,
            times,
            held_back: Vec::new(),
            timer: None,
            pace: PaceWatch::new(times.write_pace),
            linger_deadline: None,
            replacement: None,
        }
    }

    /// Ready when the time of this phase is over.
    ///
    /// One timer serves all phases: it is set earlier when a phase is shorter, and when it rings too early it is set to
    /// the end of the phase that it finds. So a request costs no timer of its own.
    fn poll_phase_over(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionPhase> {
        loop {
            let (phase, since) = self.phases.current();
            let (since, time_ms) = match phase {
                // Whoever connects has something to say.
                ConnectionPhase::New => (since, self.times.header_timeout_ms.min(self.times.idle_timeout_ms)),
                ConnectionPhase::Idle => (since, self.times.idle_timeout_ms),
                ConnectionPhase::Head => (since, self.times.header_timeout_ms),
                // Has no end by itself. What follows it has, and begins without a word to whoever waits for bytes.
                ConnectionPhase::Busy => (Instant::now(), self.times.idle_timeout_ms),
            };
            let ends_at = since + Duration::from_millis(time_ms);
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(ends_at)));
            if timer.deadline() > ends_at {
                timer.as_mut().reset(ends_at);
            }
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if phase != ConnectionPhase::Busy && ends_at <= now {
                return Poll::Ready(phase);
            }
            timer.as_mut().reset(ends_at.max(now + SHORTEST_PAUSE));
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TimedStream<S> {
    /// Reads what the HTTP library may see: bytes of one request. Leaves the buffer as it is at the end of the stream.
    fn poll_request(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.phases.ask().is_err() {
            let why = "the request is whole, but is read as if it were not";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        if !self.held_back.is_empty() {
            let offered = self.held_back.len().min(buffer.remaining());
            return Poll::Ready(match self.phases.received(&self.held_back[..offered]) {
                Ok(taken) => {
                    buffer.put_slice(&self.held_back[..taken]);
                    self.held_back.drain(..taken);
                    if self.held_back.is_empty() {
                        self.held_back = Vec::new();
                    }
                    Ok(())
                }
                Err(problem) => Err(self.refuse(cx, &problem, io::ErrorKind::OutOfMemory)),
            });
        }
        let mut space = [MaybeUninit::uninit(); MAX_READ_BYTES];
        let mut read = ReadBuf::uninit(&mut space[..buffer.remaining().min(MAX_READ_BYTES)]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        let bytes = read.filled();
        if bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(match self.phases.received(bytes) {
            Ok(taken) => {
                buffer.put_slice(&bytes[..taken]);
                self.held_back.extend_from_slice(&bytes[taken..]);
                Ok(())
            }
            Err(problem) => Err(self.refuse(cx, &problem, io::ErrorKind::OutOfMemory)),
        })
    }

    /// Answers in place of the HTTP library, and gives the error that ends the connection.
    fn refuse(&mut self, cx: &mut Context<'_>, problem: &Problem, kind: io::ErrorKind) -> io::Error {
        // A client that has no room for so little may take the answer or leave it.
        let _ = Pin::new(&mut self.stream).poll_write(cx, &automatic::answer(problem));
        io::Error::new(kind, "the head of a request was refused")
    }

    /// Judges the outcome of a write.
    fn poll_paced(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let was_blocked = self.pace.is_blocked();
        let judged = self.pace.judge(cx, write);
        if self.pace.is_blocked() && !was_blocked {
            self.phases.set_blocked(true);
        }
        judged
    }

    /// Writes what takes the place of what the HTTP library wrote, of which there are so many bytes.
    fn poll_replacement(&mut self, cx: &mut Context<'_>, replaced_bytes: usize) -> Poll<io::Result<usize>> {
        while let Some((replacement, written)) = self.replacement.take() {
            if written == replacement.len() {
                return Poll::Ready(Ok(replaced_bytes));
            }
            let write = Pin::new(&mut self.stream).poll_write(cx, &replacement[written..]);
            let more = self.poll_paced(cx, write);
            let more_bytes = if let Poll::Ready(Ok(more)) = &more { *more } else { 0 };
            self.replacement = Some((replacement, written + more_bytes));
            if more_bytes == 0 {
                return more;
            }
        }
        Poll::Ready(Ok(0))
    }

    /// Whether these bytes are replaced: the beginning of what the HTTP library writes.
    fn is_replaced(&mut self, bytes: &[u8]) -> bool {
        if self.replacement.is_none()
            && let Some(problem) = automatic::problem_for(bytes, || self.phases.head_refusal())
        {
            self.phases.linger();
            self.replacement = Some((automatic::answer(&problem), 0));
        }
        self.replacement.is_some()
    }

    /// Reads and forgets what still comes, until the client ends or the time is over.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.linger_deadline.get_or_insert_with(|| Box::pin(sleep_ms(self.times.linger_ms)));
        let mut bytes = [0_u8; 8 * 1024];
        loop {
            if deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = self.poll_request(cx, buffer) {
            return Poll::Ready(read);
        }
        match ready!(self.poll_phase_over(cx)) {
            // To the reader this is the client closing a connection that nobody needs.
            ConnectionPhase::New | ConnectionPhase::Idle | ConnectionPhase::Busy => Poll::Ready(Ok(())),
            ConnectionPhase::Head => {
                let problem = automatic::head_timeout(self.times.header_timeout_ms);
                Poll::Ready(Err(self.refuse(cx, &problem, io::ErrorKind::TimedOut)))
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_replaced(bytes) {
            return self.poll_replacement(cx, bytes.len());
        }
        let write = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.poll_paced(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // The library's own answers have no body, so their head is all there is.
        if let Some(first) = slices.first()
            && self.is_replaced(first)
        {
            return self.poll_replacement(cx, first.len());
        }
        let write = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.poll_paced(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called once everything that was to be written is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pace.is_blocked() {
            self.pace.all_taken();
            self.phases.set_blocked(false);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        if self.phases.lingers() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

fn sleep_ms(ms: u64) -> Sleep {
    tokio::time::sleep(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::timeout;

    use super::*;
    use crate::api::memory::MemoryBudget;

    /// Longer than anything here may take.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn watched(linger_ms: u64) -> (TimedStream<DuplexStream>, PhaseTracker, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(64);
        let write_pace = WritePace { grace_ms: 30, bytes_per_s: 400 };
        let times = ConnectionTimeouts { header_timeout_ms: 60_000, idle_timeout_ms: 60_000, write_pace, linger_ms };
        let phases = PhaseTracker::new(&MemoryBudget::new(0));
        (TimedStream::new(ours, phases.clone(), times), phases, theirs)
    }

    #[tokio::test]
    async fn an_answer_that_is_not_taken_ends_the_connection() {
        let (mut ours, _, _theirs) = watched(0);
        let error = timeout(PATIENCE, ours.write_all(&[0; 65])).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);

        // One that is taken a byte now and then ends it, too.
        let (mut ours, _, mut theirs) = watched(0);
        let take = async {
            while theirs.read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let write = async move { ours.write_all(&[0; 100_000]).await };
        let (written, ()) = timeout(PATIENCE, async { tokio::join!(write, take) }).await.unwrap();
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);

        // One that is taken slowly, but fast enough, does not. On a machine that stands still it may, now and then.
        let mut is_taken = false;
        for _ in 0..100 {
            let (mut ours, _, mut theirs) = watched(0);
            let take = async {
                let mut taken = [0; 16];
                while theirs.read_exact(&mut taken).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let write = async move { ours.write_all(&[0; 320]).await };
            let (written, ()) = timeout(PATIENCE, async { tokio::join!(write, take) }).await.unwrap();
            is_taken = written.is_ok();
            if is_taken {
                break;
            }
        }
        assert!(is_taken);
    }

    #[tokio::test]
    async fn after_a_refusal_what_still_comes_is_read_for_a_while() {
        let (mut ours, phases, mut theirs) = watched(60_000);
        phases.linger();
        let send = async {
            theirs.write_all(&[0; 100_000]).await.unwrap();
            drop(theirs);
        };
        let (ended, ()) = timeout(PATIENCE, async { tokio::join!(ours.shutdown(), send) }).await.unwrap();
        ended.unwrap();

        let (mut ours, phases, _theirs) = watched(30);
        phases.linger();
        timeout(PATIENCE, ours.shutdown()).await.expect("not for ever").unwrap();
        let (mut ours, _, _theirs) = watched(60_000);
        timeout(PATIENCE, ours.shutdown()).await.expect("not at all without a refusal").unwrap();
    }

    #[tokio::test]
    async fn a_made_up_refusal_is_replaced_however_slowly_it_is_taken() {
        let (mut ours, _, mut theirs) = watched(0);
        let made_up = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        let take = async {
            let mut taken = String::new();
            theirs.read_to_string(&mut taken).await.unwrap();
            taken
        };
        let write = async {
            ours.write_all(made_up).await.unwrap();
            drop(ours);
        };
        let ((), taken) = timeout(PATIENCE, async { tokio::join!(write, take) }).await.unwrap();
        let expected = automatic::problem_for(made_up, || None).map(|problem| automatic::answer(&problem));
        assert_eq!(Some(taken.into_bytes()), expected);
    }
}
