//! A plugin that does what its payload says; the README beside it lists the words.
//!
//! It has no `describe`: a copy of it under any file name handles the type of that name. Misbehavior is written plainly,
//! as a careless or hostile author would write it.

mod http;
mod script;

use std::io::Write;
use std::time::{Duration, Instant};

use self::eventstream::plugin::log::{Level, log};
use self::eventstream::plugin::publisher::{NewEvent, publish};
use self::eventstream::plugin::types::RetryRequest;
use self::eventstream::plugin::{config, delivery, secrets, state};
use self::exports::eventstream::plugin::handler::{Event, EventData, Failure, Guest};
use self::script::{Ending, Script, StateCall};

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package tests:scripted;
        world scripted {
            include eventstream:plugin/plugin@0.1.0;
            import eventstream:plugin/secrets@0.1.0;
        }
    ",
    world: "tests:scripted/scripted",
    generate_all,
});

/// What is written at once, so that a flood is a flood of lines.
const LINE_BYTES: u64 = 4_096;

struct Scripted;
export!(Scripted);

impl Guest for Scripted {
    fn handle(event: Event) -> Result<Option<EventData>, Failure> {
        let calls = script::count_call();
        let Some(EventData::Text(payload)) = &event.data else {
            return Err(Failure::Reject("no payload".into()));
        };
        let script: Script = serde_json::from_str(payload).map_err(|error| Failure::Reject(error.to_string()))?;
        let answers: Vec<_> = script.state.iter().map(call_state).collect();
        carry_out(&script)?;
        if delivery::attempt() < script.flaky {
            return Err(retry(&script));
        }
        if let Some(size_bytes) = script.return_bytes {
            return Ok(Some(EventData::Binary(vec![b'x'; size_bytes])));
        }
        end(&script, &event, payload, calls, &answers)
    }
}

