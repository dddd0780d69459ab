//! `eventstream send`: publishes one event and can wait for its end.
//!
//! The payload is sent byte for byte. A lost answer makes the command send the request again. It generates an idempotency
//! key where none was given, so that the event is accepted once.

use std::fs::File;
use std::io::{self, Read};
use std::thread::sleep;
use std::time::{Duration, Instant};

use eventstream::event::{DataView, EventBody};
use eventstream::printable::{Printable, PrintableJson};
use eventstream::secret::is_address;
use serde_json::Value;
use serde_json::value::RawValue;

use super::client::{ClientError, ServerAnswer, ServerTarget};
use super::output::{CommandResult, ExitReason, print_json, print_lines, print_note};

pub(super) const EXAMPLES: &str = "\
Examples:
  eventstream send USER_SIGNUP '{\"name\":\"Ada\",\"email\":\"ada@example.com\"}'
  eventstream send order.paid @order.json --key customer-7 --wait
  generate-report | eventstream send report.ready - --delay-ms 60000
  eventstream send order.paid @order.json --wait --timeout 5m

With --wait the command outlives a restart of the server: it tries to reach the server for a minute, or until --timeout. The
server handles an accepted event after its restart.

Exit codes: 0 done, 1 refused or (with --wait) failed or not ended in time, 2 usage, 3 server unreachable";

/// How many times a request is sent whose answer is lost or says that the outcome is unknown.
const MAX_SENDS: u32 = 3;
/// The shortest and the longest pause between two polls of an event, in milliseconds.
const POLL_MS: std::ops::RangeInclusive<u64> = 20..=1_000;
/// How long to poll for a server that is unreachable, without `--timeout`.
const MAX_SERVER_ABSENCE: Duration = Duration::from_secs(60);
/// The shortest timeout of a poll, however little of `--timeout` is left.
const MIN_POLL_TIMEOUT: Duration = Duration::from_millis(200);
/// The largest payload that is read, in bytes. Servers accept less.
const MAX_DATA_BYTES: u64 = 64 * 1024 * 1024;

/// The arguments of `send`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The type of the event, by which the server routes it
    #[arg(value_name = "TYPE")]
    event_type: String,
    /// The payload: JSON, @FILE to read a file or a pipe, or - to read standard input
    #[arg(value_name = "DATA|@FILE|-", allow_negative_numbers = true)]
    data: Option<String>,
    #[command(flatten)]
    server: ServerTarget,
    /// Your id of the event; the server accepts the same source and id once
    #[arg(long)]
    id: Option<String>,
    /// Where the event comes from [default: /events]
    #[arg(long)]
    source: Option<String>,
    /// What the event is about
    #[arg(long)]
    subject: Option<String>,
    /// The partition key that related events share, shown as `key`; see --idempotency-key for the key of the request
    #[arg(long)]
    key: Option<String>,
    /// Deliver the event after this many milliseconds at the earliest
    #[arg(long, value_name = "MS")]
    delay_ms: Option<u64>,
    /// The key by which the server recognizes the same request [default: generated, unless --id is given]
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Wait for the end of the event and print its result
    #[arg(long)]
    wait: bool,
    /// How long to wait, with a unit: 500ms, 30s, 5m, 1h [default: until the event ends]
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Print the server's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Sends the event.
pub(super) fn run(args: &Args) -> CommandResult {
    send(args).map_err(|failure| failure.report())
}

fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let duration = humantime::parse_duration(text).ok().filter(|duration| !duration.is_zero());
    duration.ok_or("a duration is a number above 0 with its unit, such as 500ms, 30s, 5m or 1h")
}

