//! Clients that hold every connection that the server takes, and open a new one whenever the server closes one. Whatever they
//! hold it with, the events of others are accepted.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

use super::wire::connect;

on_both_brokers! {
    half_heads_on_all_connections_shut_nobody_out,
    half_bodies_on_all_connections_shut_nobody_out,
    unread_answers_on_all_connections_shut_nobody_out,
    lists_whose_clients_go_away_shut_nobody_out,
    large_events_whose_clients_go_away_shut_nobody_out,
}

/// The connections that the server takes.
const PLACES: usize = 20;
/// The connections that are held: those beyond the places wait for one.
const HELD: usize = 30;
/// The events of others.
const EVENTS: usize = 20;
/// The events and health probes of others while clients go away.
const ROUNDS: usize = 5;
/// Clients that send a request and go away.
const LEAVING: usize = 70;
/// The connections that the server takes then.
const FEW_PLACES: usize = 60;
/// The events of which they ask for lists.
const LISTED: usize = 600;

const POST: &str = "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";

fn half_heads_on_all_connections_shut_nobody_out(broker: Broker) {
    others_are_served(broker, POST, true);
}

fn half_bodies_on_all_connections_shut_nobody_out(broker: Broker) {
    others_are_served(broker, &format!("{POST}Content-Length: 99\r\n\r\n{{\"type\":\"t\""), true);
}

fn unread_answers_on_all_connections_shut_nobody_out(broker: Broker) {
    // One answer is as large as the event below. So many do not fit into the buffers of the system.
    others_are_served(broker, &"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100), false);
}

#[track_caller]
fn others_are_served(broker: Broker, held: &str, is_read: bool) {
    // No time limit ends what is held while the test runs.
    let stage = Stage::with(broker, PluginsDir::scripted(&["t"]), |options| {
        let options = options.with("server.max_connections", PLACES);
        options.with("server.header_timeout_ms", 600_000).with("server.body_timeout_ms", 600_000)
    });
    stage.client.wait_ended(&stage.client.post_event("t", &json!({ "text": "x".repeat(60_000) })));
    let (stop, opened) = (AtomicBool::new(false), AtomicUsize::new(0));
    let ids: Vec<String> = std::thread::scope(|threads| {
        threads.spawn(|| hold(&stage, held, is_read, &opened, &stop));
        let _stop = StopOnDrop(&stop);
        let is_reached = |count: usize| {
            eventually("connections are held", || match opened.load(Ordering::Relaxed) {
                reached if reached >= count => Ok(()),
                reached => Err(reached),
            })
        };
        is_reached(HELD);
        let ids = (0..EVENTS).map(|_| publish(&stage)).collect();
        // It went on meanwhile.
        is_reached(HELD + 1);
        ids
    });
    for id in ids {
        assert_eq!(stage.client.wait_ended(&id).state, "processed");
    }
}

/// Holds connections with these bytes, and opens one for each that is closed.
fn hold(stage: &Stage, held: &str, is_read: bool, opened: &AtomicUsize, stop: &AtomicBool) {
    let open = || {
        let mut stream = connect(stage);
        // The server may have closed it by now.
        let _ = stream.write_all(held.as_bytes());
        stream.set_nonblocking(true).unwrap();
        opened.fetch_add(1, Ordering::Relaxed);
        stream
    };
    let mut streams: Vec<TcpStream> = (0..HELD).map(|_| open()).collect();
    while !stop.load(Ordering::Relaxed) {
        for stream in &mut streams {
            if is_closed(stream, is_read) {
                *stream = open();
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_closed(stream: &mut TcpStream, is_read: bool) -> bool {
    if !is_read {
        // A reset shows without a read. An end of the stream does not, but such a client does not read to the end.
        return stream.take_error().unwrap().is_some() || stream.write_all(b"GET /livez").is_err();
    }
    match stream.read(&mut [0; 1024]) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Clients ask for a list and go away a moment later, again and again. Every event of others is accepted, every health probe is
/// answered, and soon nothing is left of those clients.
fn lists_whose_clients_go_away_shut_nobody_out(broker: Broker) {
    let stage =
        Stage::with(broker, PluginsDir::scripted(&["t"]), |options| options.with("server.max_connections", FEW_PLACES));
    let batch: Vec<Value> = (0..LISTED).map(|_| json!({ "type": "t", "payload": {} })).collect();
    stage.client.post_batch(&batch);
    eventually("the events are handled", || match stage.client.metrics()["processed"].as_u64() {
        Some(count) if count >= LISTED as u64 => Ok(()),
        count => Err(format!("{count:?}")),
    });
    storm(&stage, "GET /events?limit=500 HTTP/1.1\r\nHost: localhost\r\n\r\n");
}

/// The same with events that arrive whole.
fn large_events_whose_clients_go_away_shut_nobody_out(broker: Broker) {
    let stage =
        Stage::with(broker, PluginsDir::scripted(&["t"]), |options| options.with("server.max_connections", FEW_PLACES));
    let body = json!({ "type": "t", "payload": { "key": "x".repeat(60_000) } }).to_string();
    storm(&stage, &format!("{POST}Content-Length: {}\r\n\r\n{body}", body.len()));
}

/// Clients send this request and go away, while others publish events and ask for the health.
fn storm(stage: &Stage, request: &str) {
    let live = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let (stop, left) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|threads| {
        for _ in 0..LEAVING {
            threads.spawn(|| leave_again_and_again(stage, request, &left, &stop));
        }
        let _stop = StopOnDrop(&stop);
        eventually("clients go away", || match left.load(Ordering::Relaxed) {
            many if many >= 2 * LEAVING => Ok(()),
            few => Err(few),
        });
        for _ in 0..ROUNDS {
            publish(stage);
            eventually("the health probe is answered", || {
                let answer = ask(stage, live);
                if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
            });
        }
    });
    eventually("nothing is left of those clients", || match sockets_of_the_gone(stage) {
        0 => Ok(()),
        many => Err(many),
    });
}

/// Sends a request and goes away a moment later, again and again.
fn leave_again_and_again(stage: &Stage, request: &str, left: &AtomicUsize, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let mut stream = connect(stage);
        let _ = stream.write_all(request.as_bytes());
        std::thread::sleep(Duration::from_millis(50));
        left.fetch_add(1, Ordering::Relaxed);
    }
}

/// The sockets of the server, accepted or not, whose clients have closed them.
fn sockets_of_the_gone(stage: &Stage) -> usize {
    let port: u16 = stage.host.url().rsplit(':').next().unwrap().parse().unwrap();
    let local = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let is_gone = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // State 8 is CLOSE-WAIT.
        fields[1].ends_with(&local) && fields[3] == "08"
    };
    table.lines().skip(1).filter(is_gone).count()
}

/// What is answered to a request.
fn ask(stage: &Stage, request: &str) -> String {
    let mut stream = connect(stage);
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    format!("{}{}", String::from_utf8_lossy(&answer), read.map_or_else(|error| format!(" {error}"), |_| String::new()))
}

/// A request that publishes an event.
fn event() -> String {
    let body = json!({ "type": "t", "payload": {} }).to_string();
    format!("{POST}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Publishes an event and returns its id. Like any client, it sends the event again if the server says 503 or closes.
fn publish(stage: &Stage) -> String {
    let answer = eventually("an event is accepted", || {
        let answer = ask(stage, &event());
        let status = answer.split(' ').nth(1);
        assert!(matches!(status, Some("202" | "503")) || !answer.starts_with("HTTP"), "{answer}");
        if status == Some("202") { Ok(answer) } else { Err(answer) }
    });
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    body["eventId"].as_str().unwrap().to_owned()
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
