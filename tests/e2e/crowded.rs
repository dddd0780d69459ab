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

use super::wire::{connect, read_to_end};

on_both_brokers! {
    half_heads_on_all_connections_shut_nobody_out,
    half_bodies_on_all_connections_shut_nobody_out,
    unread_answers_on_all_connections_shut_nobody_out,
}

/// The connections that the server takes.
const PLACES: usize = 20;
/// The connections that are held: those beyond the places wait for one.
const HELD: usize = 30;
/// The events of others.
const EVENTS: usize = 20;

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
    stage.client.wait_ended(&stage.client.post_event("t", &json!({ "text": "x".repeat(200_000) })));
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

/// Publishes an event and returns its id. Like any client, it sends the event again if the server says 503.
fn publish(stage: &Stage) -> String {
    let body = json!({ "type": "t", "payload": {} }).to_string();
    let request = format!("{POST}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let answer = eventually("an event is accepted", || {
        let mut stream = connect(stage);
        stream.write_all(request.as_bytes()).unwrap();
        let answer = read_to_end(stream);
        assert!(answer.starts_with("HTTP/1.1 202") || answer.starts_with("HTTP/1.1 503"), "{answer}");
        if answer.starts_with("HTTP/1.1 202") { Ok(answer) } else { Err(answer) }
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