fn send(args: &Args) -> Result<ExitReason, ClientError> {
    let body = build_body(args, args.data.as_deref().map(read_data).transpose()?.as_deref())?;
    // The sender's own id already works as a key, and it outlives this process.
    let generated_key = (args.idempotency_key.is_none() && args.id.is_none()).then(|| uuid::Uuid::now_v7().to_string());
    let key = args.idempotency_key.as_deref().or(generated_key.as_deref());
    let answer = post_event(args, key, &body)?.require_success()?;
    let accepted = answer.parse_json()?;
    let (id, durability) = (accepted["eventId"].as_str(), accepted["durability"].as_str());
    let id = id.ok_or_else(|| {
        ClientError::new(ExitReason::Failed, "the answer has no event id; is this an eventstream server?")
    })?;
    if !args.wait {
        let (id, durability) = (Printable(id), Printable(durability.unwrap_or("unknown")));
        let printed = match (args.json, accepted["duplicate"] == true) {
            (true, _) => print_json(&answer.text),
            (false, true) => print_lines(format_args!("accepted {id} before; this request changed nothing")),
            (false, false) => print_lines(format_args!("accepted {id} ({durability})")),
        };
        return printed.map(|()| ExitReason::Done).map_err(ClientError::reported);
    }
    let ended = wait_for_end(args, id)?;
    let event = ended.parse_json()?;
    let printed = if args.json { print_json(&ended.text) } else { print_lines(describe_end(id, &event, &ended.text)) };
    let exit = if event["state"] == "processed" { ExitReason::Done } else { ExitReason::Failed };
    printed.map(|()| exit).map_err(ClientError::reported)
}

/// Sends the request, and again if its answer is lost: the key makes that safe.
fn post_event(args: &Args, key: Option<&str>, body: &str) -> Result<ServerAnswer, ClientError> {
    let mut sends = 0;
    loop {
        sends += 1;
        let answer = args.server.post("/events", key, body);
        let is_unknown = match &answer {
            Ok(answer) => {
                answer.status == 503 && answer.parse_json().is_ok_and(|document| document["outcome"] == "unknown")
            }
            Err(failure) => failure.may_have_arrived,
        };
        if !is_unknown || sends == MAX_SENDS {
            return answer;
        }
        sleep(Duration::from_millis(200 * u64::from(sends)));
    }
}

/// Polls the event until it ends. The wait continues while the server is unreachable: it keeps what it accepted.
fn wait_for_end(args: &Args, id: &str) -> Result<ServerAnswer, ClientError> {
    let started = Instant::now();
    let (mut pause_ms, mut away_since) = (*POLL_MS.start(), None);
    loop {
        let remaining = args.timeout.map_or(Duration::MAX, |timeout| timeout.saturating_sub(started.elapsed()));
        let poll = poll_event(&args.server, id, remaining.max(MIN_POLL_TIMEOUT))?;
        let (state, away) = match poll {
            EventPoll::Ended(answer) => return Ok(answer),
            EventPoll::Open(state) => (state, None),
            EventPoll::Away(failure) => (String::new(), Some(failure)),
        };
        let now = Instant::now();
        let is_timed_out = args.timeout.is_some_and(|timeout| now - started >= timeout);
        match away {
            None if is_timed_out => {
                let id = Printable(id);
                let message = format!(
                    "{id} is still {} after --timeout; it is not lost: GET /events/{id} shows it",
                    Printable(state)
                );
                return Err(ClientError::new(ExitReason::Failed, message));
            }
            None => away_since = None,
            Some(failure) => {
                if away_since.is_none() {
                    print_note(format_args!(
                        "eventstream: {id} was accepted; waiting for its server: {}",
                        failure.message
                    ));
                }
                let since = *away_since.get_or_insert(now);
                if is_timed_out || (args.timeout.is_none() && now - since >= MAX_SERVER_ABSENCE) {
                    return Err(failure);
                }
            }
        }
        let remaining = args.timeout.map_or(Duration::MAX, |timeout| timeout.saturating_sub(started.elapsed()));
        sleep(Duration::from_millis(pause_ms).min(remaining));
        pause_ms = (pause_ms * 3 / 2).min(*POLL_MS.end());
    }
}

/// The result of polling an event.
enum EventPoll {
    /// The event has ended.
    Ended(ServerAnswer),
    /// The event has not ended; this is its state.
    Open(String),
    /// The server or its store is unreachable now.
    Away(ClientError),
}

