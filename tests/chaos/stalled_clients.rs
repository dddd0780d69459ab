//! Clients that stop: some in the middle of a head or a body, some that send many requests and read no answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How many clients there are of each kind.
const OF_EACH: usize = 10;
/// How many requests a client sends that reads no answer.
const UNREAD_REQUESTS: usize = 40;
/// How long a client that goes on waits for the rest of its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The connections of stopped clients. Dropping this closes them.
pub struct StalledClients(#[expect(dead_code, reason = "they are held open, nothing more")] Vec<TcpStream>);

impl StalledClients {
    /// Connects them to a host, as far as it accepts them.
    pub fn begin(url: &str) -> Self {
        let head = "POST /events HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n";
        let body = format!("{head}\r\n{{\"type\":\"ok\",\"payload\":{{\"filler\":\"");
        let unread = "GET /events?limit=500 HTTP/1.1\r\nHost: h\r\n\r\n".repeat(UNREAD_REQUESTS);
        let kinds = [head.to_owned(), body, unread];
        let begin = |said: &String| {
            let mut socket = connect(url)?;
            // A host that does not read must not block the other clients.
            socket.set_nonblocking(true).ok()?;
            let _ = socket.write(said.as_bytes());
            Some(socket)
        };
        Self((0..OF_EACH).flat_map(|_| kinds.iter().filter_map(begin)).collect())
    }
}

/// Sends half of a request, waits while clients are stopped, and sends the rest. Returns the answer, if there is one.
pub fn post_with_pause(url: &str, body: &str, key: &str, stand_still: &AtomicBool, limit: Duration) -> Option<String> {
    let mut socket = connect(url)?;
    socket.set_read_timeout(Some(ANSWER_LIMIT)).ok()?;
    socket.set_write_timeout(Some(ANSWER_LIMIT)).ok()?;
    let head = format!(
        "POST /events HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nIdempotency-Key: {key}\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let (first, rest) = body.as_bytes().split_at(body.len() / 2);
    socket.write_all(head.as_bytes()).ok()?;
    socket.write_all(first).ok()?;
    let begun = Instant::now();
    while stand_still.load(Ordering::SeqCst) && begun.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(20));
    }
    socket.write_all(rest).ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn connect(url: &str) -> Option<TcpStream> {
    let address: SocketAddr = url.strip_prefix("http://")?.parse().ok()?;
    TcpStream::connect_timeout(&address, ANSWER_LIMIT).ok()
}
