//! The server on sockets: slow and broken clients, limits, and the end of the server.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::fake::{FakeBroker, fake_api};
use crate::api::memory_budget::MemoryBudget;
use crate::api::{Gateway, ServerOptions, serve};
use crate::shutdown::TaskGroup;

/// Longer than anything here may take; only a failing test waits for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct TestServer {
    pub(super) address: SocketAddr,
    pub(super) fake: std::sync::Arc<FakeBroker>,
    pub(super) memory: MemoryBudget,
    tasks: TaskGroup,
}

impl TestServer {
    pub(super) async fn start(options: ServerOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (api, fake) = fake_api(options.clone());
        let (gateway, tasks) = (Gateway::new(api), TaskGroup::new());
        let memory = gateway.memory().clone();
        let (stop, connections) = (tasks.stop_token().clone(), tasks.clone());
        tasks.spawn_critical("http", async move {
            serve(listener, gateway, options, stop, &connections).await;
            Ok(())
        });
        Self { address, fake, memory, tasks }
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// What is answered to these bytes until the server closes the connection.
    pub(super) async fn answer(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_to_end(&mut stream).await
    }

    pub(super) async fn stop(self) {
        self.tasks.stop_token().cancel();
        timeout(PATIENCE, self.tasks.ended()).await.expect("everything ends");
        assert!(self.tasks.failure().is_none());
    }
}

pub(super) fn options() -> ServerOptions {
    ServerOptions {
        header_timeout_ms: 60_000,
        body_timeout_ms: 60_000,
        idle_timeout_ms: 60_000,
        drain_ms: 60_000,
        ..ServerOptions::default()
    }
}

pub(super) async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("the server closes").unwrap();
    text
}

/// One answer with a length from a connection that stays open.
pub(super) async fn read_answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    loop {
        let complete = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            length.is_some_and(|length| body.len() >= length.parse().unwrap())
        });
        if complete {
            return text;
        }
        let mut bytes = [0_u8; 1];
        timeout(PATIENCE, stream.read_exact(&mut bytes)).await.expect("an answer").unwrap();
        text.push(char::from(bytes[0]));
    }
}

#[track_caller]
pub(super) fn is_problem(answer: &str, status: u16, kind: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains("\r\ncontent-type: application/problem+json\r\n"), "{answer}");
    assert!(answer.contains("\r\nx-content-type-options: nosniff\r\n"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    let document: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).expect(answer);
    assert_eq!(document["type"], format!("/problems/{kind}"), "{answer}");
}

pub(super) const LIVE: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn a_connection_is_used_for_several_requests() {
    let server = TestServer::start(options()).await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream.write_all(LIVE).await.unwrap();
        assert!(read_answer(&mut stream).await.starts_with("HTTP/1.1 200 OK"));
    }
    // Two at once, and a third in pieces.
    stream.write_all(&[LIVE, LIVE, &LIVE[..9]].concat()).await.unwrap();
    read_answer(&mut stream).await;
    read_answer(&mut stream).await;
    stream.write_all(&LIVE[9..]).await.unwrap();
    assert!(read_answer(&mut stream).await.starts_with("HTTP/1.1 200 OK"));
    server.stop().await;
}

