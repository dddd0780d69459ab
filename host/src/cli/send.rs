//! `eventstream send`: publishes one event and, if asked, waits for its end.
//!
//! The data is sent as it was written, byte for byte. An event that is sent again after a lost answer must not become
//! two, so a key is made up where none was given and the request is repeated with it.

use std::fs::File;
use std::io::{self, Read};
use std::thread::sleep;
use std::time::{Duration, Instant};

use eventstream::printable::{Printable, PrintableJson};
use serde_json::Value;
use serde_json::value::RawValue;

use super::client::{ClientError, ServerAnswer, ServerTarget};
use super::{ExitReason, note, say_json, say_lines};

pub(super) const EXAMPLES: &str = "\
Examples:
  eventstream send USER_SIGNUP '{\"name\":\"Ada\",\"email\":\"ada@example.com\"}'
  eventstream send order.paid @order.json --key customer-7 --wait
  generate-report | eventstream send report.ready - --delay-ms 60000
  eventstream send order.paid @order.json --wait --timeout 5m

With --wait a server that is restarted is waited for, for a minute or for as long as --timeout says: what was accepted is
handled after the restart.

Exit codes: 0 done, 1 refused or (with --wait) failed or not ended in time, 2 usage, 3 server unreachable";

/// How often a request is sent whose answer did not come, or said that its outcome is not known.
const MAX_SENDS: u32 = 3;
/// The pauses between looks at an event that has not ended.
const POLL_MS: std::ops::RangeInclusive<u64> = 20..=1_000;
/// How long a server that accepted an event and cannot be asked any more is waited for, where no timeout was given.
const AWAY: Duration = Duration::from_secs(60);
/// What an answer is waited for at least, however little of the timeout is left.
const LEAST_LOOK: Duration = Duration::from_millis(200);
/// The most that is read as a payload; servers take less.
const MAX_DATA_BYTES: u64 = 64 * 1024 * 1024;

/// The arguments of `send`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The type of the event, by which it is routed
    #[arg(value_name = "TYPE")]
    event_type: String,
    /// The payload as JSON, @FILE to read it from a file, or - to read it from standard input
    #[arg(value_name = "DATA|@FILE|-", allow_negative_numbers = true)]
    data: Option<String>,
    #[command(flatten)]
    server: ServerTarget,
    /// The sender's own id: the same source and id are accepted once
    #[arg(long)]
    id: Option<String>,
    /// Where the event comes from
    #[arg(long)]
    source: Option<String>,
    /// What the event is about
    #[arg(long)]
    subject: Option<String>,
    /// What belongs together
    #[arg(long)]
    key: Option<String>,
    /// Not before so many milliseconds
    #[arg(long, value_name = "MS")]
    delay_ms: Option<u64>,
    /// Under which the same request is recognised when it is sent again
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Wait for the end of the event and print its result
    #[arg(long)]
    wait: bool,
    /// How long to wait, such as 30s or 5m [default: until it has ended]
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = duration)]
    timeout: Option<Duration>,
    /// Print the server's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Sends the event.
pub(super) fn run(args: &Args) -> ExitReason {
    match send(args) {
        Ok(exit) => exit,
        Err(failure) => failure.told(),
    }
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    let duration = humantime::parse_duration(text).ok().filter(|duration| !duration.is_zero());
    duration.ok_or("a duration is written like 30s, 5m or 1h")
}

