//! A load generator on one thread: connections over epoll, each with one request in flight. The bytes of the request are
//! prepared beforehand.
//!
//! A slow generator would measure itself, so this one only writes, reads, and looks at the status and the length of each
//! answer. In an open loop requests are due by the clock, even if earlier ones are not answered yet. Latency counts from
//! when a request was due, so that a server that stalls is charged for every request that would have waited.

mod connection;
pub mod ends;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::epoll;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use connection::Connection;

/// The epoll token of the timer.
const TIMER: u64 = u64::MAX;
/// The most epoll events that are read at once.
const MAX_EVENTS: usize = 256;
/// The longest time to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// On each connection as soon as the previous answer was read.
    Closed,
    /// This many per second over all connections, whether or not earlier ones are answered.
    Open(f64),
}

/// For how long requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// For this time.
    Time(Duration),
    /// Until this many were sent.
    Requests(u64),
}

/// What is sent, and how.
#[derive(Clone, Copy, Debug)]
pub struct HttpLoad<'a> {
    /// The address of the server.
    pub server: SocketAddr,
    /// Connections, each with one request in flight.
    pub connections: usize,
    /// The whole request: head and body.
    pub request: &'a [u8],
    /// When they are sent.
    pub pace: Pace,
    /// For how long.
    pub span: Span,
}

/// The outcome of a load.
#[derive(Clone, Debug)]
pub struct LoadResult {
    /// Requests with the answer 202.
    pub accepted: u64,
    /// Requests with another answer, and the last such status.
    pub refused: (u64, u16),
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// From when a request was due to its answer, in microseconds.
    pub latency_us: Histogram<u64>,
}

impl LoadResult {
    /// Accepted requests per second.
    pub fn rate(&self) -> f64 {
        self.accepted as f64 / self.elapsed.as_secs_f64()
    }
}

/// A histogram of times in microseconds, up to ten minutes, to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are valid")
}

/// A `POST /events` of one event with a payload of about this many bytes.
pub fn post(event_type: &str, payload_bytes: usize) -> Vec<u8> {
    post_body(&event(event_type, payload_bytes))
}

/// A `POST /events` of a batch of such events.
pub fn post_batch(event_type: &str, payload_bytes: usize, events: usize) -> Vec<u8> {
    post_body(&format!("[{}]", vec![event(event_type, payload_bytes); events].join(",")))
}

/// A JSON object of this many bytes, at least 10.
pub fn payload(bytes: usize) -> String {
    format!("{{\"key\":\"{}\"}}", "x".repeat(bytes.saturating_sub(10)))
}

fn event(event_type: &str, payload_bytes: usize) -> String {
    format!("{{\"type\":\"{event_type}\",\"payload\":{}}}", payload(payload_bytes))
}

fn post_body(body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

impl HttpLoad<'_> {
    /// Sends all requests and waits for the answers.
    ///
    /// # Errors
    /// The server closed a connection, did not answer within a minute, or answered something that is not HTTP.
    pub fn run(&self) -> io::Result<LoadResult> {
        self.run_observed(|_, _| {})
    }

    /// The same, and passes on each answer: when its request was due, and the body.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_observed(&self, observe: impl FnMut(Instant, &[u8])) -> io::Result<LoadResult> {
        // Without this the timer may be 50 µs late, which would be charged to the server.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        Generator::connect(self)?.run(observe)
    }
}

struct Generator<'a> {
    load: &'a HttpLoad<'a>,
    epoll: OwnedFd,
    timer: OwnedFd,
    connections: Vec<Connection>,
    /// When the request in flight on a connection was due.
    due: Vec<Instant>,
    /// Idle connections, the one that has been idle for longest first, so that none is idle for long.
    free: VecDeque<usize>,
    in_flight: usize,
    sent: u64,
    result: LoadResult,
}

impl<'a> Generator<'a> {
    fn connect(load: &'a HttpLoad<'a>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        let mut connections = Vec::with_capacity(load.connections);
        for index in 0..load.connections as u64 {
            let connection = Connection::open(load.server)?;
            let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            epoll::add(&epoll, connection.stream(), epoll::EventData::new_u64(index), flags)?;
            connections.push(connection);
        }
        let result = LoadResult { accepted: 0, refused: (0, 0), elapsed: Duration::ZERO, latency_us: histogram() };
        Ok(Self {
            load,
            epoll,
            timer,
            due: vec![Instant::now(); load.connections],
            free: (0..load.connections).collect(),
            connections,
            in_flight: 0,
            sent: 0,
            result,
        })
    }

