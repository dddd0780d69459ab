//! The command line, and the commands against a server with canned answers: their requests and exit codes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use clap::CommandFactory;

use super::output::format_thousands;
use super::*;

/// Runs a command against a server with these answers, one for each connection; `None` closes it without an answer.
/// Returns the exit code and the requests, each with its head in lower case.
fn against(answers: &[Option<(u16, &str)>], command: &[&str]) -> (ExitReason, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answers: Vec<Option<(u16, String)>> =
        answers.iter().map(|answer| answer.map(|(status, body)| (status, body.to_owned()))).collect();
    let server: JoinHandle<Vec<String>> =
        std::thread::spawn(move || answers.into_iter().map(|answer| serve_one(&listener, answer)).collect());
    let command = [&["eventstream"], command, &["--url", &url]].concat();
    let exit = run(Cli::try_parse_from(command).unwrap(), None).unwrap_or_else(|exit| exit);
    (exit, server.join().unwrap())
}

/// Runs a command against a server that accepts an event and then repeats one answer.
fn against_repeating_server(answer: Option<(u16, &str)>, command: &[&str]) -> ExitReason {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, is_over) = (listener.local_addr().unwrap(), AtomicBool::new(false));
    let owned = |answer: Option<(u16, &str)>| answer.map(|(status, body)| (status, body.to_owned()));
    let url = format!("http://{address}");
    std::thread::scope(|threads| {
        let server = threads.spawn(|| {
            serve_one(&listener, owned(ACCEPTED));
            while !is_over.load(Ordering::Relaxed) {
                serve_one(&listener, owned(answer));
            }
        });
        let command = [&["eventstream"], command, &["--url", &url]].concat();
        let exit = run(Cli::try_parse_from(command).unwrap(), None).unwrap_or_else(|exit| exit);
        is_over.store(true, Ordering::Relaxed);
        // Unblocks the server, so that it sees the end. The connection stays open until then.
        let mut last = TcpStream::connect(address).unwrap();
        last.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        server.join().unwrap();
        exit
    })
}

