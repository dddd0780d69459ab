//! The byte stream of a connection: limits how long heads, idle times and answers take, and separates requests.
//!
//! The HTTP library has one head timeout, which starts at the end of the last answer. It cannot tell an idle connection from
//! a head that arrives byte by byte. It also drops dubious parts of a head, and reads beyond the end of a request. So this
//! stream times the phases itself and hands the library the bytes of one request at a time. The time of a body is limited
//! in `request`.

use std::io;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::head_refusal;
use super::phase::{ConnectionPhase, PhaseTracker, ReadRefusal};
use super::write_pace::{PaceWatch, WritePace};
use crate::api::problem::{Problem, ProblemKind};
use crate::api::request::STALLED;

/// The most bytes for the HTTP library at a time. Its buffer doubles whenever it is full and never shrinks. One byte less
/// than 16 KiB lets it grow once, from 8 to 16 KiB.
const MAX_READ_BYTES: usize = 16 * 1024 - 1;
/// The shortest time for which the timer is set again.
const MIN_TIMER_PAUSE: Duration = Duration::from_millis(1);

/// The timeouts of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionTimeouts {
    /// For a head, from its first byte on. For the first head, from the beginning of the connection on.
    pub(super) header_timeout_ms: u64,
    /// Between two requests.
    pub(super) idle_timeout_ms: u64,
    /// For an answer.
    pub(super) write_pace: WritePace,
    /// For reading on after a refusal, so that a client that is still sending sees it.
    pub(super) linger_ms: u64,
}

/// A stream that ends when a phase takes too long.
pub(super) struct TimedStream<S> {
    stream: S,
    phases: PhaseTracker,
    timeouts: ConnectionTimeouts,
    /// Bytes that arrived with the end of a request and belong to the next ones.
    next_requests: Vec<u8>,
    /// Fires at the end of the phase or earlier.
    timer: Option<Pin<Box<Sleep>>>,
    pace: PaceWatch,
    linger_timer: Option<Pin<Box<Sleep>>>,
    /// The answer that replaces one of the HTTP library, and how much of it is written.
    replacement: Option<(Vec<u8>, usize)>,
}

impl<S> TimedStream<S> {
    /// Watches a stream. The service that answers its requests shares `phases`.
    pub(super) fn new(stream: S, phases: PhaseTracker, timeouts: ConnectionTimeouts) -> Self {
        Self {
            stream,
            phases,
            timeouts,
            next_requests: Vec::new(),
            timer: None,
            pace: PaceWatch::new(timeouts.write_pace),
            linger_timer: None,
            replacement: None,
        }
    }

    /// Ready when the time of the current phase is over.
    ///
    /// One timer serves all phases, so that a request costs no timer of its own. It is set earlier for a shorter phase. If it
    /// fires too early, it is set to the end of the phase that is then current.
    fn poll_phase_timeout(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionPhase> {
        loop {
            let (phase, since) = self.phases.current();
            let (since, time_ms) = match phase {
                // A client that connects is expected to send a request soon.
                ConnectionPhase::New => (since, self.timeouts.header_timeout_ms.min(self.timeouts.idle_timeout_ms)),
                ConnectionPhase::Idle => (since, self.timeouts.idle_timeout_ms),
                ConnectionPhase::Head => (since, self.timeouts.header_timeout_ms),
                // These have no timeout. The idle phase begins without waking this task, so the timer must be set for it.
                ConnectionPhase::Busy | ConnectionPhase::Answering => (Instant::now(), self.timeouts.idle_timeout_ms),
            };
            let ends_at = since + Duration::from_millis(time_ms);
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(ends_at)));
            if timer.deadline() > ends_at {
                timer.as_mut().reset(ends_at);
            }
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if !matches!(phase, ConnectionPhase::Busy | ConnectionPhase::Answering) && ends_at <= now {
                return Poll::Ready(phase);
            }
            timer.as_mut().reset(ends_at.max(now + MIN_TIMER_PAUSE));
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TimedStream<S> {
    /// Reads bytes of one request for the HTTP library. At the end of the stream the buffer stays as it is.
    fn poll_request_bytes(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.phases.prepare_read() {
            Ok(()) => {}
            Err(ReadRefusal::BeyondRequest) => {
                let reason = "the HTTP library reads beyond the end of the request";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, reason)));
            }
            // The end of the stream: to the library it looks as if the client had closed an idle connection.
            Err(ReadRefusal::Evicted(ConnectionPhase::New | ConnectionPhase::Idle)) => return Poll::Ready(Ok(())),
            Err(ReadRefusal::Evicted(ConnectionPhase::Head)) => {
                let problem = Problem::new(ProblemKind::RequestTimeout, STALLED);
                return Poll::Ready(Err(self.refuse_head(cx, &problem, io::ErrorKind::TimedOut)));
            }
            Err(ReadRefusal::Evicted(ConnectionPhase::Busy | ConnectionPhase::Answering)) => {
                return Poll::Ready(Err(eviction_error()));
            }
        }
        if !self.next_requests.is_empty() {
            let offered = self.next_requests.len().min(buffer.remaining());
            return match self.phases.record_bytes(&self.next_requests[..offered]) {
                Ok(0) => self.poll_request_bytes(cx, buffer),
                Ok(consumed) => {
                    buffer.put_slice(&self.next_requests[..consumed]);
                    self.next_requests.drain(..consumed);
                    if self.next_requests.is_empty() {
                        self.next_requests = Vec::new();
                    }
                    Poll::Ready(Ok(()))
                }
                Err(problem) => Poll::Ready(Err(self.refuse_head(cx, &problem, io::ErrorKind::OutOfMemory))),
            };
        }
        let mut space = [MaybeUninit::uninit(); MAX_READ_BYTES];
        let mut read = ReadBuf::uninit(&mut space[..buffer.remaining().min(MAX_READ_BYTES)]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        let bytes = read.filled();
        if bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match self.phases.record_bytes(bytes) {
            Ok(consumed) => {
                buffer.put_slice(&bytes[..consumed]);
                self.next_requests.extend_from_slice(&bytes[consumed..]);
                // An empty buffer would be the end of the stream. The next call has the reason why nothing was consumed.
                if consumed == 0 { self.poll_request_bytes(cx, buffer) } else { Poll::Ready(Ok(())) }
            }
            Err(problem) => Poll::Ready(Err(self.refuse_head(cx, &problem, io::ErrorKind::OutOfMemory))),
        }
    }

