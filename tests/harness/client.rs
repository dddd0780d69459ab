//! A client of the HTTP interface: requests, answers and the documents in them.
//!
//! The documents have types of their own here, not those of the host, so that a change of the interface breaks a test. The
//! short methods panic with the whole answer; [`Client::request`] is for tests that expect an error.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use ureq::Agent;
use ureq::http::Request;

use crate::eventually::eventually;

/// A client of one host.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    url: String,
}

/// An answer of any status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    headers: ureq::http::HeaderMap,
    body: Vec<u8>,
}

/// No answer: the connection was refused, broke or took too long. Whether the request took effect is unknown.
#[derive(Debug)]
pub struct Unanswered(pub String);

/// An event as the host describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names are those of the documents")]
pub struct Event {
    pub id: String,
    #[serde(rename = "type")]
    pub event_type: String,
    pub source: String,
    pub state: String,
    #[serde(default, deserialize_with = "as_written")]
    pub payload: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "as_written")]
    pub result: Option<Box<RawValue>>,
    pub cause: Option<String>,
    #[serde(default)]
    pub children: Vec<String>,
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    pub class: Option<String>,
    pub reason: Option<String>,
    pub due_at: Option<String>,
    pub ended_at: Option<String>,
    #[serde(default)]
    pub deferrals: u32,
    #[serde(default)]
    pub replays: u32,
}

/// A value that is there, including `null`, which differs from an absent value.
fn as_written<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// One attempt at an event.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names are those of the documents")]
pub struct Attempt {
    pub attempt: u32,
    pub started_at: String,
    pub duration_ms: f64,
    pub class: Option<String>,
    pub error: Option<String>,
    pub backtrace: Option<String>,
    pub retry_in_ms: Option<u64>,
    pub consumer: String,
    pub plugin: Option<String>,
    pub digest: Option<String>,
    pub stderr: Option<String>,
    #[serde(default)]
    pub log: Vec<Value>,
    #[serde(default)]
    pub log_lines_dropped: u32,
}

/// A page of events.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventPage {
    #[serde(alias = "failedEvents")]
    events: Vec<Event>,
    next_cursor: Option<String>,
}

impl Answer {
    /// A header, empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        self.read()
    }

    /// The answer itself, if its status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    #[track_caller]
    fn read<T: for<'de> Deserialize<'de>>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }
}

impl Client {
    /// A client of the host at this address.
    pub fn new(url: &str) -> Self {
        Self::with_timeout(url, Duration::from_secs(30))
    }