fn serve_one(listener: &TcpListener, answer: Option<(u16, String)>) -> String {
    let (stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        length = line.strip_prefix("content-length: ").map_or(length, |length| length.parse().unwrap());
        request.push_str(&format!("{line}\n"));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    request.push_str(std::str::from_utf8(&body).unwrap());
    if let Some((status, body)) = answer {
        let head = format!("HTTP/1.1 {status} Status\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        reader.get_mut().write_all(format!("{head}{body}").as_bytes()).unwrap();
    }
    request
}

fn key(request: &str) -> Option<&str> {
    request.lines().find_map(|line| line.strip_prefix("idempotency-key: "))
}

const ACCEPTED: Option<(u16, &str)> =
    Some((202, r#"{"message":"…","eventId":"i","durability":"fsync","duplicate":false}"#));

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn a_file_that_is_not_a_plugin_outranks_an_unreadable_one() {
    assert_eq!(ExitReason::Invalid.max(ExitReason::Usage), ExitReason::Invalid);
    assert_eq!(ExitReason::Done.max(ExitReason::Usage), ExitReason::Usage);
}

#[test]
fn numbers_are_written_in_groups_of_three() {
    for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567"), (100_000, "100,000")] {
        assert_eq!(format_thousands(number), text);
    }
}

#[test]
fn without_a_command_the_flags_of_serve_apply() {
    let cli = Cli::try_parse_from(["eventstream", "--listen", "127.0.0.1:0"]).unwrap();
    assert!(cli.command.is_none());
    assert_eq!(cli.serve.flags()[0].value, "127.0.0.1:0");
    assert!(Cli::try_parse_from(["eventstream", "--listen", "x", "status"]).is_err());
}

#[test]
fn an_event_is_sent_with_a_generated_key() {
    let (exit, requests) = against(&[ACCEPTED], &["send", "a", "-1.50"]);
    assert_eq!(exit, ExitReason::Done);
    assert!(requests[0].starts_with("post /events http/1.1\n"), "{}", requests[0]);
    assert!(requests[0].ends_with(r#"{"type":"a","payload":-1.50}"#), "{}", requests[0]);
    assert_eq!(key(&requests[0]).unwrap().len(), 36);
}

#[test]
fn the_senders_own_key_or_id_is_used() {
    let (_, requests) = against(&[ACCEPTED], &["send", "a", "--idempotency-key", "k"]);
    assert_eq!(key(&requests[0]), Some("k"));
    let (_, requests) = against(&[ACCEPTED], &["send", "a", "--id", "1"]);
    assert_eq!(key(&requests[0]), None);
}

#[test]
fn a_request_whose_outcome_is_not_known_is_repeated_with_its_key() {
    let unknown = Some((503, r#"{"outcome":"unknown","title":"","detail":""}"#));
    let (exit, requests) = against(&[None, unknown, ACCEPTED], &["send", "a"]);
    assert_eq!(exit, ExitReason::Done);
    assert!(key(&requests[0]).is_some());
    assert!(requests.iter().all(|request| key(request) == key(&requests[0])), "{requests:?}");
}

#[test]
fn a_refused_request_is_not_repeated() {
    for (status, exit) in
        [(422, ExitReason::Failed), (429, ExitReason::Failed), (503, ExitReason::Failed), (500, ExitReason::Failed)]
    {
        assert_eq!(against(&[Some((status, "{}"))], &["send", "a"]).0, exit);
    }
    assert_eq!(against(&[Some((202, "hello"))], &["send", "a"]).0, ExitReason::Failed);
}

#[test]
fn waiting_ends_with_the_event() {
    let state = |state: &'static str| Some((200, state));
    let (exit, requests) = against(
        &[ACCEPTED, state(r#"{"state":"queued"}"#), Some((503, "{}")), state(r#"{"state":"processed","result":1}"#)],
        &["send", "a", "--wait"],
    );
    assert_eq!(exit, ExitReason::Done);
    assert!(requests[1..].iter().all(|request| request.starts_with("get /events/i http/1.1\n")), "{requests:?}");
    let (exit, _) = against(&[ACCEPTED, state(r#"{"state":"failed"}"#)], &["send", "a", "--wait"]);
    assert_eq!(exit, ExitReason::Failed);
}

#[test]
fn waiting_goes_on_while_the_server_is_restarted() {
    let ended = Some((200, r#"{"state":"processed"}"#));
    let away = Some((503, "starting"));
    let (exit, requests) = against(&[ACCEPTED, None, Some((502, "")), away, ended], &["send", "a", "--wait"]);
    assert_eq!((exit, requests.len()), (ExitReason::Done, 5));
}

#[test]
fn waiting_ends_with_its_time() {
    let wait = ["send", "a", "--wait", "--timeout", "1ms"];
    assert_eq!(against_repeating_server(Some((200, r#"{"state":"queued"}"#)), &wait), ExitReason::Failed);
    assert_eq!(against_repeating_server(None, &wait), ExitReason::Unreachable);
    for line in [["send", "a", "--timeout", "1s"].as_slice(), &["send", "a", "--wait", "--timeout", "soon"]] {
        assert!(Cli::try_parse_from([&["eventstream"], line].concat()).is_err(), "{line:?}");
    }
}

#[test]
fn the_exit_code_of_status_shows_readiness() {
    let (metrics, plugins) = (Some((200, r#"{"processed":1}"#)), Some((200, r#"{"plugins":[]}"#)));
    let ready = Some((200, r#"{"status":"ready","checks":[]}"#));
    assert_eq!(against(&[ready, metrics, plugins], &["status"]).0, ExitReason::Done);
    let not_ready = Some((503, r#"{"detail":"the store is away","checks":[]}"#));
    assert_eq!(against(&[not_ready, Some((503, "{}")), plugins], &["status", "--json"]).0, ExitReason::Failed);
}

#[test]
fn an_unreachable_server_has_its_own_exit_code() {
    // The system assigns this port to no program.
    let url = "http://127.0.0.1:1";
    for command in [vec!["eventstream", "send", "a", "--url", url], vec!["eventstream", "status", "--url", url]] {
        assert_eq!(run(Cli::try_parse_from(command).unwrap(), None), Err(ExitReason::Unreachable));
    }
}
