//! The example `webhook-python`, in Python: it calls a service that was granted to it, and what the service answers ends
//! the event. Its settings are those that lie beside it, with the address of the test's service.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use eventstream_tests::guests::PluginsDir;
use eventstream_tests::layout;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

const NAME: &str = "webhook-python";

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

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
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
    let _ = write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let _ = stream.shutdown(Shutdown::Write);
}

/// The settings that lie beside the example, for a service at this address, granted or not, and a key to sign with.
fn settings(address: &str, granted: &str) -> String {
    let beside = layout::project_plugin(NAME).with_file_name("../webhook-python.toml");
    let text = std::fs::read_to_string(beside).unwrap();
    let example = "http://127.0.0.1:8080";
    assert_eq!(text.matches(example).count(), 2, "an address and a grant: {text}");
    let text =
        text.replacen(example, &format!("http://{address}"), 1).replacen(example, &format!("http://{granted}"), 1);
    format!("secrets = {{ signing-key = \"a signing key\" }}\n{text}")
}

fn stage(settings: &str) -> Stage {
    let plugins = PluginsDir::empty().with_settings(NAME, settings);
    plugins.put(NAME, &layout::project_plugin(NAME));
    Stage::with(Broker::Embedded, plugins, |options| options.with("retry.max_ms", 5_000))
}

fn header<'a>(request: &'a str, name: &str) -> &'a str {
    let found = request.lines().find_map(|line| {
        let (given, value) = line.split_once(": ")?;
        given.eq_ignore_ascii_case(name).then_some(value.trim_end())
    });
    found.unwrap_or_else(|| panic!("{name} is there: {request}"))
}

#[test]
fn what_the_service_answers_ends_the_event_and_every_attempt_has_the_same_key() {
    let service =
        Service::answering(&["503 Service Unavailable", "429 Too Many Requests\r\nretry-after: 1", "204 No Content"]);
    let stage = stage(&settings(&service.address, &service.address));
    let id = stage.client.post_event(NAME, &json!({"order": "A-1"}));
    let event = stage.client.wait_ended(&id);
    assert_eq!((event.state.as_str(), event.attempts.len()), ("processed", 3), "{event:?}");
    let result: Value = serde_json::from_str(event.result.as_ref().unwrap().get()).unwrap();
    assert_eq!(result, json!({"status": 204, "attempt": 3}));
    let reason = |attempt: usize| event.attempts[attempt].error.clone().unwrap();
    assert!(reason(0).contains("answered 503") && reason(1).contains("answered 429"), "{event:?}");
    assert_eq!(event.attempts[1].retry_in_ms, Some(1_000), "as the service asked: {event:?}");

    let requests = service.requests();
    assert_eq!(requests.len(), 3);
    for request in &requests {
        assert!(
            request.starts_with("POST /hooks HTTP/1.1\r\n") && request.ends_with("\r\n\r\n{\"order\":\"A-1\"}"),
            "{request}"
        );
        for name in ["webhook-id", "idempotency-key"] {
            assert_eq!(header(request, name).to_lowercase(), id.to_lowercase(), "{request}");
        }
        assert!(header(request, "webhook-timestamp").parse::<u64>().is_ok(), "{request}");
        assert!(header(request, "webhook-signature").starts_with("v1,"), "{request}");
    }
}

#[test]
fn what_the_service_does_not_want_is_rejected() {
    let service = Service::answering(&["410 Gone"]);
    let stage = stage(&settings(&service.address, &service.address));
    let event = stage.client.wait_ended(&stage.client.post_event(NAME, &json!({"order": "A-1"})));
    assert_eq!((event.state.as_str(), event.class.as_deref()), ("failed", Some("reject")), "{event:?}");
    assert!(event.reason.unwrap().contains("answered 410") && service.requests().len() == 1);
}

#[test]
fn a_service_that_is_not_granted_is_not_called() {
    let (service, other) = (Service::answering(&["204 No Content"]), Service::answering(&["204 No Content"]));
    let stage = stage(&settings(&service.address, &other.address));
    let event = stage.client.wait_ended(&stage.client.post_event(NAME, &json!({"order": "A-1"})));
    assert_eq!((event.state.as_str(), event.class.as_deref()), ("failed", Some("reject")), "{event:?}");
    assert!(event.reason.as_ref().unwrap().contains("is not granted to this plugin: HttpRequestDenied"), "{event:?}");
    assert!(service.requests().is_empty() && other.requests().is_empty());
    let status = stage.client.get(&format!("/plugins/{NAME}")).expect(200).json();
    assert_eq!(status["denied"]["http"], 1, "{status}");
}
