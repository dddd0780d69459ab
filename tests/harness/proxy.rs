//! A TCP proxy that stands between the host and Redis and fails in the ways that a network does.
//!
//! It can refuse and cut connections, hold traffic back, delay it, and drop the answer to a chosen command after Redis has
//! carried the command out. It parses the Redis protocol (RESP2, and RESP3 without pushes) only to tell commands and
//! answers apart, and never changes what it passes on. It runs on a thread and a runtime of its own, so that a test that
//! blocks its runtime does not stop it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A running proxy. Dropping it cuts its connections.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// How the proxy treats its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Wire {
    /// Connections are closed as soon as they are made.
    cut: bool,
    /// Nothing passes, and nothing is closed.
    frozen: bool,
    /// The delay in each direction.
    delay: Duration,
    /// Goes up with each cut. Connections of an older generation are closed.
    generation: u64,
    /// The proxy has been dropped.
    ended: bool,
}

struct Shared {
    wire: watch::Sender<Wire>,
    lost_answers: Mutex<Vec<LostAnswer>>,
    connections: AtomicUsize,
    answers_lost: AtomicUsize,
}

/// An order to drop the answer to a command.
struct LostAnswer {
    /// The command contains this text in some argument, in upper or lower case.
    text: String,
    /// How many such commands pass before it.
    pass_before: usize,
}

impl Proxy {
    /// Starts a proxy on a free port of 127.0.0.1.
    pub fn start(upstream: SocketAddr) -> Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            wire: watch::Sender::new(Wire::default()),
            lost_answers: Mutex::new(Vec::new()),
            connections: AtomicUsize::new(0),
            answers_lost: AtomicUsize::new(0),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new().name("proxy".into()).spawn(move || {
            runtime.block_on(async move {
                if let Ok(listener) = TcpListener::from_std(listener) {
                    accept(listener, upstream, for_thread).await;
                }
            });
        })?;
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// The address on which the proxy listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL under which the host reaches Redis through the proxy.
    pub fn redis_url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Closes every connection, and every new one at once, until [`Self::restore`].
    pub fn cut(&self) {
        self.change(|wire| {
            wire.cut = true;
            wire.generation += 1;
        });
    }

    /// Closes every connection. New ones are served.
    pub fn cut_once(&self) {
        self.change(|wire| wire.generation += 1);
    }

    /// Serves new connections again.
    pub fn restore(&self) {
        self.change(|wire| wire.cut = false);
    }

    /// Holds all traffic back without closing anything, until [`Self::thaw`].
    pub fn freeze(&self) {
        self.change(|wire| wire.frozen = true);
    }

    /// Lets held traffic pass.
    pub fn thaw(&self) {
        self.change(|wire| wire.frozen = false);
    }

    /// Delays traffic in each direction.
    pub fn delay(&self, ms: u64) {
        self.change(|wire| wire.delay = Duration::from_millis(ms));
    }

    /// Drops the answer to the `nth` command from now, counted from 1, that contains the text. Redis carries the command
    /// out, then the connection is cut before the answer passes. May be called several times.
    pub fn drop_reply_to(&self, text: &str, nth: usize) {
        let lost = LostAnswer { text: text.to_ascii_lowercase(), pass_before: nth.saturating_sub(1) };
        self.shared.lost_answers.lock().unwrap_or_else(PoisonError::into_inner).push(lost);
    }

    /// Cancels every order of [`Self::drop_reply_to`] that has not been carried out.
    pub fn keep_replies(&self) {
        self.shared.lost_answers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How many answers [`Self::drop_reply_to`] has dropped.
    pub fn answers_lost(&self) -> usize {
        self.shared.answers_lost.load(Ordering::SeqCst)
    }

    /// How many connections were made to the proxy, including those that it closed at once.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    fn change(&self, change: impl FnOnce(&mut Wire)) {
        self.shared.wire.send_modify(change);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|wire| wire.ended = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, shared: Arc<Shared>) {
    let mut wire = shared.wire.subscribe();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                shared.connections.fetch_add(1, Ordering::SeqCst);
                if !shared.wire.borrow().cut {
                    connections.spawn(serve(client, upstream, shared.clone()));
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = wire.wait_for(|wire| wire.ended) => return,
        }
    }
}

/// Serves one connection until either side closes it, the proxy cuts it, or an answer on it is dropped.
async fn serve(client: TcpStream, upstream: SocketAddr, shared: Arc<Shared>) {
    let mut wire = shared.wire.subscribe();
    let generation = wire.borrow().generation;
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // The number of the command whose answer is dropped, among the commands of this connection, from 1.
    let lost_place = Arc::new(AtomicUsize::new(0));
    tokio::select! {
        _ = forward_commands(from_client, to_server, shared.clone(), lost_place.clone()) => {}
        _ = forward_answers(from_server, to_client, shared.clone(), lost_place) => {}
        _ = wire.wait_for(|wire| wire.generation != generation || wire.ended) => {}
    }
}

async fn forward_commands(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: Arc<Shared>,
    lost_place: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let mut commands = Frames::default();
    loop {
        let passed = read_and_hold(&mut from, &shared).await?;
        for (place, command) in commands.push(&passed) {
            if lost_place.load(Ordering::SeqCst) == 0 && is_to_be_lost(&shared, &command) {
                lost_place.store(place, Ordering::SeqCst);
            }
        }
        to.write_all(&passed).await?;
    }
}

