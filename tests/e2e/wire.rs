//! Clients that break the protocol: their requests are refused or time out, are never stored, and do not delay others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use eventstream_tests::guests::PluginsDir;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::json;

on_both_brokers! {
    a_half_sent_header_is_not_waited_for,
    a_half_sent_body_is_not_waited_for,
    a_body_that_breaks_off_is_not_stored,
    forty_thousand_bytes_of_headers_are_refused,
    a_body_without_a_length_is_refused_once_it_is_too_large,
    a_small_body_without_a_length_is_accepted,
    requests_that_can_be_read_in_two_ways_are_refused,
    a_client_that_closes_its_sending_side_gets_its_answer,
    bodies_that_stall_and_answers_that_nobody_takes_keep_little_memory,
    many_connections_that_send_nothing_hold_up_nobody,
    a_thousand_clients_that_connect_at_once_are_all_served,
}

/// Clients that connect at once.
const CROWD: usize = 1_000;

/// Longer than any limit that the tests set.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// A host with short time limits.
fn impatient(broker: Broker) -> Stage {
    Stage::with(broker, PluginsDir::scripted(&["t"]), |options| {
        options.with("server.header_timeout_ms", 3_000).with("server.body_timeout_ms", 3_000)
    })
}

pub(super) fn connect(stage: &Stage) -> TcpStream {
    let address = stage.host.url().strip_prefix("http://").unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(READ_LIMIT)).unwrap();
    stream
}