    /// Writes a refusal without the HTTP library, and returns the error that ends the connection.
    fn refuse_head(&mut self, cx: &mut Context<'_>, problem: &Problem, kind: io::ErrorKind) -> io::Error {
        // If the socket has no room for so few bytes, the client does without them.
        let _ = Pin::new(&mut self.stream).poll_write(cx, &head_refusal::answer_bytes(problem));
        io::Error::new(kind, "the head of a request was refused")
    }

    /// Applies the write pace to the outcome of a write.
    fn poll_paced(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &write {
            Poll::Ready(Ok(bytes)) => self.phases.record_written(*bytes),
            Poll::Pending if self.phases.is_evicted() => return Poll::Ready(Err(eviction_error())),
            _ => {}
        }
        let was_blocked = self.pace.is_blocked();
        let checked = self.pace.check(cx, write);
        if self.pace.is_blocked() && !was_blocked {
            self.phases.set_blocked(true);
        }
        checked
    }

    /// Writes the replacement of an answer of the HTTP library, which has `replaced_bytes` bytes.
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

    /// Whether a write is replaced. `bytes` is the beginning of what the HTTP library writes.
    fn is_replaced(&mut self, bytes: &[u8]) -> bool {
        if self.replacement.is_none()
            && let Some(problem) = head_refusal::problem_for(bytes, || self.phases.head_fault())
        {
            self.phases.set_lingering();
            self.replacement = Some((head_refusal::answer_bytes(&problem), 0));
        }
        self.replacement.is_some()
    }

    /// Reads and discards bytes until the client ends the stream or the linger time is over.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let linger = Duration::from_millis(self.timeouts.linger_ms);
        let timer = self.linger_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(linger)));
        let mut bytes = [0_u8; 8 * 1024];
        loop {
            if timer.as_mut().poll(cx).is_ready() || self.phases.is_evicted() {
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
        if let Poll::Ready(read) = self.poll_request_bytes(cx, buffer) {
            return Poll::Ready(read);
        }
        match ready!(self.poll_phase_timeout(cx)) {
            // Ends the stream. To the library it looks as if the client had closed an idle connection.
            ConnectionPhase::New | ConnectionPhase::Idle | ConnectionPhase::Busy | ConnectionPhase::Answering => {
                Poll::Ready(Ok(()))
            }
            ConnectionPhase::Head => {
                let problem = head_refusal::head_timeout(self.timeouts.header_timeout_ms);
                Poll::Ready(Err(self.refuse_head(cx, &problem, io::ErrorKind::TimedOut)))
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
        // An answer of the library itself is a head without a body, so it is in the first slice.
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

    /// The library calls this once everything is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pace.is_blocked() {
            self.pace.end_blocked();
            self.phases.set_blocked(false);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        if self.phases.is_lingering() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

fn eviction_error() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the connection gives way to another one")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::timeout;

    use super::*;
    use crate::api::memory_budget::MemoryBudget;

    /// Longer than anything here may take.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn watched(linger_ms: u64) -> (TimedStream<DuplexStream>, PhaseTracker, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(64);
        let write_pace = WritePace { grace_ms: 30, bytes_per_s: 400 };
        let timeouts = ConnectionTimeouts { header_timeout_ms: 60_000, idle_timeout_ms: 60_000, write_pace, linger_ms };
        let phases = PhaseTracker::new(&MemoryBudget::new(0));
        (TimedStream::new(ours, phases.clone(), timeouts), phases, theirs)
    }

    #[tokio::test]
    async fn an_answer_that_is_not_read_ends_the_connection() {
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
    async fn after_a_refusal_the_connection_reads_on_for_a_while() {
        let (mut ours, phases, mut theirs) = watched(60_000);
        phases.set_lingering();
        let send = async {
            theirs.write_all(&[0; 100_000]).await.unwrap();
            drop(theirs);
        };
        let (ended, ()) = timeout(PATIENCE, async { tokio::join!(ours.shutdown(), send) }).await.unwrap();
        ended.unwrap();

        let (mut ours, phases, _theirs) = watched(30);
        phases.set_lingering();
        timeout(PATIENCE, ours.shutdown()).await.expect("not for ever").unwrap();
        let (mut ours, _, _theirs) = watched(60_000);
        timeout(PATIENCE, ours.shutdown()).await.expect("not at all without a refusal").unwrap();
    }

    #[tokio::test]
    async fn a_refusal_of_the_library_is_replaced_however_slowly_it_is_read() {
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
        let expected = head_refusal::problem_for(made_up, || None).map(|problem| head_refusal::answer_bytes(&problem));
        assert_eq!(Some(taken.into_bytes()), expected);
    }
}
