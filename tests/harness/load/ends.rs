//! When events end, as a client sees it: asks for each of them until it has ended.
//!
//! The records of events hold milliseconds, which is too coarse. One thread asks on one connection, first [`FIRST_LOOK`]
//! after an event was accepted and then every [`PAUSE`]. The measured time is too long by at most one pause and one answer.
//! A measurement passes only a sample of its events, so that the requests do not disturb it.

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

/// How long after its acceptance an event is first asked for.
const FIRST_LOOK: Duration = Duration::from_micros(100);
/// The pause between two requests for a young event. It grows with the age of the event.
const PAUSE: Duration = Duration::from_micros(60);
/// The longest time that an event may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A thread that asks for events until they have ended.
pub struct Ends {
    questions: Sender<EventPoll>,
    thread: JoinHandle<io::Result<Histogram<u64>>>,
}

/// An event to ask for, ordered by when.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct EventPoll {
    at: Instant,
    due: Instant,
    id: String,
}

impl Ends {
    /// Starts the thread for the events of a server.
    ///
    /// # Errors
    /// The server cannot be connected to.
    pub fn of(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (questions, asked) = mpsc::channel();
        Ok(Self { questions, thread: std::thread::spawn(move || watch(stream, &asked)) })
    }

    /// Adds the event that this answer accepted. `due` is when its request was due.
    pub fn look_at(&self, due: Instant, answer: &[u8]) {
        let text = std::str::from_utf8(answer).unwrap_or_default();
        let id = text.split("\"eventId\":\"").nth(1).and_then(|rest| rest.split('"').next());
        if let Some(id) = id {
            // The thread ends early only with an error, which `finish` gives.
            let _ = self.questions.send(EventPoll { at: Instant::now() + FIRST_LOOK, due, id: id.to_owned() });
        }
    }

    /// Waits until all events have ended. Returns the times from when each was due to its end, in microseconds.
    ///
    /// # Errors
    /// The server did not answer, or an event did not end within a minute.
    pub fn finish(self) -> io::Result<Histogram<u64>> {
        drop(self.questions);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that looks at events panicked")))
    }
}

fn watch(mut stream: TcpStream, asked: &Receiver<EventPoll>) -> io::Result<Histogram<u64>> {
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let mut open: BinaryHeap<Reverse<EventPoll>> = BinaryHeap::new();
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
        // A twentieth of the event's age, so that slow events are asked for less often.
        open.push(Reverse(EventPoll { at: Instant::now() + PAUSE.max(age / 20), ..question }));
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