async fn forward_answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: Arc<Shared>,
    lost_place: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let mut answers = Frames::default();
    loop {
        let passed = read_and_hold(&mut from, &shared).await?;
        // Only whole answers pass, so that no part of a dropped one does.
        for (place, answer) in answers.push(&passed) {
            if place == lost_place.load(Ordering::SeqCst) {
                shared.answers_lost.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            to.write_all(&answer).await?;
        }
    }
}

/// Reads what is there and holds it back as long as it must.
async fn read_and_hold(from: &mut OwnedReadHalf, shared: &Shared) -> std::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 64 * 1024];
    let size_bytes = from.read(&mut buffer).await?;
    if size_bytes == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    buffer.truncate(size_bytes);
    let mut wire = shared.wire.subscribe();
    let delay = wire.borrow().delay;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let _ = wire.wait_for(|wire| !wire.frozen).await;
    Ok(buffer)
}

fn is_to_be_lost(shared: &Shared, command: &[u8]) -> bool {
    let mut lost_answers = shared.lost_answers.lock().unwrap_or_else(PoisonError::into_inner);
    let command = command.to_ascii_lowercase();
    let contains = |text: &str| command.windows(text.len().max(1)).any(|window| window == text.as_bytes());
    let mut found = None;
    for (place, lost) in lost_answers.iter_mut().enumerate().filter(|(_, lost)| contains(&lost.text)) {
        if lost.pass_before == 0 {
            found = Some(place);
            break;
        }
        lost.pass_before -= 1;
    }
    found.map(|place| lost_answers.remove(place)).is_some()
}

/// Splits a stream of bytes into the values of the Redis protocol.
#[derive(Default)]
struct Frames {
    rest: Vec<u8>,
    complete: usize,
}

impl Frames {
    /// The values that these bytes complete, each with its number in the stream, from 1.
    fn push(&mut self, bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
        self.rest.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(size_bytes) = frame_size(&self.rest) {
            self.complete += 1;
            frames.push((self.complete, self.rest.drain(..size_bytes).collect()));
        }
        frames
    }
}

/// The size of the first value, if it is complete.
fn frame_size(bytes: &[u8]) -> Option<usize> {
    let line_end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let header = line_end + 2;
    let count = || std::str::from_utf8(&bytes[1..line_end]).ok()?.parse::<i64>().ok();
    match bytes.first()? {
        b'$' | b'=' | b'!' => match usize::try_from(count()?) {
            Ok(size_bytes) => (bytes.len() >= header + size_bytes + 2).then_some(header + size_bytes + 2),
            Err(_) => Some(header),
        },
        kind @ (b'*' | b'~' | b'%' | b'>') => {
            let per_item = if *kind == b'%' { 2 } else { 1 };
            let items = usize::try_from(count()?).unwrap_or(0) * per_item;
            let mut size_bytes = header;
            for _ in 0..items {
                size_bytes += frame_size(bytes.get(size_bytes..)?)?;
            }
            Some(size_bytes)
        }
        _ => Some(header),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::RedisServer;

    #[test]
    fn values_are_split_wherever_the_bytes_are_split() {
        let stream = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n+OK\r\n$-1\r\n*1\r\n*2\r\n:1\r\n$2\r\n\r\n\r\n-ERR no\r\n";
        for split in 0..stream.len() {
            let mut frames = Frames::default();
            let mut found = frames.push(&stream[..split]);
            found.extend(frames.push(&stream[split..]));
            assert_eq!(found.len(), 5, "split at {split}");
            assert_eq!(found.into_iter().flat_map(|(_, frame)| frame).collect::<Vec<u8>>(), stream);
        }
    }

    #[test]
    fn a_lost_answer_takes_effect_once_and_closes_the_connection() {
        let server = RedisServer::start().unwrap();
        let proxy = Proxy::start(server.address()).unwrap();
        let client = redis::Client::open(proxy.redis_url()).unwrap();
        let mut connection = client.get_connection().unwrap();
        proxy.drop_reply_to("incr", 2);
        let incr = redis::cmd("INCR").arg("n").clone();
        assert_eq!(incr.query::<i64>(&mut connection).unwrap(), 1);
        assert!(incr.query::<i64>(&mut connection).is_err(), "the second answer is lost");
        assert_eq!(proxy.answers_lost(), 1);
        let mut connection = client.get_connection().unwrap();
        proxy.drop_reply_to("incr", 1);
        proxy.keep_replies();
        assert_eq!(incr.query::<i64>(&mut connection).unwrap(), 3);
        assert_eq!(server.command::<i64>(&["GET", "n"]).unwrap(), 3);
    }

    #[test]
    fn a_cut_wire_refuses_and_a_restored_one_serves() {
        let server = RedisServer::start().unwrap();
        let proxy = Proxy::start(server.address()).unwrap();
        let client = redis::Client::open(proxy.redis_url()).unwrap();
        let mut connection = client.get_connection().unwrap();
        proxy.cut();
        assert!(redis::cmd("PING").query::<String>(&mut connection).is_err());
        assert!(client.get_connection().is_err());
        proxy.restore();
        assert!(client.get_connection().is_ok());
    }

    #[test]
    fn a_frozen_wire_holds_back_until_it_thaws() {
        let server = RedisServer::start().unwrap();
        let proxy = Proxy::start(server.address()).unwrap();
        let mut connection = redis::Client::open(proxy.redis_url()).unwrap().get_connection().unwrap();
        proxy.freeze();
        let asking = std::thread::spawn(move || redis::cmd("PING").query::<String>(&mut connection));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!asking.is_finished(), "nothing passes a frozen wire");
        proxy.thaw();
        assert_eq!(asking.join().unwrap().unwrap(), "PONG");
    }
}
