//! The server when clients hold all its connections: who makes no progress gives way, and others are answered.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::hostile::{EVENT, POST, ask, sized, stalled, status};
use super::server::{LIVE, PATIENCE, TestServer, is_problem, options, read_answer, read_to_end};
use crate::api::ServerOptions;
use crate::event::EventState;

/// The connections that the server of a test takes.
const PLACES: usize = 4;

async fn full_server() -> TestServer {
    TestServer::start(ServerOptions { max_connections: PLACES, ..options() }).await
}

/// A connection whose client takes hardly any bytes before it reads.
async fn connect(server: &TestServer) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.connect(server.address).await.unwrap()
}

/// Sends these bytes on more connections than there are places, and on a new one for each that the server closes.
async fn hold_all(server: &TestServer, bytes: &[u8], reads: bool) {
    let hold_one = async || loop {
        let mut stream = connect(server).await;
        // The server may have closed it by now.
        let _ = stream.write_all(bytes).await;
        if reads {
            while stream.read_u8().await.is_ok() {}
        } else {
            let _ = stream.ready(Interest::ERROR).await;
        }
    };
    let all = (0..2 * PLACES).map(|_| hold_one());
    futures_util::future::join_all(all).await;
}

#[tokio::test]
async fn others_are_answered_while_clients_hold_all_connections_and_open_them_again() {
    let server = full_server().await;
    let large = format!("{{\"type\":\"a\",\"payload\":\"{}\"}}", "x".repeat(200_000));
    assert_eq!(status(&ask(&server, &sized(&large)).await), "202");
    let id = server.fake.only().record.event.id;
    server.fake.change(id, |found| found.state = EventState::Processed);
    let chunks = format!("{POST}Transfer-Encoding: chunked\r\n\r\nc\r\n{EVENT}\r\n0\r\nX: ");
    let mut accepted = 1;
    for (held, reads) in [
        (POST.to_owned(), true),
        (format!("{POST}Content-Length: 99\r\n\r\n{EVENT}"), true),
        (chunks, true),
        (String::new(), true),
        ("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100), false),
    ] {
        let publish = async {
            for _ in 0..5 {
                assert_eq!(status(&ask(&server, &sized(EVENT)).await), "202", "while others hold {held:.99?}");
            }
        };
        tokio::select! {
            () = hold_all(&server, held.as_bytes(), reads) => {}
            published = timeout(PATIENCE, publish) => published.expect("others are served"),
        }
        accepted += 5;
    }
    assert_eq!(server.fake.len(), accepted);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_gives_way_is_told_so() {
    let server = TestServer::start(ServerOptions { max_connections: 1, ..options() }).await;
    for half in [POST.to_owned(), format!("{POST}Content-Length: 99\r\n\r\n{EVENT}")] {
        let mut held = server.connect().await;
        held.write_all(half.as_bytes()).await.unwrap();
        assert_eq!(status(&ask(&server, &sized(EVENT)).await), "202");
        is_problem(&read_to_end(&mut held).await, 408, "request-timeout");
    }
    assert_eq!(server.fake.len(), 2);
    server.stop().await;
}

#[tokio::test]
async fn clients_that_send_a_byte_now_and_then_give_way_in_the_end() {
    let server = full_server().await;
    let trickle = async || loop {
        let mut stream = server.connect().await;
        let _ = stream.write_all(POST.as_bytes()).await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let all = (0..PLACES).map(|_| trickle());
    let publish = async { assert_eq!(status(&ask(&server, &sized(EVENT)).await), "202") };
    tokio::select! {
        _ = futures_util::future::join_all(all) => {}
        published = timeout(PATIENCE, publish) => published.unwrap(),
    }
    server.stop().await;
}

#[tokio::test]
async fn who_makes_progress_is_spared() {
    let server = TestServer::start(ServerOptions { max_connections: 2, ..options() }).await;
    let body = format!("{EVENT}{}", " ".repeat(100 * 512));
    let mut slow = stalled(&server, body.len(), "").await;
    let send = async {
        for piece in body.as_bytes().chunks(512) {
            slow.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        status(&read_answer(&mut slow).await).to_owned()
    };
    let half = format!("{POST}Content-Length: 99\r\n\r\n{EVENT}");
    let stall = async || loop {
        let mut stream = server.connect().await;
        let _ = stream.write_all(half.as_bytes()).await;
        while stream.read_u8().await.is_ok() {}
    };
    let publish = async || loop {
        assert_eq!(status(&ask(&server, &sized(EVENT)).await), "202");
    };
    tokio::select! {
        answer = timeout(PATIENCE, send) => assert_eq!(answer.unwrap(), "202"),
        () = stall() => {}
        () = publish() => {}
    }
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_is_stored_is_never_cut() {
    let server = TestServer::start(ServerOptions { max_connections: 1, ..options() }).await;
    let hold = Arc::new(Semaphore::new(0));
    server.fake.state.lock().hold = Some(hold.clone());
    let mut busy = server.connect().await;
    busy.write_all(sized(EVENT).as_bytes()).await.unwrap();
    let live = server.answer(LIVE).await;
    assert!(live.starts_with("HTTP/1.1 200 OK") && live.contains("\r\nconnection: close\r\n"), "{live}");
    let refused = server.answer(sized(EVENT).as_bytes()).await;
    is_problem(&refused, 503, "overloaded");
    assert!(refused.contains("\r\nretry-after: 1\r\n"), "{refused}");
    hold.close();
    assert_eq!(status(&read_answer(&mut busy).await), "202");
    assert_eq!(status(&ask(&server, &sized(EVENT)).await), "202", "now it gives way");
    assert_eq!(server.fake.len(), 2);
    server.stop().await;
}

/// The server has one place, and a request that shows an event holds it.
async fn reading_server() -> (TestServer, Arc<Semaphore>, String) {
    let server = TestServer::start(ServerOptions { max_connections: 1, ..options() }).await;
    assert_eq!(status(&ask(&server, &sized(EVENT)).await), "202");
    let id = server.fake.only().record.event.id;
    let hold = Arc::new(Semaphore::new(0));
    server.fake.state.lock().hold_reads = Some(hold.clone());
    (server, hold, format!("GET /events/{id} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
}

#[tokio::test]
async fn a_read_gives_way_once_its_client_may_be_gone() {
    let (server, hold, show) = reading_server().await;
    let mut waiting = server.connect().await;
    waiting.write_all(show.as_bytes()).await.unwrap();
    is_problem(&server.answer(sized(EVENT).as_bytes()).await, 503, "overloaded");
    waiting.shutdown().await.unwrap();
    assert_eq!(status(&ask(&server, &sized(EVENT)).await), "202");
    assert_eq!(read_to_end(&mut waiting).await, "");
    // A client that resets its connection is gone for certain.
    let mut gone = server.connect().await;
    gone.set_zero_linger().unwrap();
    gone.write_all(show.as_bytes()).await.unwrap();
    while Arc::strong_count(&hold) < 3 {
        tokio::task::yield_now().await;
    }
    drop(gone);
    assert_eq!(status(&ask(&server, &sized(EVENT)).await), "202");
    // While there is a place for everyone, a client that closed its sending side gets its answer.
    let mut half_closed = server.connect().await;
    half_closed.write_all(show.as_bytes()).await.unwrap();
    half_closed.shutdown().await.unwrap();
    hold.close();
    assert_eq!(status(&read_to_end(&mut half_closed).await), "200");
    server.stop().await;
}

#[tokio::test]
async fn a_health_probe_is_answered_whatever_waits_for_a_place() {
    let server = TestServer::start(ServerOptions { max_connections: 1, ..options() }).await;
    let hold = Arc::new(Semaphore::new(0));
    server.fake.state.lock().hold = Some(hold.clone());
    let mut busy = server.connect().await;
    busy.write_all(sized(EVENT).as_bytes()).await.unwrap();
    let mut waiting = Vec::new();
    for request in [sized(EVENT), POST.to_owned(), String::new(), String::from_utf8(LIVE.to_vec()).unwrap()] {
        for _ in 0..200 {
            let mut stream = server.connect().await;
            let _ = stream.write_all(request.as_bytes()).await;
            waiting.push(stream);
        }
        let live = server.answer(LIVE).await;
        assert!(live.starts_with("HTTP/1.1 200 OK"), "{live}");
    }
    hold.close();
    assert_eq!(status(&read_answer(&mut busy).await), "202", "what is being stored is never cut");
    server.stop().await;
}