    /// A client that waits at most this long for an answer.
    pub fn with_timeout(url: &str, timeout: Duration) -> Self {
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(timeout)).build();
        Self { agent: config.new_agent(), url: url.to_owned() }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// No answer came.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Answer, Unanswered> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let sent = match body {
            Some(body) => self.agent.run(request.body(body.to_vec()).expect("the test writes a valid request")),
            None => self.agent.run(request.body(()).expect("the test writes a valid request")),
        };
        let mut response = sent.map_err(|error| Unanswered(error.to_string()))?;
        let body = response.body_mut().with_config().limit(u64::MAX).read_to_vec();
        Ok(Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: body.map_err(|error| Unanswered(error.to_string()))?,
        })
    }

    /// `GET`.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        answered(self.request("GET", path, &[], None))
    }

    /// `POST /events` with a body of `application/json`.
    #[track_caller]
    pub fn post(&self, body: &str) -> Answer {
        answered(self.request("POST", "/events", &[("content-type", "application/json")], Some(body.as_bytes())))
    }

    /// The same with an idempotency key.
    ///
    /// # Errors
    /// No answer came.
    pub fn try_post_keyed(&self, body: &str, key: &str) -> Result<Answer, Unanswered> {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        self.request("POST", "/events", &headers, Some(body.as_bytes()))
    }

    /// Posts an event, which must be accepted, and returns its id.
    #[track_caller]
    pub fn post_event(&self, event_type: &str, payload: &Value) -> String {
        let answer = self.post(&serde_json::json!({"type": event_type, "payload": payload}).to_string()).expect(202);
        answer.json()["eventId"].as_str().expect("an accepted event has an id").to_owned()
    }

    /// Posts a batch, which must be accepted, and returns the ids of its events.
    #[track_caller]
    pub fn post_batch(&self, events: &[Value]) -> Vec<String> {
        let answer = self.post(&serde_json::json!(events).to_string()).expect(202);
        serde_json::from_value(answer.json()["eventIds"].clone()).expect("accepted events have ids")
    }

    /// An event in any state, if there is one.
    #[track_caller]
    pub fn event(&self, id: &str) -> Option<Event> {
        let answer = self.ask(&format!("/events/{id}"));
        if answer.status == 404 { None } else { Some(answer.expect(200).read()) }
    }

    /// A failed event, if it is one.
    #[track_caller]
    pub fn failed_event(&self, id: &str) -> Option<Event> {
        let answer = self.ask(&format!("/failed-events/{id}"));
        if answer.status == 404 { None } else { Some(answer.expect(200).read()) }
    }

    /// Waits until an event is in one of these states.
    #[track_caller]
    pub fn wait_for(&self, id: &str, states: &[&str]) -> Event {
        eventually(&format!("the event is {states:?}"), || match self.event(id) {
            Some(event) if states.contains(&event.state.as_str()) => Ok(event),
            other => Err(format!("{other:?}")),
        })
    }

    /// Waits until an event has ended.
    #[track_caller]
    pub fn wait_ended(&self, id: &str) -> Event {
        self.wait_for(id, &["processed", "failed"])
    }

    /// Every processed event, newest first; reads all pages.
    #[track_caller]
    pub fn processed(&self) -> Vec<Event> {
        self.pages("/events")
    }

    /// Every failed event, newest first; reads all pages.
    #[track_caller]
    pub fn failed(&self) -> Vec<Event> {
        self.pages("/failed-events")
    }

    /// Replays a failed event.
    #[track_caller]
    pub fn replay(&self, id: &str) -> Answer {
        answered(self.request("POST", &format!("/failed-events/{id}/replay"), &[], Some(b"")))
    }

    /// Rolls a plugin back to the version that served before.
    #[track_caller]
    pub fn roll_back(&self, plugin: &str) -> Answer {
        answered(self.request("POST", &format!("/plugins/{plugin}/rollback"), &[], Some(b"")))
    }

    /// Waits until `is_it` returns something for the status of a plugin.
    #[track_caller]
    pub fn wait_for_plugin<T>(&self, name: &str, what: &str, is_it: impl Fn(&Value) -> Option<T>) -> T {
        eventually(&format!("{name}: {what}"), || {
            let answer = self.get(&format!("/plugins/{name}"));
            let status = answer.json();
            is_it(&status).ok_or(status)
        })
    }

    /// Waits until the version of a plugin with this digest serves.
    #[track_caller]
    pub fn wait_for_version(&self, name: &str, digest: &str) {
        self.wait_for_plugin(name, "another version serves", |status| {
            (status["digest"] == digest && status["state"] == "active").then_some(())
        });
    }

    /// The document of `GET /metrics`.
    #[track_caller]
    pub fn metrics(&self) -> Value {
        self.ask("/metrics").expect(200).json()
    }

    /// `GET` that repeats while the host answers 503: on a busy machine the store may answer it too late.
    #[track_caller]
    fn ask(&self, path: &str) -> Answer {
        eventually("the store answers", || match self.get(path) {
            answer if answer.status == 503 => Err(answer.text()),
            answer => Ok(answer),
        })
    }

    #[track_caller]
    fn pages(&self, path: &str) -> Vec<Event> {
        let (mut events, mut cursor) = (Vec::new(), String::new());
        loop {
            let page: EventPage = self.ask(&format!("{path}?limit=500{cursor}")).expect(200).read();
            events.extend(page.events);
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return events,
            }
        }
    }
}

#[track_caller]
fn answered(answer: Result<Answer, Unanswered>) -> Answer {
    answer.unwrap_or_else(|error| panic!("no answer: {}", error.0))
}
