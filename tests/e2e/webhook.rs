//! The examples `webhook`, `webhook-js` and `webhook-python`: they call a service that was granted to them, and its answer
//! ends the event. Their settings are those beside them, with the address of the test's service.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use eventstream_tests::client::Event;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::layout;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What the service sends as an answer when it closes the connection without one.
const HANG_UP: &str = "";
const SIGNING_KEY: &str = "a signing key";

/// One of the examples.
struct Example {
    name: &'static str,
    component: fn(&str) -> PathBuf,
    /// How its language writes the code of a request that was not granted.
    denied: &'static str,
}

const RUST: Example = Example { name: "webhook", component: layout::example_plugin, denied: "HttpRequestDenied" };
const JAVASCRIPT: Example =
    Example { name: "webhook-js", component: layout::project_plugin, denied: "HTTP-request-denied" };
const PYTHON: Example =
    Example { name: "webhook-python", component: layout::project_plugin, denied: "HttpRequestDenied" };

macro_rules! tests_of {
    ($language:ident, $example:ident) => {
        mod $language {
            use super::{Broker, on_both_brokers};

            on_both_brokers! { the_answer_ends_the_event, a_service_that_is_not_granted_is_not_called }

            fn the_answer_ends_the_event(broker: Broker) {
                super::the_answer_ends_the_event(broker, &super::$example);
            }

            fn a_service_that_is_not_granted_is_not_called(broker: Broker) {
                super::a_service_that_is_not_granted_is_not_called(broker, &super::$example);
            }
        }
    };
}

tests_of!(rust, RUST);
tests_of!(javascript, JAVASCRIPT);
tests_of!(python, PYTHON);

/// A service that gives one answer after the other, the last one again and again, and keeps what it was sent.
struct Service {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Service {
    fn answering(statuses: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = requests.clone();
        std::thread::spawn(move || {
            for (index, stream) in listener.incoming().flatten().enumerate() {
                let request = read(&stream);
                seen.lock().unwrap().push(request);
                answer(stream, statuses[index.min(statuses.len() - 1)]);
            }
        });
        Self { address, requests }
    }

    /// The requests since the last call.
    fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

/// Reads a request to its end; a closing brace is nowhere else.
fn read(mut stream: &TcpStream) -> String {
    let (mut request, mut buffer) = (Vec::new(), [0; 4_096]);
    while !request.ends_with(b"}") {
        match stream.read(&mut buffer) {
            Ok(read @ 1..) => request.extend_from_slice(&buffer[..read]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&request).into_owned()
}

fn answer(mut stream: TcpStream, status: &str) {
    // The other side may have gone.
    if status != HANG_UP {
        let _ = write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    }
    let _ = stream.shutdown(Shutdown::Write);
}

/// The settings beside the example, for a service at this address, granted or not, and a key to sign with.
fn settings(example: &Example, address: &str, granted: &str) -> String {
    let name = example.name;
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../plugins/{name}/{name}.toml"));
    let text = std::fs::read_to_string(beside).unwrap();
    let place = "http://127.0.0.1:8080";
    assert_eq!(text.matches(place).count(), 2, "an address and a grant: {text}");
    assert!(text.contains("secrets = { signing-key = "), "{text}");
    let text = text.replacen(place, &format!("http://{address}"), 1).replacen(place, &format!("http://{granted}"), 1);
    format!("secrets = {{ signing-key = \"{SIGNING_KEY}\" }}\n{text}")
}

fn stage(broker: Broker, example: &Example, settings: &str) -> Stage {
    let plugins = PluginsDir::empty().with_settings(example.name, settings);
    plugins.put(example.name, &(example.component)(example.name));
    Stage::with(broker, plugins, |options| options.with("retry.max_ms", 5_000))
}

fn send(stage: &Stage, example: &Example) -> Event {
    stage.client.wait_ended(&stage.client.post_event(example.name, &json!({"order": "A-1"})))
}

fn header<'a>(request: &'a str, name: &str) -> &'a str {
    let found = request.lines().find_map(|line| {
        let (given, value) = line.split_once(": ")?;
        given.eq_ignore_ascii_case(name).then_some(value.trim_end())
    });
    found.unwrap_or_else(|| panic!("{name} is there: {request}"))
}

/// HMAC-SHA256 of RFC 2104, for a key of one block at most.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let pad = |byte: u8| -> Vec<u8> { (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ byte).collect() };
    let inner = Sha256::digest([pad(0x36).as_slice(), message].concat());
    Sha256::digest([pad(0x5c).as_slice(), &inner].concat()).to_vec()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let word = (0..3).fold(0_usize, |word, at| (word << 8) | usize::from(part.get(at).copied().unwrap_or(0)));
        let digits = [18, 12, 6, 0].map(|shift| char::from(DIGITS[(word >> shift) & 63]));
        text.extend(&digits[..=part.len()]);
        text.extend(std::iter::repeat_n('=', 3 - part.len()));
    }
    text
}

