//! When events end, as a client sees it: asks for each of them until it has ended.
//!
//! The records hold milliseconds only, so they cannot tell. One thread asks on one connection, an event first
//! [`FIRST_LOOK`] after it was accepted and then every [`PAUSE`]; the time found is too long by up to a pause and an
//! answer. Whoever measures gives a sample, so that the asking does not weigh.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::connection::head;
use super::histogram;

/// How long after it was accepted an event is first asked for.
const FIRST_LOOK: Duration = Duration::from_micros(100);
/// The pause between two questions for an event that is young; it grows with the age.
const PAUSE: Duration = Duration::from_micros(60);
/// An event that takes longer than this is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A thread that looks at events until they have ended.
pub struct Ends {
    questions: Sender<Question>,
    thread: JoinHandle<io::Result<Histogram<u64>>>,
}

/// An event to look at; ordered by when.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Question {
    at: Instant,
    due: Instant,
    id: String,
}

impl Ends {
    /// Looks at events of this server.
    ///
    /// # Errors
    /// It cannot be connected to.
    pub fn of(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (questions, asked) = mpsc::channel();
        Ok(Self { questions, thread: std::thread::spawn(move || watch(stream, &asked)) })
    }

    /// Looks at the event that was accepted with this answer, whose request was due then.
    pub fn look_at(&self, due: Instant, answer: &[u8]) {
        let text = std::str::from_utf8(answer).unwrap_or_default();
        let id = text.split("\"eventId\":\"").nth(1).and_then(|rest| rest.split('"').next());
        if let Some(id) = id {
            // The thread ends early only with an error, which `finish` gives.
            let _ = self.questions.send(Question { at: Instant::now() + FIRST_LOOK, due, id: id.to_owned() });
        }
    }

    /// Waits until all have ended; the times from when each was due, in microseconds.
    ///
    /// # Errors
    /// The server did not answer, or an event did not end within a minute.
    pub fn finish(self) -> io::Result<Histogram<u64>> {
        drop(self.questions);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that looks at events panicked")))
    }
}

fn watch(mut stream: TcpStream, asked: &Receiver<Question>) -> io::Result<Histogram<u64>> {
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let mut open: BinaryHeap<Reverse<Question>> = BinaryHeap::new();
    let (mut times_us, mut is_closed) = (histogram(), false);
    loop {
        let now = Instant::now();
        let next = open.peek().map(|Reverse(question)| question.at);
        let wait = next.map_or(PATIENCE, |at| at.saturating_duration_since(now));
        if is_closed && next.is_none() {
            return Ok(times_us);
        }
        if is_closed {
            std::thread::sleep(wait);
        } else {
            match asked.recv_timeout(wait) {
                Ok(question) => {
                    open.push(Reverse(question));
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    is_closed = true;
                    continue;
                }
            }
        }
        let Some(Reverse(question)) = open.pop() else { continue };
        if has_ended(&mut stream, &question.id)? {
            times_us.saturating_record(u64::try_from(question.due.elapsed().as_micros()).unwrap_or(u64::MAX));
            continue;
        }
        let age = question.due.elapsed();
        if age > PATIENCE {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "an event did not end within a minute"));
        }
        // A twentieth of what was waited already, so that events that take long are not asked for all the time.
        open.push(Reverse(Question { at: Instant::now() + PAUSE.max(age / 20), ..question }));
    }
}

fn has_ended(stream: &mut TcpStream, id: &str) -> io::Result<bool> {
    stream.write_all(format!("GET /events/{id} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())?;
    let (mut answer, mut piece) = (Vec::new(), [0; 4_096]);
    loop {
        let bytes = stream.read(&mut piece)?;
        if bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection of the looker"));
        }
        answer.extend_from_slice(&piece[..bytes]);
        if let Some(head) = head(&answer)?
            && answer.len() >= head.body_at + head.body_bytes
        {
            return Ok(answer.windows(10).any(|word| word == b"\"endedAt\":"));
        }
    }
}