fn send(args: &Args) -> Result<ExitReason, ClientError> {
    let body = body(args, args.data.as_deref().map(data).transpose()?.as_deref())?;
    // An id of the sender's own is a key already, and one that outlives this process.
    let made_up = (args.idempotency_key.is_none() && args.id.is_none()).then(|| uuid::Uuid::now_v7().to_string());
    let key = args.idempotency_key.as_deref().or(made_up.as_deref());
    let answer = post(args, key, &body)?.accepted()?;
    let accepted = answer.json()?;
    let (id, durability) = (accepted["eventId"].as_str(), accepted["durability"].as_str());
    let id = id.ok_or_else(|| {
        ClientError::new(ExitReason::Failed, "the answer names no event; is this an eventstream server?")
    })?;
    if !args.wait {
        let (id, durability) = (Printable(id), Printable(durability.unwrap_or("unknown")));
        let said = match (args.json, accepted["duplicate"] == true) {
            (true, _) => say_json(&answer.text),
            (false, true) => say_lines(format_args!("accepted {id} before; it was not accepted again")),
            (false, false) => say_lines(format_args!("accepted {id} ({durability})")),
        };
        return Ok(ExitReason::Done.unless_unwritten(said));
    }
    let ended = wait(args, id)?;
    let event = ended.json()?;
    let said = if args.json { say_json(&ended.text) } else { say_lines(told(id, &event, &ended.text)) };
    let exit = if event["state"] == "processed" { ExitReason::Done } else { ExitReason::Failed };
    Ok(exit.unless_unwritten(said))
}

/// Sends the request, again if its answer was lost: the key makes it safe.
fn post(args: &Args, key: Option<&str>, body: &str) -> Result<ServerAnswer, ClientError> {
    let mut sends = 0;
    loop {
        sends += 1;
        let answer = args.server.post("/events", key, body);
        let is_unknown = match &answer {
            Ok(answer) => answer.status == 503 && answer.json().is_ok_and(|document| document["outcome"] == "unknown"),
            Err(failure) => failure.may_have_arrived,
        };
        if !is_unknown || sends == MAX_SENDS {
            return answer;
        }
        sleep(Duration::from_millis(200 * u64::from(sends)));
    }
}

/// Looks at the event until it has ended. A server that cannot be asked for a while does not end the wait: what it accepted
/// is there when it is back.
fn wait(args: &Args, id: &str) -> Result<ServerAnswer, ClientError> {
    let begun = Instant::now();
    let (mut pause_ms, mut away_since) = (*POLL_MS.start(), None);
    loop {
        let left = args.timeout.map_or(Duration::MAX, |timeout| timeout.saturating_sub(begun.elapsed()));
        let looked = look(&args.server, id, left.max(LEAST_LOOK))?;
        let (state, away) = match looked {
            EventReading::Ended(answer) => return Ok(answer),
            EventReading::Open(state) => (state, None),
            EventReading::Away(failure) => (String::new(), Some(failure)),
        };
        let now = Instant::now();
        let is_over = args.timeout.is_some_and(|timeout| now - begun >= timeout);
        match away {
            None if is_over => {
                let id = Printable(id);
                let words = format!("{id} is {} after that time, and is not lost: GET /events/{id}", Printable(state));
                return Err(ClientError::new(ExitReason::Failed, words));
            }
            None => away_since = None,
            Some(failure) => {
                if away_since.is_none() {
                    note(format_args!(
                        "eventstream: {id} was accepted, and its server is waited for: {}",
                        failure.message
                    ));
                }
                let since = *away_since.get_or_insert(now);
                if is_over || (args.timeout.is_none() && now - since >= AWAY) {
                    return Err(failure);
                }
            }
        }
        let left = args.timeout.map_or(Duration::MAX, |timeout| timeout.saturating_sub(begun.elapsed()));
        sleep(Duration::from_millis(pause_ms).min(left));
        pause_ms = (pause_ms * 3 / 2).min(*POLL_MS.end());
    }
}

/// What a look at an event finds.
enum EventReading {
    /// It has ended.
    Ended(ServerAnswer),
    /// It has not, and is in this state.
    Open(String),
    /// The server, or its store, cannot be asked now.
    Away(ClientError),
}

fn look(server: &ServerTarget, id: &str, most: Duration) -> Result<EventReading, ClientError> {
    let answer = match server.get_within(&format!("/events/{id}"), most) {
        Ok(answer) => answer,
        Err(failure) if failure.exit == ExitReason::Unreachable => return Ok(EventReading::Away(failure)),
        Err(failure) => return Err(failure),
    };
    // Also what a balancer says whose server is being restarted.
    if matches!(answer.status, 502..=504) {
        let failure = answer.accepted().err();
        return Ok(EventReading::Away(
            failure.unwrap_or_else(|| ClientError::new(ExitReason::Unreachable, "no answer")),
        ));
    }
    let answer = answer.accepted()?;
    let state = answer.json()?["state"].as_str().unwrap_or_default().to_owned();
    let is_ended = ["processed", "failed", "discarded"].contains(&state.as_str());
    Ok(if is_ended { EventReading::Ended(answer) } else { EventReading::Open(state) })
}