/// Everything that happens before the end.
fn carry_out(script: &Script) -> Result<(), Failure> {
    flood(script.log_bytes, |line| log(Level::Info, line, &[]));
    flood(script.stderr_bytes, |line| _ = writeln!(std::io::stderr(), "{line}"));
    flood(script.stdout_bytes, |line| _ = writeln!(std::io::stdout(), "{line}"));
    if script.sleep_ms > 0 {
        std::thread::sleep(Duration::from_millis(script.sleep_ms));
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(script.spin_ms) {
        std::hint::spin_loop();
    }
    for n in 0..script.publish {
        if let Err(error) = publish(&script.child(n))
            && !script.ignore_publish_error
        {
            return Err(Failure::Reject(error.to_string()));
        }
    }
    Ok(())
}

/// The answer of a call of the state, or its error as `{"error": …}`.
fn call_state(call: &StateCall) -> serde_json::Value {
    let text =
        |value: Option<Vec<u8>>| serde_json::json!(value.map(|value| String::from_utf8_lossy(&value).into_owned()));
    let answer = match call {
        StateCall::Get { key } => state::get(key).map(text),
        StateCall::Set { key, value, bytes, ttl_ms } => {
            let value = value.clone().unwrap_or_else(|| "x".repeat(bytes.unwrap_or(0)));
            state::set(key, value.as_bytes(), *ttl_ms).map(|()| serde_json::Value::Null)
        }
        StateCall::Delete { key } => state::delete(key).map(|()| serde_json::Value::Null),
        StateCall::Increment { key, delta } => state::increment(key, *delta).map(|sum| serde_json::json!(sum)),
        StateCall::Next { key } => state::get(key).and_then(|value| {
            let number = value.and_then(|value| String::from_utf8(value).ok()?.parse::<i64>().ok()).unwrap_or(0) + 1;
            state::set(key, number.to_string().as_bytes(), None).map(|()| serde_json::json!(number))
        }),
    };
    answer.unwrap_or_else(|error| serde_json::json!({ "error": error.to_string() }))
}

fn flood(size_bytes: u64, mut write: impl FnMut(&str)) {
    let line = "x".repeat(LINE_BYTES as usize - 1);
    for _ in 0..size_bytes.div_ceil(LINE_BYTES) {
        write(&line);
    }
}

fn end(
    script: &Script,
    event: &Event,
    payload: &str,
    calls: u32,
    answers: &[serde_json::Value],
) -> Result<Option<EventData>, Failure> {
    let text = |text: String| Ok(Some(EventData::Text(text)));
    match script.ending.flipped() {
        Ending::Ok | Ending::Coin => Ok(None),
        Ending::Http => text(http::send_all(&script.http)),
        Ending::Echo => text(payload.to_owned()),
        Ending::Facts => text(facts(event)),
        Ending::Static => text(calls.to_string()),
        Ending::Config => text(serde_json::json!(config::get(&script.key)).to_string()),
        Ending::Secret => Err(tell_secret(&script.key)),
        Ending::State => text(serde_json::json!(answers).to_string()),
        Ending::Forbidden => text(forbidden()),
        Ending::Retry => Err(retry(script)),
        Ending::Reject => Err(Failure::Reject(script.message.clone())),
        Ending::Trap => panic!("{}", script.message),
        Ending::Unreachable => unreachable_without_a_word(),
        Ending::Exit => std::process::exit(3),
        Ending::Loop => loop {
            std::hint::spin_loop();
        },
        Ending::Allocate => allocate(),
        Ending::Recurse => text(recurse(1).to_string()),
        Ending::PublishTooMany => {
            while publish(&script.child(0)).is_ok() {}
            Ok(None)
        }
    }
}

/// Tells a secret in every way that a careless author would.
fn tell_secret(key: &str) -> Failure {
    let secret = secrets::get(key).unwrap_or_else(|| "there is none".into());
    log(Level::Info, &secret, &[("field".into(), secret.clone())]);
    let _ = writeln!(std::io::stdout(), "on standard output {secret}");
    let _ = writeln!(std::io::stderr(), "on standard error {secret}");
    Failure::Reject(format!("the secret is {secret}"))
}

fn retry(script: &Script) -> Failure {
    Failure::Retry(RetryRequest { message: script.message.clone(), after_ms: script.after_ms })
}

fn facts(event: &Event) -> String {
    serde_json::json!({
        "attempt": delivery::attempt(),
        "maxAttempts": delivery::max_attempts(),
        "remainingMs": delivery::remaining_ms(),
        "traceparent": delivery::traceparent(),
        "idempotencyKey": delivery::idempotency_key(),
        "id": event.id,
        "source": event.source,
        "type": event.type_,
        "subject": event.subject,
        "time": event.time,
        "datacontenttype": event.datacontenttype,
        "extensions": event.extensions.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
    })
    .to_string()
}

/// How much of the outside a plugin gets to see; all of it should be nothing.
fn forbidden() -> String {
    let files = ["/", ".", "/etc/passwd"].into_iter().filter(|path| std::fs::metadata(path).is_ok()).count();
    let sockets = usize::from(std::net::TcpStream::connect(("127.0.0.1", 6379)).is_ok());
    let bound = usize::from(std::net::UdpSocket::bind(("127.0.0.1", 0)).is_ok());
    serde_json::json!({
        "environment": std::env::vars().count(),
        "arguments": std::env::args().count(),
        "files": files,
        "sockets": sockets + bound,
    })
    .to_string()
}

fn allocate() -> ! {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        kept.push(vec![1; 1 << 20]);
        std::hint::black_box(&kept);
    }
}

#[inline(never)]
#[expect(unconditional_recursion, reason = "that is the point")]
fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 16]);
    recurse(depth + 1) + frame[3]
}

fn unreachable_without_a_word() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort();
}

impl Script {
    fn child(&self, n: u32) -> NewEvent {
        let payload =
            self.publish_payload.as_deref().map_or_else(|| format!("{{\"n\":{n}}}"), |raw| raw.get().to_owned());
        NewEvent {
            type_: self.publish_type.clone(),
            subject: None,
            datacontenttype: None,
            extensions: Vec::new(),
            data: Some(EventData::Text(payload)),
            delay_ms: self.publish_delay_ms,
        }
    }
}
