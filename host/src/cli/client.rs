//! What the commands that talk to a server share: one request, its answer, and why there is none.

use std::io::ErrorKind;
use std::time::Duration;

use eventstream::printable::Printable;
use eventstream::secret::{RedactedUrl, SecretText};
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::ExitReason;
use super::output::{OutputResult, complain_lines, say_json, say_lines};

/// The longest answer that is read.
const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;
/// How long a server may take to answer. Longer than it takes to find that its store is away.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Where the server is, for every command that talks to one.
#[derive(Debug, clap::Args)]
pub(super) struct ServerTarget {
    /// Where the server is
    #[arg(
        long,
        visible_alias = "server",
        value_name = "URL",
        env = "EVENTSTREAM_URL",
        hide_env_values = true,
        default_value = "http://127.0.0.1:3000"
    )]
    url: SecretText,
}

/// What a server answered.
#[derive(Debug)]
pub(super) struct ServerAnswer {
    pub(super) status: u16,
    pub(super) text: String,
}

/// What a command tells of an answer.
#[derive(Debug)]
pub(super) enum AnswerReading {
    /// A document, for a program.
    Json(String),
    /// Lines for a person, each value in them printable.
    Report(String),
}

impl AnswerReading {
    /// Writes it.
    pub(super) fn say(&self) -> OutputResult {
        match self {
            Self::Json(document) => say_json(document),
            Self::Report(lines) => say_lines(lines),
        }
    }
}

/// Why a command did not get what it wanted.
#[derive(Debug)]
pub(super) struct ClientError {
    pub(super) exit: ExitReason,
    /// In one line or several, each value in it printable.
    pub(super) message: String,
    /// The request may have reached the server and taken effect.
    pub(super) may_have_arrived: bool,
}

impl ClientError {
    pub(super) fn new(exit: ExitReason, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), may_have_arrived: false }
    }

    /// Says it. Gives how the command ends.
    pub(super) fn told(&self) -> ExitReason {
        complain_lines(&self.message);
        self.exit
    }
}

impl ServerAnswer {
    /// The answer as JSON.
    pub(super) fn json(&self) -> Result<Value, ClientError> {
        serde_json::from_str(&self.text).map_err(|_| {
            ClientError::new(ExitReason::Failed, format!("not an answer of eventstream: {}", first_line(&self.text)))
        })
    }

    /// The answer, unless it is a refusal.
    pub(super) fn accepted(self) -> Result<Self, ClientError> {
        match self.status {
            200..=299 => Ok(self),
            status => Err(ClientError::new(ExitReason::Failed, refusal(status, &self.text))),
        }
    }
}

impl ServerTarget {
    /// A server that is known already.
    pub(super) fn at(url: String) -> Self {
        Self { url: url.into() }
    }

    /// Asks for what is at a path.
    pub(super) fn get(&self, path: &str) -> Result<ServerAnswer, ClientError> {
        self.get_within(path, TIMEOUT)
    }

    /// As [`Self::get`], in at most so much time.
    pub(super) fn get_within(&self, path: &str, most: Duration) -> Result<ServerAnswer, ClientError> {
        let url = self.url(path)?;
        self.read(agent(most.min(TIMEOUT)).get(url).call())
    }

    /// Sends a body of JSON.
    pub(super) fn post(
        &self,
        path: &str,
        idempotency_key: Option<&str>,
        body: &str,
    ) -> Result<ServerAnswer, ClientError> {
        let mut request = agent(TIMEOUT).post(self.url(path)?).content_type("application/json");
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        self.read(request.send(body))
    }

    /// Has what is at a path removed.
    pub(super) fn delete(&self, path: &str) -> Result<ServerAnswer, ClientError> {
        let url = self.url(path)?;
        self.read(agent(TIMEOUT).delete(url).call())
    }

    fn url(&self, path: &str) -> Result<String, ClientError> {
        let base = self.url.expose().trim_end_matches('/');
        if !base.starts_with("http://") {
            let message = format!(
                "--url {} is not an address such as http://127.0.0.1:3000 (https is not spoken yet)",
                RedactedUrl(base)
            );
            return Err(ClientError::new(ExitReason::Usage, message));
        }
        Ok(format!("{base}{path}"))
    }

    fn read(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<ServerAnswer, ClientError> {
        let read = answer.and_then(|mut response| {
            let text = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).lossy_utf8(true).read_to_string()?;
            Ok(ServerAnswer { status: response.status().as_u16(), text })
        });
        read.map_err(|error| {
            if matches!(error, ureq::Error::Http(_) | ureq::Error::BadUri(_)) {
                // The words may quote the address, and so a password in it.
                let message = format!("--url {} is not an address that can be asked", RedactedUrl(self.url.expose()));
                return ClientError::new(ExitReason::Usage, message);
            }
            let may_have_arrived = match &error {
                ureq::Error::Io(error) => error.kind() != ErrorKind::ConnectionRefused,
                ureq::Error::HostNotFound => false,
                _ => true,
            };
            let (url, error) = (RedactedUrl(self.url.expose()), Printable(&error));
            let message = format!("no server answers at {url}: {error}");
            ClientError { may_have_arrived, ..ClientError::new(ExitReason::Unreachable, message) }
        })
    }
}

fn agent(timeout: Duration) -> Agent {
    let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(timeout)).proxy(None);
    config.build().new_agent()
}

/// The words of a problem document: what is wrong, and where.
fn refusal(status: u16, text: &str) -> String {
    let Ok(document) = serde_json::from_str::<Value>(text) else {
        return format!("the server refused with status {status}: {}", first_line(text));
    };
    let word = |name: &str| Printable(document[name].as_str().unwrap_or_default());
    let mut words = format!("the server refused with status {status}: {}: {}", word("title"), word("detail"));
    for error in document["errors"].as_array().into_iter().flatten() {
        let pointer = error["pointer"].as_str().unwrap_or_default();
        let message = Printable(error["message"].as_str().unwrap_or_default());
        words.push_str(&if pointer.is_empty() {
            format!("\n  {message}")
        } else {
            format!("\n  {}: {message}", Printable(pointer))
        });
    }
    words
}

fn first_line(text: &str) -> String {
    let line: String = text.lines().next().unwrap_or_default().chars().take(200).collect();
    Printable(line).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_with_every_place() {
        let text = r#"{"title":"The event is not valid","status":422,"detail":"nothing was accepted","errors":[
            {"pointer":"/type","message":"must be a string"},{"pointer":"","message":"no body"}]}"#;
        let told = refusal(422, text);
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(lines[0], "the server refused with status 422: The event is not valid: nothing was accepted");
        assert_eq!(lines[1..], ["  /type: must be a string", "  no body"]);
        assert_eq!(refusal(502, "<html>\nx"), "the server refused with status 502: <html>");
    }
}