fn poll_event(server: &ServerTarget, id: &str, timeout: Duration) -> Result<EventPoll, ClientError> {
    let answer = match server.get_within(&format!("/events/{id}"), timeout) {
        Ok(answer) => answer,
        Err(failure) if failure.exit == ExitReason::Unreachable => return Ok(EventPoll::Away(failure)),
        Err(failure) => return Err(failure),
    };
    // A load balancer answers like this while the server restarts.
    if matches!(answer.status, 502..=504) {
        let failure = answer.require_success().err();
        return Ok(EventPoll::Away(failure.unwrap_or_else(|| ClientError::new(ExitReason::Unreachable, "no answer"))));
    }
    let answer = answer.require_success()?;
    let state = answer.parse_json()?["state"].as_str().unwrap_or_default().to_owned();
    let is_ended = ["processed", "failed", "discarded"].contains(&state.as_str());
    Ok(if is_ended { EventPoll::Ended(answer) } else { EventPoll::Open(state) })
}

/// Describes the end of an event, with its result byte for byte.
fn describe_end(id: &str, event: &Value, text: &str) -> String {
    #[derive(serde::Deserialize)]
    struct SendResult<'a> {
        #[serde(borrow)]
        result: Option<&'a RawValue>,
    }
    let attempts = match event["attemptCount"].as_u64().unwrap_or_default() {
        1 => "1 attempt".to_owned(),
        n => format!("{n} attempts"),
    };
    let (id, word) = (Printable(id), |name: &str| event[name].as_str().unwrap_or_default());
    match word("state") {
        "processed" => {
            let result = serde_json::from_str::<SendResult<'_>>(text).ok().and_then(|it| it.result).map(RawValue::get);
            let result = result.map(|result| format!("\n{}", PrintableJson(result))).unwrap_or_default();
            format!("processed {id} in {attempts}{result}")
        }
        state => {
            let [state, class, reason] = [state, word("class"), word("reason")].map(Printable);
            format!("{state} {id} after {attempts}: {class}: {reason}")
        }
    }
}

/// Reads the payload as it was written.
fn read_data(argument: &str) -> Result<String, ClientError> {
    let unreadable =
        |what: &str, error: io::Error| ClientError::new(ExitReason::Usage, format!("{what} cannot be read: {error}"));
    let text = match argument.strip_prefix('@') {
        Some(file) if is_address(file) => {
            let message = "@FILE takes a path, not an address";
            return Err(ClientError::new(ExitReason::Usage, message));
        }
        Some(file) => File::open(file).and_then(read_all).map_err(|error| unreadable(&format!("{file:?}"), error))?,
        None if argument == "-" => read_all(io::stdin()).map_err(|error| unreadable("standard input", error))?,
        None => argument.to_owned(),
    };
    // White space around the payload, such as the last line's end in a file, does not belong to it. Neither does the byte
    // order mark that some editors write.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).trim_ascii().to_owned();
    match serde_json::from_str::<&RawValue>(&text) {
        Ok(_) => Ok(text),
        Err(error) => {
            let mut message = format!("the data is not JSON: {}", Printable(error));
            if !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || " _-.".contains(c)) {
                message.push_str(&format!("; write a text with its quotes: '\"{text}\"'"));
            } else if text.contains('\'') {
                message.push_str("; JSON needs double quotes, so put single ones around the whole: '{\"a\":1}'");
            }
            Err(ClientError::new(ExitReason::Usage, message))
        }
    }
}