/// Everything that the server sends until it closes the connection.
pub(super) fn read_to_end(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset closes the connection as well.
    if let Err(error) = stream.read_to_end(&mut bytes)
        && error.kind() != std::io::ErrorKind::ConnectionReset
    {
        panic!("the connection stays open: {error}; read so far: {:?}", String::from_utf8_lossy(&bytes));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[track_caller]
fn nothing_was_stored_and_others_are_served(stage: &Stage) {
    assert_eq!(stage.client.metrics()["accepted"], 0);
    stage.client.wait_ended(&stage.client.post_event("t", &json!({})));
}

fn a_half_sent_header_is_not_waited_for(broker: Broker) {
    let stage = impatient(broker);
    let mut stream = connect(&stage);
    stream.write_all(b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Ty").unwrap();
    let begun = Instant::now();
    let answer = read_to_end(stream);
    assert!(begun.elapsed() < READ_LIMIT / 2, "closed after {:?}", begun.elapsed());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    nothing_was_stored_and_others_are_served(&stage);
}

fn a_half_sent_body_is_not_waited_for(broker: Broker) {
    let stage = impatient(broker);
    let mut stream = connect(&stage);
    let head =
        "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n";
    stream.write_all(format!("{head}{{\"type\":").as_bytes()).unwrap();
    let answer = read_to_end(stream);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    nothing_was_stored_and_others_are_served(&stage);
}

fn a_body_that_breaks_off_is_not_stored(broker: Broker) {
    let stage = Stage::scripted(broker, &["t"]);
    let mut stream = connect(&stage);
    let head =
        "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n";
    stream.write_all(format!("{head}{{\"type\":\"t\"}}").as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let answer = read_to_end(stream);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    nothing_was_stored_and_others_are_served(&stage);
}

fn forty_thousand_bytes_of_headers_are_refused(broker: Broker) {
    let stage = Stage::scripted(broker, &["t"]);
    let mut stream = connect(&stage);
    let filler = format!("X-Filler: {}\r\n", "x".repeat(990)).repeat(40);
    let request = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{filler}\r\n");
    // The server may answer and close the connection before everything is sent.
    let _ = stream.write_all(request.as_bytes());
    let answer = read_to_end(stream);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    nothing_was_stored_and_others_are_served(&stage);
}

fn a_body_without_a_length_is_refused_once_it_is_too_large(broker: Broker) {
    let stage = Stage::scripted(broker, &["t"]);
    let mut stream = connect(&stage);
    let head = "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..64 {
        if stream.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    let mut first = [0; 12];
    // The answer may be lost when the server closes while more is being sent.
    if stream.read_exact(&mut first).is_ok() {
        assert_eq!(&first, b"HTTP/1.1 413");
    }
    nothing_was_stored_and_others_are_served(&stage);
}

fn a_small_body_without_a_length_is_accepted(broker: Broker) {
    let stage = Stage::scripted(broker, &["t"]);
    let mut stream = connect(&stage);
    let head = "POST /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n";
    stream
        .write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\nc\r\n{{\"type\":\"t\"}}\r\n0\r\n\r\n").as_bytes())
        .unwrap();
    let answer = read_to_end(stream);
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
}

fn requests_that_can_be_read_in_two_ways_are_refused(broker: Broker) {
    let stage = Stage::scripted(broker, &["t"]);
    let json = "Content-Type: application/json\r\n";
    for (what, request) in [
        (
            "length and chunks",
            format!(
                "POST /events HTTP/1.1\r\nHost: localhost\r\n{json}Content-Length: 12\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "two lengths",
            format!(
                "POST /events HTTP/1.1\r\nHost: localhost\r\n{json}Content-Length: 12\r\nContent-Length: 13\r\n\r\n{{\"type\":\"t\"}}"
            ),
        ),
        ("no host", format!("POST /events HTTP/1.1\r\n{json}Content-Length: 12\r\n\r\n{{\"type\":\"t\"}}")),
        ("not HTTP", "hello there\r\n\r\n".to_owned()),
    ] {
        let mut stream = connect(&stage);
        stream.write_all(request.as_bytes()).unwrap();
        let answer = read_to_end(stream);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{what}: {answer}");
    }
    nothing_was_stored_and_others_are_served(&stage);
}

fn a_client_that_closes_its_sending_side_gets_its_answer(broker: Broker) {
    let stage = Stage::scripted(broker, &["t"]);
    let head = "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    for request in [
        format!("{head}Content-Length: 12\r\n\r\n{{\"type\":\"t\"}}"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\nc\r\n{{\"type\":\"t\"}}\r\n0\r\n\r\n"),
    ] {
        let mut stream = connect(&stage);
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let answer = read_to_end(stream);
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    }
}

fn bodies_that_stall_and_answers_that_nobody_takes_keep_little_memory(broker: Broker) {
    let stage = Stage::with(broker, PluginsDir::scripted(&["t"]), |options| {
        options.with("server.max_buffered_bytes", 16 * 1024 * 1024)
    });
    stage.client.wait_ended(&stage.client.post_event("t", &json!({ "text": "x".repeat(200_000) })));
    let before = stage.host.resident_bytes();
    let head = "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let body = format!("{{\"type\":\"t\",\"payload\":\"{}", "x".repeat(900_000));
    let stalled = [
        format!("{head}Content-Length: 1000000\r\n\r\n{body}"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}", body.len() + 1),
        "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200),
    ];
    let send = |index: usize| {
        let mut stream = connect(&stage);
        // The server may close a refused connection while the request is still sent.
        let _ = stream.write_all(stalled[index % stalled.len()].as_bytes());
        stream
    };
    let streams: Vec<TcpStream> = (0..300).map(send).collect();
    // Three hundred of a megabyte.
    let grown_bytes = stage.host.resident_bytes().saturating_sub(before);
    assert!(grown_bytes < 100 * 1024 * 1024, "{grown_bytes} bytes");
    stage.client.wait_ended(&stage.client.post_event("t", &json!({})));
    drop(streams);
}

fn many_connections_that_send_nothing_hold_up_nobody(broker: Broker) {
    let stage = impatient(broker);
    let silent: Vec<TcpStream> = (0..300).map(|_| connect(&stage)).collect();
    nothing_was_stored_and_others_are_served(&stage);
    for stream in silent {
        let answer = read_to_end(stream);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
}

fn a_thousand_clients_that_connect_at_once_are_all_served(broker: Broker) {
    let stage = Stage::scripted(broker, &["t"]);
    // No connection is accepted meanwhile, and one beyond the queue would wait forever.
    stage.host.stop();
    let most: usize = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    let address = stage.host.url().strip_prefix("http://").unwrap().parse().unwrap();
    let ask = |_| {
        let mut client = TcpStream::connect_timeout(&address, READ_LIMIT).unwrap();
        client.set_read_timeout(Some(READ_LIMIT)).unwrap();
        client.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        client
    };
    let clients: Vec<TcpStream> = (0..CROWD.min(most)).map(ask).collect();
    stage.host.cont();
    for client in clients {
        let answer = read_to_end(client);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}
