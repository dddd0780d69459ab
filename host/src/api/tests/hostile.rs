//! The server on real sockets against clients that smuggle requests, hold connections, or hold memory.

use std::future::Future;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::server::{LIVE, PATIENCE, TestServer, is_problem, options, read_answer, read_to_end};
use crate::api::ServerOptions;
use crate::api::memory_budget::FREE_BYTES;
use crate::event::EventState;

pub(super) const POST: &str = "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
pub(super) const EVENT: &str = "{\"type\":\"a\"}";

pub(super) fn sized(body: &str) -> String {
    format!("{POST}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn chunked(body: &str) -> String {
    format!("{POST}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

pub(super) fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or(answer)
}

/// Asks again until the answer has this status.
async fn until<F: Future<Output = String>>(wanted: &str, ask: impl Fn() -> F) -> String {
    let asked = async {
        loop {
            let answer = ask().await;
            if status(&answer) == wanted {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("never {wanted}"))
}

/// What is answered to this request on a connection of its own, which the server may keep open.
pub(super) async fn ask(server: &TestServer, request: &str) -> String {
    let mut stream = server.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    read_answer(&mut stream).await
}

/// A request of which everything has come but the last bytes of the body, and that is being read.
pub(super) async fn stalled(server: &TestServer, announced_bytes: usize, sent: &str) -> TcpStream {
    let mut stream = server.connect().await;
    let head = format!("{POST}Expect: 100-continue\r\nContent-Length: {announced_bytes}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0_u8; 25];
    timeout(PATIENCE, stream.read_exact(&mut go_on)).await.expect("the body is wanted").unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    stream
}

/// Sends an event and a part of a request behind it, and the rest once the event is accepted. Returns what then is answered.
async fn answer_behind_an_event(server: &TestServer, request: &str, cut: usize) -> String {
    let mut stream = server.connect().await;
    let (start, rest) = request.split_at(cut);
    stream.write_all((sized(EVENT) + start).as_bytes()).await.unwrap();
    assert_eq!(status(&read_answer(&mut stream).await), "202");
    // The server may have refused it by now.
    let _ = stream.write_all(rest.as_bytes()).await;
    read_to_end(&mut stream).await
}

fn ambiguous() -> Vec<(String, &'static str)> {
    let chunks = format!("c\r\n{EVENT}\r\n0\r\n\r\n");
    vec![
        (format!("{POST}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"), "400"),
        (format!("{POST}Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"), "400"),
        (format!("{POST}Content-Length: 12\r\nContent-Length: 12\r\n\r\n{EVENT}"), "400"),
        (format!("{POST}Content-Length: 12\r\n\r\n").replace("\r\n", "\n") + EVENT, "400"),
        (format!("{POST}Transfer-Encoding: gzip, chunked\r\n\r\n{chunks}"), "501"),
        (format!("{POST}Transfer-Encoding: chunked, chunked\r\n\r\n{chunks}"), "400"),
        (format!("{POST}Transfer-Encoding: chunked\r\n\r\n{chunks}").replace("HTTP/1.1", "HTTP/1.0"), "400"),
        (format!("{POST}Transfer-Encoding : chunked\r\n\r\n{chunks}"), "400"),
        (format!("{POST}X: y\r\n Content-Length: 12\r\n\r\n{EVENT}"), "400"),
        (format!("{POST}Host: localhost\r\nContent-Length: 12\r\n\r\n{EVENT}"), "400"),
        (format!("{POST}Content-Length: 12\r\n\r\n{EVENT}").replace("/events", "http://b/events"), "400"),
    ]
}

#[tokio::test]
async fn an_ambiguous_head_is_refused_behind_another_request_wherever_it_is_cut() {
    let server = TestServer::start(options()).await;
    let mut accepted = 0;
    for (request, refusal) in ambiguous() {
        // Whole, and the rest only once the first request was answered.
        for cut in [request.len(), 1, 7, POST.len() - 1, POST.len(), POST.len() + 20, request.len() - EVENT.len()] {
            let answer = answer_behind_an_event(&server, &request, cut).await;
            accepted += 1;
            assert_eq!(status(&answer), refusal, "cut at {cut}: {request:?}");
        }
    }
    assert_eq!(server.fake.len(), accepted);
    server.stop().await;
}

#[tokio::test]
async fn a_head_that_looks_good_from_its_middle_on_is_refused() {
    let server = TestServer::start(options()).await;
    let request =
        format!("{POST}Content-Length: 4\r\nTransfer-Encoding: chunked\r\nX: POST x\r\n\r\n{}", chunked(EVENT));
    for cut in 1..request.find("\r\n\r\n").unwrap() {
        let mut stream = server.connect().await;
        stream.write_all(&[LIVE, &request.as_bytes()[..cut]].concat()).await.unwrap();
        assert_eq!(status(&read_answer(&mut stream).await), "200");
        let _ = stream.write_all(&request.as_bytes()[cut..]).await;
        is_problem(&read_to_end(&mut stream).await, 400, "bad-request");
    }
    assert_eq!(server.fake.len(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_bare_line_feed_in_a_chunked_body_is_refused_wherever_it_is_cut() {
    let server = TestServer::start(options()).await;
    let head = format!("{POST}Transfer-Encoding: chunked\r\n\r\n");
    let mut accepted = 0;
    for end in [
        "0\r\n\n",
        "0\r\nX: y\n\r\n",
        "0\r\nX: y\r\n\n",
        "0\r\nX: y\rZ: z\r\n\r\n",
        "0\n\r\n",
        "0;a=b\n\r\n",
        "0 \n\r\n",
        "c\n{}          \r\n0\r\n\r\n",
    ] {
        let request = format!("{head}c\r\n{EVENT}\r\n{end}");
        for cut in [request.len(), head.len(), request.len() - 1, request.len() - end.len(), request.len() - 3] {
            let answer = answer_behind_an_event(&server, &request, cut).await;
            accepted += 1;
            is_problem(&answer, 400, "malformed-body");
        }
    }
    let good = format!("{head}c;a=\"b\"\r\n{EVENT}\r\n0\r\nX: y\r\n\r\n");
    assert_eq!(status(&server.answer(good.as_bytes()).await), "202");
    assert_eq!(server.fake.len(), accepted + 1);
    server.stop().await;
}

#[tokio::test]
async fn many_requests_in_one_packet_are_answered_one_after_the_other() {
    let server = TestServer::start(options()).await;
    let large = format!("{{\"type\":\"a\",\"payload\":\"{}\"}}", "x".repeat(40_000));
    let mut stream = server.connect().await;
    let requests = [sized(EVENT), sized(&large), String::from_utf8(LIVE.to_vec()).unwrap(), sized(EVENT)].concat();
    stream.write_all(requests.repeat(10).as_bytes()).await.unwrap();
    for wanted in ["202", "202", "200", "202"].repeat(10) {
        assert_eq!(status(&read_answer(&mut stream).await), wanted);
    }
    assert_eq!(server.fake.len(), 30);
    server.stop().await;
}

#[tokio::test]
async fn nothing_is_read_behind_a_chunked_body() {
    let server = TestServer::start(options()).await;
    let answer = server.answer((chunked(EVENT) + &sized(EVENT)).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 202 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!((answer.matches("HTTP/1.1 ").count(), server.fake.len()), (1, 1), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_gets_its_answer() {
    let server = TestServer::start(options()).await;
    let old = sized(EVENT).replace("HTTP/1.1", "HTTP/1.0");
    let live = String::from_utf8(LIVE.to_vec()).unwrap();
    for (request, wanted) in [(sized(EVENT), "202"), (chunked(EVENT), "202"), (old, "202"), (live, "200")] {
        for _ in 0..20 {
            let mut stream = server.connect().await;
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            assert_eq!(status(&read_to_end(&mut stream).await), wanted, "{request}");
        }
    }
    assert_eq!(server.fake.len(), 60);
    // In the midst of a body it means that the rest will not come.
    for half in [
        format!("{POST}Content-Length: 99\r\n\r\n{EVENT}"),
        format!("{POST}Transfer-Encoding: chunked\r\n\r\nc\r\n{EVENT}"),
    ] {
        let mut stream = server.connect().await;
        stream.write_all(half.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        is_problem(&read_to_end(&mut stream).await, 400, "malformed-body");
    }
    assert_eq!(server.fake.len(), 60);
    server.stop().await;
}

#[tokio::test]
async fn the_connection_that_has_waited_the_longest_gives_way() {
    let server = TestServer::start(ServerOptions { max_connections: 2, ..options() }).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect().await;
        stream.write_all(LIVE).await.unwrap();
        read_answer(&mut stream).await;
        held.push(stream);
    }
    let mut newcomer = server.connect().await;
    newcomer.write_all(sized(EVENT).as_bytes()).await.unwrap();
    assert_eq!(status(&read_answer(&mut newcomer).await), "202");
    assert_eq!(read_to_end(&mut held[0]).await, "");
    held[1].write_all(LIVE).await.unwrap();
    assert_eq!(status(&read_answer(&mut held[1]).await), "200", "the other one stays open");
    server.stop().await;
}

#[tokio::test]
async fn connections_that_never_said_anything_give_way() {
    let server = TestServer::start(ServerOptions { max_connections: 2, ..options() }).await;
    let silent = [server.connect().await, server.connect().await];
    // They may still be about to say something at first.
    until("202", || async { ask(&server, &sized(EVENT)).await }).await;
    drop(silent);
    server.stop().await;
}

#[tokio::test]
async fn large_bodies_share_a_budget_and_small_ones_pass() {
    const KIB: usize = 1024;
    let server = TestServer::start(ServerOptions { max_buffered_bytes: 1024 * KIB, ..options() }).await;
    let large = format!("{{\"type\":\"a\",\"payload\":\"{}\"}}", "x".repeat(200 * KIB));
    let padded = large.clone() + &" ".repeat(400 * KIB);
    let first = stalled(&server, padded.len() + 1, &padded).await;
    // Of two bodies that arrive together, either may be the one that is refused.
    let is_read = async {
        while server.memory.free_bytes() > 1024 * KIB + FREE_BYTES - padded.len() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, is_read).await.expect("the first body is read");
    let last = sized(&padded).replacen("Host:", "Connection: close\r\nHost:", 1);
    let answer = server.answer(last.as_bytes()).await;
    is_problem(&answer, 503, "overloaded");
    assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    let stored = server.fake.len();
    assert_eq!(status(&ask(&server, &sized(EVENT)).await), "202");
    assert_eq!(status(&ask(&server, &chunked(EVENT)).await), "202");
    assert_eq!(server.fake.len(), stored + 2);
    drop(first);
    until("202", || async { ask(&server, &sized(&large)).await }).await;
    server.stop().await;
}

#[tokio::test]
async fn a_body_takes_memory_as_it_comes_and_not_as_it_is_announced() {
    let server = TestServer::start(ServerOptions { max_buffered_bytes: 64 * 1024, ..options() }).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(stalled(&server, 1_000_000, "{").await);
    }
    let event = format!("{{\"type\":\"a\",\"payload\":\"{}\"}}", "x".repeat(50_000));
    assert_eq!(status(&ask(&server, &sized(&event)).await), "202");
    drop(open);
    server.stop().await;
}

#[tokio::test]
async fn answers_that_nobody_takes_share_the_budget() {
    const MIB: usize = 1024 * 1024;
    // The broker of the test keeps the bodies of a hundred events, of which an answer is as large; there is room for one.
    let server = TestServer::start(ServerOptions { max_buffered_bytes: 65 * MIB, ..options() }).await;
    let event = format!("{{\"type\":\"a\",\"payload\":\"{}\"}}", "x".repeat(250_000));
    let mut client = server.connect().await;
    for _ in 0..100 {
        client.write_all(sized(&event).as_bytes()).await.unwrap();
        let answer = read_answer(&mut client).await;
        let id = answer.split("\"eventId\":\"").nth(1).unwrap().split('"').next().unwrap();
        server.fake.change(id.parse().unwrap(), |found| found.state = EventState::Processed);
    }
    let list = "GET /events?limit=100 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let reader = TcpSocket::new_v4().unwrap();
    // What lies in the buffers of the system is none of ours.
    reader.set_recv_buffer_size(64 * 1024).unwrap();
    let mut reader = reader.connect(server.address).await.unwrap();
    reader.write_all(list.as_bytes()).await.unwrap();
    reader.readable().await.unwrap();
    let refused = server.answer(list.as_bytes()).await;
    is_problem(&refused, 503, "overloaded");
    assert_eq!(status(&ask(&server, &sized(EVENT)).await), "202");
    drop(reader);
    until("200", || server.answer(list.as_bytes())).await;
    server.stop().await;
}

#[tokio::test]
async fn heads_share_the_budget() {
    let server = TestServer::start(ServerOptions { max_buffered_bytes: 100 * 1024, ..options() }).await;
    let head = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(30_000));
    let mut open = server.connect().await;
    open.write_all(head.as_bytes()).await.unwrap();
    let refused = || async {
        let mut stream = server.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(b"\r\n\r\n").await.unwrap();
        read_answer(&mut stream).await
    };
    // The first head is read at some time.
    is_problem(&until("503", refused).await, 503, "overloaded");
    let live = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(1_000));
    assert_eq!(status(&ask(&server, &live).await), "200", "small ones pass");
    drop(open);
    server.stop().await;
}