/// Every request is complete, signed, and carries the event's id as its key.
#[track_caller]
fn check_requests(requests: &[String], id: &str) {
    let body = r#"{"order":"A-1"}"#;
    for request in requests {
        assert!(
            request.starts_with("POST /hooks HTTP/1.1\r\n") && request.ends_with(&format!("\r\n\r\n{body}")),
            "{request}"
        );
        for name in ["webhook-id", "idempotency-key"] {
            assert_eq!(header(request, name).to_lowercase(), id.to_lowercase(), "{request}");
        }
        assert_eq!(header(request, "content-type"), "application/json", "{request}");
        let (message_id, timestamp) = (header(request, "webhook-id"), header(request, "webhook-timestamp"));
        assert!(timestamp.parse::<u64>().is_ok(), "{request}");
        let code = hmac(SIGNING_KEY.as_bytes(), format!("{message_id}.{timestamp}.{body}").as_bytes());
        assert_eq!(header(request, "webhook-signature"), format!("v1,{}", base64(&code)), "{request}");
    }
}

/// One host for the whole test, because it compiles the example when it starts.
fn the_answer_ends_the_event(broker: Broker, example: &Example) {
    let service = Service::answering(&[
        "503 Service Unavailable",
        "429 Too Many Requests\r\nretry-after: 1",
        "204 No Content",
        HANG_UP,
        "200 OK",
        "410 Gone",
    ]);
    let stage = stage(broker, example, &settings(example, &service.address, &service.address));

    let event = send(&stage, example);
    assert_eq!((event.state.as_str(), event.attempts.len()), ("processed", 3), "{event:?}");
    let result: Value = serde_json::from_str(event.result.as_ref().unwrap().get()).unwrap();
    assert_eq!(result, json!({"status": 204, "attempt": 3}));
    let reason = |event: &Event, attempt: usize| event.attempts[attempt].error.clone().unwrap();
    assert!(reason(&event, 0).contains("answered 503") && reason(&event, 1).contains("answered 429"), "{event:?}");
    assert_eq!(event.attempts[1].retry_in_ms, Some(1_000), "as the service asked: {event:?}");
    let requests = service.take_requests();
    assert_eq!(requests.len(), 3);
    check_requests(&requests, &event.id);

    let event = send(&stage, example);
    assert_eq!((event.state.as_str(), event.attempts.len()), ("processed", 2), "{event:?}");
    assert!(reason(&event, 0).contains("cannot be reached"), "{event:?}");
    let requests = service.take_requests();
    assert_eq!(requests.len(), 2);
    check_requests(&requests, &event.id);

    let event = send(&stage, example);
    assert_eq!((event.state.as_str(), event.class.as_deref()), ("failed", Some("reject")), "{event:?}");
    assert!(event.reason.unwrap().contains("answered 410") && service.take_requests().len() == 1);
}

fn a_service_that_is_not_granted_is_not_called(broker: Broker, example: &Example) {
    let (service, other) = (Service::answering(&["204 No Content"]), Service::answering(&["204 No Content"]));
    let stage = stage(broker, example, &settings(example, &service.address, &other.address));
    let event = send(&stage, example);
    assert_eq!((event.state.as_str(), event.class.as_deref()), ("failed", Some("reject")), "{event:?}");
    let words = format!("is not granted to this plugin: {}", example.denied);
    assert!(event.reason.as_ref().unwrap().contains(&words), "{event:?}");
    assert!(service.take_requests().is_empty() && other.take_requests().is_empty());
    let status = stage.client.get(&format!("/plugins/{}", example.name)).expect(200).json();
    assert_eq!(status["denied"]["http"], 1, "{status}");
}