    fn run(mut self, mut observe: impl FnMut(Instant, &[u8])) -> io::Result<LoadResult> {
        let begun = Instant::now();
        let mut events = Vec::with_capacity(MAX_EVENTS);
        loop {
            self.send_due(begun)?;
            if self.in_flight == 0 && self.is_over(begun, Instant::now()) {
                self.result.elapsed = begun.elapsed();
                return Ok(self.result);
            }
            events.clear();
            let patience = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
            let found = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&patience))?;
            if found == 0 {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the server did not answer within a minute"));
            }
            for event in &events {
                match event.data.u64() {
                    TIMER => _ = rustix::io::read(&self.timer, &mut [0_u8; 8]),
                    index => self.advance(index as usize, begun, &mut observe)?,
                }
            }
        }
    }

    /// Reads what arrived on a connection. Without a schedule, sends the next request on it.
    fn advance(&mut self, index: usize, begun: Instant, observe: &mut impl FnMut(Instant, &[u8])) -> io::Result<()> {
        let Some((status, body)) = self.connections[index].advance(self.load.request)? else { return Ok(()) };
        let (now, due) = (Instant::now(), self.due[index]);
        if status == 202 {
            self.result.accepted += 1;
            observe(due, body);
        } else {
            self.result.refused = (self.result.refused.0 + 1, status);
        }
        self.result.latency_us.saturating_record(u64::try_from((now - due).as_micros()).unwrap_or(u64::MAX));
        self.in_flight -= 1;
        if self.load.pace == Pace::Closed && !self.is_over(begun, now) {
            return self.send(index, now);
        }
        self.free.push_back(index);
        Ok(())
    }

    fn send_due(&mut self, begun: Instant) -> io::Result<()> {
        let mut now = Instant::now();
        while !self.free.is_empty() && !self.is_over(begun, now) {
            let due = self.due_at(begun, now);
            if due > now {
                let wait = Timespec::try_from(due - now).map_err(io::Error::other)?;
                let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: wait };
                rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
                return Ok(());
            }
            let Some(index) = self.free.pop_front() else { return Ok(()) };
            self.send(index, due)?;
            now = Instant::now();
        }
        Ok(())
    }

    fn due_at(&self, begun: Instant, now: Instant) -> Instant {
        match self.load.pace {
            Pace::Closed => now,
            Pace::Open(per_second) => begun + Duration::from_secs_f64(self.sent as f64 / per_second),
        }
    }

    /// Whether everything has been sent. A schedule is always sent completely, however late.
    fn is_over(&self, begun: Instant, now: Instant) -> bool {
        match self.load.span {
            Span::Requests(most) => self.sent >= most,
            Span::Time(span) => self.due_at(begun, now) >= begun + span,
        }
    }

    fn send(&mut self, index: usize, due: Instant) -> io::Result<()> {
        self.due[index] = due;
        self.sent += 1;
        self.in_flight += 1;
        self.connections[index].begin(self.load.request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A server that answers each request on one connection after a pause, in two pieces.
    fn server(pause: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; post("a", 20).len()];
            while stream.read_exact(&mut request).is_ok() {
                std::thread::sleep(pause);
                stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\n\r\nab").unwrap();
                stream.write_all(b"cd").unwrap();
            }
        });
        address
    }

    #[test]
    fn every_request_of_a_load_is_answered_and_counted() {
        let request = post("a", 20);
        let load = HttpLoad {
            server: server(Duration::ZERO),
            connections: 1,
            request: &request,
            pace: Pace::Closed,
            span: Span::Requests(50),
        };
        let mut bodies = Vec::new();
        let result = load.run_observed(|_, body| bodies.push(body.to_vec())).unwrap();
        assert_eq!((result.accepted, result.refused, result.latency_us.len()), (50, (0, 0), 50));
        assert_eq!(bodies, vec![b"abcd".to_vec(); 50]);
    }

    #[test]
    fn a_slow_server_is_charged_for_those_who_wait_behind() {
        let request = post("a", 20);
        let load = HttpLoad {
            server: server(Duration::from_millis(10)),
            connections: 1,
            request: &request,
            pace: Pace::Open(1_000.0),
            span: Span::Requests(20),
        };
        let result = load.run().unwrap();
        // The last one is due after 19 ms and cannot be answered before 20 times 10.
        assert!(result.latency_us.max() >= 180_000, "{}", result.latency_us.max());
    }
}