fn read_all(from: impl Read) -> io::Result<String> {
    let mut text = String::new();
    from.take(MAX_DATA_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_DATA_BYTES {
        return Err(io::Error::other(format!("more than {MAX_DATA_BYTES} bytes")));
    }
    Ok(text)
}

fn build_body(args: &Args, data: Option<&str>) -> Result<String, ClientError> {
    let bug = |error: serde_json::Error| {
        ClientError::new(ExitReason::Failed, format!("the request cannot be built: {error}"))
    };
    let body = EventBody {
        r#type: &args.event_type,
        id: args.id.clone(),
        source: args.source.as_deref(),
        subject: args.subject.as_deref(),
        key: args.key.as_deref(),
        delay_ms: args.delay_ms,
        payload: data.map(serde_json::from_str).transpose().map_err(bug)?.map(DataView::Json),
        ..EventBody::default()
    };
    serde_json::to_string(&body).map_err(bug)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct EventSender {
        #[command(flatten)]
        args: Args,
    }

    fn written(line: &[&str]) -> Result<String, ClientError> {
        let args = EventSender::try_parse_from([&["send"], line].concat()).unwrap().args;
        build_body(&args, args.data.as_deref().map(read_data).transpose()?.as_deref())
    }

    #[test]
    fn data_is_sent_as_it_was_written() {
        assert_eq!(written(&["a"]).unwrap(), r#"{"type":"a"}"#);
        assert_eq!(written(&["a", "{ \"n\": 1.10 }"]).unwrap(), r#"{"type":"a","payload":{ "n": 1.10 }}"#);
        let all = ["a", "null", "--id", "i", "--source", "s", "--subject", "b", "--key", "k", "--delay-ms", "5"];
        let expected = r#"{"type":"a","id":"i","source":"s","subject":"b","key":"k","delayMs":5,"payload":null}"#;
        assert_eq!(written(&all).unwrap(), expected);
    }

    #[test]
    fn endless_data_is_not_read_for_ever() {
        let failure = read_data("@/dev/zero").unwrap_err();
        assert!(
            failure.exit == ExitReason::Usage && failure.message.contains("more than 67108864 bytes"),
            "{failure:?}"
        );
    }

    #[test]
    fn data_comes_from_a_file_without_its_last_line_end() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("data.json");
        std::fs::write(&file, "[1]\n").unwrap();
        let argument = format!("@{}", file.display());
        assert_eq!(written(&["a", &argument]).unwrap(), r#"{"type":"a","payload":[1]}"#);
        assert_eq!(written(&["a", "@/nowhere"]).unwrap_err().exit, ExitReason::Usage);
    }

    #[test]
    fn data_that_is_not_json_is_refused_with_a_hint() {
        for (data, hint) in [("hello", "'\"hello\"'"), ("{'a':1}", "single ones around the whole"), ("{\"a\":", "EOF")]
        {
            let failure = written(&["a", data]).unwrap_err();
            assert!(failure.exit == ExitReason::Usage && failure.message.contains(hint), "{}", failure.message);
        }
    }

    #[test]
    fn an_events_result_forges_no_line() {
        for text in [
            "{\"state\":\"failed\",\"class\":\"reject\",\"reason\":\"no\\nprocessed i in 1 attempt\\u001b[8m\\u202e\"}",
            "{\"state\":\"processed\",\"attemptCount\":1,\"result\":[\n\"\u{9b}31m\u{202e}\"\n]}",
        ] {
            let text = describe_end("i", &serde_json::from_str(text).unwrap(), text);
            assert_eq!(text.lines().count(), 1 + usize::from(text.starts_with("processed")), "{text:?}");
            assert!(!text.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}')), "{text:?}");
        }
    }

    #[test]
    fn the_end_of_an_event_shows_its_result_byte_for_byte() {
        let text = r#"{"state":"processed","attemptCount":1,"result":{ "n": 1.10 }}"#;
        assert_eq!(
            describe_end("i", &serde_json::from_str(text).unwrap(), text),
            "processed i in 1 attempt\n{ \"n\": 1.10 }"
        );
        let text = r#"{"state":"failed","attemptCount":5,"class":"trap","reason":"unreachable"}"#;
        assert_eq!(
            describe_end("i", &serde_json::from_str(text).unwrap(), text),
            "failed i after 5 attempts: trap: unreachable"
        );
    }
}