#[tokio::test]
async fn events_are_accepted_with_and_without_a_length() {
    let server = TestServer::start(options()).await;
    let head = "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let sized = format!("{head}Content-Length: 12\r\n\r\n{{\"type\":\"a\"}}");
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n6\r\n{{\"type\r\n6\r\n\":\"a\"}}\r\n0\r\n\r\n");
    for request in [sized, chunked] {
        let answer = server.answer(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 202 Accepted"), "{answer}");
    }
    assert_eq!(server.fake.len(), 2);
    server.stop().await;
}

#[tokio::test]
async fn a_head_that_does_not_arrive_in_time_is_refused_however_it_trickles() {
    let server = TestServer::start(ServerOptions { header_timeout_ms: 150, ..options() }).await;
    is_problem(&server.answer(b"GET /livez HTTP/1.1\r\nHos").await, 408, "request-timeout");

    let (mut reads, mut writes) = server.connect().await.into_split();
    let trickle = async {
        // Each byte in itself is in time.
        for byte in b"GET /livez HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
            if writes.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        // The connection may be reset under the bytes that are still sent; the answer came before.
        _ = reads.read_to_end(&mut answer) => {}
        () = trickle => panic!("the server goes on reading"),
        () = tokio::time::sleep(PATIENCE) => panic!("the server goes on waiting"),
    }
    is_problem(std::str::from_utf8(&answer).unwrap(), 408, "request-timeout");
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_does_not_arrive_in_time_is_refused() {
    let server = TestServer::start(ServerOptions { body_timeout_ms: 100, ..options() }).await;
    let half = b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"ty";
    is_problem(&server.answer(half).await, 408, "request-timeout");
    assert_eq!(server.fake.len(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_ends_early_is_not_taken_for_an_event() {
    let server = TestServer::start(options()).await;
    let mut stream = server.connect().await;
    let half = b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{\"type\":\"a\"}";
    stream.write_all(half).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    assert_eq!(server.fake.len(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed_in_silence() {
    let server = TestServer::start(ServerOptions { idle_timeout_ms: 100, ..options() }).await;
    let mut stream = server.connect().await;
    stream.write_all(LIVE).await.unwrap();
    read_answer(&mut stream).await;
    assert_eq!(read_to_end(&mut stream).await, "");
    server.stop().await;

    let server = TestServer::start(ServerOptions { header_timeout_ms: 100, ..options() }).await;
    assert_eq!(server.answer(b"").await, "");
    server.stop().await;
}

#[tokio::test]
async fn an_open_connection_may_be_idle_for_longer_than_a_head_may_take() {
    let server = TestServer::start(ServerOptions { header_timeout_ms: 50, ..options() }).await;
    let mut stream = server.connect().await;
    for _ in 0..2 {
        stream.write_all(LIVE).await.unwrap();
        read_answer(&mut stream).await;
        let more = timeout(Duration::from_millis(200), stream.read_u8()).await;
        assert!(more.is_err(), "the connection stays open");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_with_a_document_while_it_is_still_sent() {
    let server = TestServer::start(ServerOptions { max_body_bytes: 10_000, ..options() }).await;
    for header_bytes in [40_000, 70_000, 300_000] {
        let request = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(header_bytes));
        is_problem(&server.answer(request.as_bytes()).await, 431, "headers-too-large");
    }
    let many = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(150));
    is_problem(&server.answer(many.as_bytes()).await, 431, "headers-too-large");
    let address = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(9_000));
    is_problem(&server.answer(address.as_bytes()).await, 414, "uri-too-long");

    let head = "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let sized = format!("{head}Content-Length: 100000\r\n\r\n{}", " ".repeat(100_000));
    is_problem(&server.answer(sized.as_bytes()).await, 413, "too-large");
    let chunks = format!("3e8\r\n{}\r\n", " ".repeat(1_000)).repeat(30);
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
    is_problem(&server.answer(chunked.as_bytes()).await, 413, "too-large");
    // So much that it is not even thrown away.
    let huge = format!("{head}Content-Length: 1000000000000\r\n\r\n");
    is_problem(&server.answer(huge.as_bytes()).await, 413, "too-large");
    server.stop().await;
}

#[tokio::test]
async fn whatever_is_refused_its_body_is_taken_so_that_the_sender_sees_why() {
    let server = TestServer::start(options()).await;
    let body = " ".repeat(900_000);
    for (line, headers, status, kind) in [
        ("POST /events", "Content-Type: text/plain\r\n", 415, "unsupported-media-type"),
        ("POST /events", "Content-Type: application/json\r\nIdempotency-Key: a b\r\n", 400, "bad-idempotency-key"),
        ("POST /events?x", "Content-Type: application/json\r\n", 400, "bad-query"),
        ("POST /nowhere", "", 404, "not-found"),
        ("PUT /events", "", 405, "method-not-allowed"),
        ("POST /events", "Sec-Fetch-Site: cross-site\r\n", 403, "cross-site"),
    ] {
        let headers = format!("Host: localhost\r\nConnection: close\r\n{headers}Content-Length: {}\r\n", body.len());
        let request = format!("{line} HTTP/1.1\r\n{headers}\r\n{body}");
        is_problem(&server.answer(request.as_bytes()).await, status, kind);
    }
    server.stop().await;
}

#[tokio::test]
async fn heads_that_two_servers_could_read_differently_are_refused() {
    let server = TestServer::start(options()).await;
    let post = "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    for request in [
        format!("{post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
        format!("{post}Content-Length: 2\r\nContent-Length: 2\r\n\r\n{{}}"),
        format!("{post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"),
        format!("{post}Content-Length: +2\r\n\r\n{{}}"),
        format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Content-Length: 2, 2\r\n\r\n{{}}"),
        "GET /livez HTTP/1.1\nHost: localhost\n\n".to_owned(),
        "GET /livez HTTP/1.1\r\n\r\n".to_owned(),
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: b\r\n\r\n".to_owned(),
        "GET /livez HTTP/1.1\r\nHost : a\r\n\r\n".to_owned(),
        "GET /livez HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n".to_owned(),
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nX: \0\r\n\r\n".to_owned(),
        "GET http://b/livez HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "BAD\r\n\r\n".to_owned(),
    ] {
        is_problem(&server.answer(request.as_bytes()).await, 400, "bad-request");
    }
    assert_eq!(server.fake.len(), 0);
    server.stop().await;
}

#[tokio::test]
async fn at_the_end_requests_under_way_are_answered_and_idle_connections_closed() {
    let server = TestServer::start(options()).await;
    let mut idle = server.connect().await;
    idle.write_all(LIVE).await.unwrap();
    read_answer(&mut idle).await;
    let mut busy = server.connect().await;
    let (head, body) = (
        "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n",
        "{\"type\":\"a\"}",
    );
    busy.write_all(head.as_bytes()).await.unwrap();
    // The handler is reading the body: the request is under way.
    let mut go_on = [0_u8; 25];
    busy.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");

    server.tasks.stop_token().cancel();
    assert_eq!(read_to_end(&mut idle).await, "");
    let refused = async {
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.expect("nothing listens any more");
    busy.write_all(body.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut busy).await;
    assert!(answer.starts_with("HTTP/1.1 202 Accepted"), "{answer}");
    assert_eq!(server.fake.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn what_does_not_end_within_the_drain_time_is_dropped() {
    let server = TestServer::start(ServerOptions { drain_ms: 100, ..options() }).await;
    let mut stuck = server.connect().await;
    stuck
        .write_all(
            b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
        )
        .await
        .unwrap();
    // A second connection that was answered shows that the first was accepted.
    let mut other = server.connect().await;
    other.write_all(LIVE).await.unwrap();
    read_answer(&mut other).await;
    let start = Instant::now();
    server.stop().await;
    assert!(start.elapsed() < PATIENCE / 2);
}