/// The end of an event in words, its result as it came.
fn told(id: &str, event: &Value, text: &str) -> String {
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

/// The payload as it was written.
fn data(argument: &str) -> Result<String, ClientError> {
    let unreadable =
        |what: &str, error: io::Error| ClientError::new(ExitReason::Usage, format!("{what} cannot be read: {error}"));
    let text = match argument.strip_prefix('@') {
        Some(file) => File::open(file).and_then(read_all).map_err(|error| unreadable(&format!("{file:?}"), error))?,
        None if argument == "-" => read_all(io::stdin()).map_err(|error| unreadable("standard input", error))?,
        None => argument.to_owned(),
    };
    // White space around it, such as the end of the last line of a file, is no part of it, and neither is the byte order
    // mark that some editors write.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).trim_ascii().to_owned();
    match serde_json::from_str::<&RawValue>(&text) {
        Ok(_) => Ok(text),
        Err(error) => {
            let mut message = format!("the data is not JSON: {}", Printable(error));
            if !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || " _-.".contains(c)) {
                message.push_str(&format!("; a text is written with its quotes: '\"{text}\"'"));
            } else if text.contains('\'') {
                message.push_str("; JSON has double quotes, so put single ones around the whole: '{\"a\":1}'");
            }
            Err(ClientError::new(ExitReason::Usage, message))
        }
    }
}

fn read_all(from: impl Read) -> io::Result<String> {
    let mut text = String::new();
    from.take(MAX_DATA_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_DATA_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_DATA_BYTES} bytes")));
    }
    Ok(text)
}

fn body(args: &Args, data: Option<&str>) -> Result<String, ClientError> {
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct RequestBody<'a> {
        r#type: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        subject: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        delay_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        payload: Option<&'a RawValue>,
    }
    let bug = |error: serde_json::Error| {
        ClientError::new(ExitReason::Failed, format!("the event cannot be written: {error}"))
    };
    let body = RequestBody {
        r#type: &args.event_type,
        id: args.id.as_deref(),
        source: args.source.as_deref(),
        subject: args.subject.as_deref(),
        key: args.key.as_deref(),
        delay_ms: args.delay_ms,
        payload: data.map(serde_json::from_str).transpose().map_err(bug)?,
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
        body(&args, args.data.as_deref().map(data).transpose()?.as_deref())
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
    fn data_without_an_end_is_not_read_for_ever() {
        let failure = data("@/dev/zero").unwrap_err();
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
    fn what_an_event_comes_to_forges_no_line() {
        for text in [
            "{\"state\":\"failed\",\"class\":\"reject\",\"reason\":\"no\\nprocessed i in 1 attempt\\u001b[8m\\u202e\"}",
            "{\"state\":\"processed\",\"attemptCount\":1,\"result\":[\n\"\u{9b}31m\u{202e}\"\n]}",
        ] {
            let told = told("i", &serde_json::from_str(text).unwrap(), text);
            assert_eq!(told.lines().count(), 1 + usize::from(told.starts_with("processed")), "{told:?}");
            assert!(!told.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}')), "{told:?}");
        }
    }

    #[test]
    fn the_end_of_an_event_is_told_with_its_result_byte_for_byte() {
        let text = r#"{"state":"processed","attemptCount":1,"result":{ "n": 1.10 }}"#;
        assert_eq!(told("i", &serde_json::from_str(text).unwrap(), text), "processed i in 1 attempt\n{ \"n\": 1.10 }");
        let text = r#"{"state":"failed","attemptCount":5,"class":"trap","reason":"unreachable"}"#;
        assert_eq!(
            told("i", &serde_json::from_str(text).unwrap(), text),
            "failed i after 5 attempts: trap: unreachable"
        );
    }
}
