//! The HTTP client of the commands that talk to a server: one request, its answer, or why there is none.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use eventstream::api_key::KeyToken;
use eventstream::printable::Printable;
use eventstream::regular_file;
use eventstream::secret::{RedactedUrl, SecretText};
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body, RequestBuilder};

use super::output::{ExitReason, OutputResult, print_json, print_lines, report_error_lines};

/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;
/// The variables that hold the key of the user, or the path of a file with it.
const KEY_VARIABLE: &str = "EVENTSTREAM_KEY";
const KEY_FILE_VARIABLE: &str = "EVENTSTREAM_KEY_FILE";
/// How long a server may take to answer. A server needs less time than this to notice that its store is unreachable.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The address of the server.
#[derive(Debug, clap::Args)]
pub(super) struct ServerTarget {
    /// The address of the server
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

/// The answer of a server.
#[derive(Debug)]
pub(super) struct ServerAnswer {
    pub(super) status: u16,
    pub(super) text: String,
}

/// What a command prints about an answer.
#[derive(Debug)]
pub(super) enum CommandReport {
    /// A JSON document, for a program.
    Json(String),
    /// Lines for a person; each value in them is printable.
    Text(String),
}

impl CommandReport {
    /// Prints the report.
    pub(super) fn print(&self) -> OutputResult {
        match self {
            Self::Json(document) => print_json(document),
            Self::Text(lines) => print_lines(lines),
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(super) struct ClientError {
    pub(super) exit: ExitReason,
    /// One line or several; each value in them is printable. Empty if the reason has been reported.
    pub(super) message: String,
    /// Whether the request may have reached the server and taken effect.
    pub(super) may_have_arrived: bool,
}

impl ClientError {
    pub(super) fn new(exit: ExitReason, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), may_have_arrived: false }
    }

    /// The error of a command that has reported the reason.
    pub(super) fn reported(exit: ExitReason) -> Self {
        Self::new(exit, "")
    }

    /// Reports the error and returns the exit code.
    pub(super) fn report(&self) -> ExitReason {
        if !self.message.is_empty() {
            report_error_lines(&self.message);
        }
        self.exit
    }
}

impl ServerAnswer {
    /// Parses the answer as JSON.
    pub(super) fn parse_json(&self) -> Result<Value, ClientError> {
        serde_json::from_str(&self.text).map_err(|_| {
            ClientError::new(
                ExitReason::Failed,
                format!("the server's answer is not JSON; is it eventstream? It says: {}", first_line(&self.text)),
            )
        })
    }

    /// Returns the answer if its status is a success.
    pub(super) fn require_success(self) -> Result<Self, ClientError> {
        match self.status {
            200..=299 => Ok(self),
            _ => Err(ClientError::new(ExitReason::Failed, self.describe_problem())),
        }
    }

    /// Describes a refusal: what is wrong, and where.
    pub(super) fn describe_problem(&self) -> String {
        describe_problem(self.status, &self.text)
    }
}

impl ServerTarget {
    /// Creates the target for a known address.
    pub(super) fn at(url: String) -> Self {
        Self { url: url.into() }
    }

    /// Sends a GET request.
    pub(super) fn get(&self, path: &str) -> Result<ServerAnswer, ClientError> {
        self.get_within(path, TIMEOUT)
    }

    /// Sends a GET request with a shorter timeout.
    pub(super) fn get_within(&self, path: &str, timeout: Duration) -> Result<ServerAnswer, ClientError> {
        let url = self.join_url(path)?;
        self.read_answer(with_key(build_agent(timeout.min(TIMEOUT)).get(url))?.call())
    }

    /// Sends a POST request with a JSON body.
    pub(super) fn post(
        &self,
        path: &str,
        idempotency_key: Option<&str>,
        body: &str,
    ) -> Result<ServerAnswer, ClientError> {
        let request = build_agent(TIMEOUT).post(self.join_url(path)?).content_type("application/json");
        let mut request = with_key(request)?;
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        self.read_answer(request.send(body))
    }

    /// Sends a DELETE request.
    pub(super) fn delete(&self, path: &str) -> Result<ServerAnswer, ClientError> {
        let url = self.join_url(path)?;
        self.read_answer(with_key(build_agent(TIMEOUT).delete(url))?.call())
    }

    fn join_url(&self, path: &str) -> Result<String, ClientError> {
        let base = self.url.expose().trim_end_matches('/');
        if !base.starts_with("http://") {
            let message = format!(
                "--url {} is not an address such as http://127.0.0.1:3000; https is not supported",
                RedactedUrl(base)
            );
            return Err(ClientError::new(ExitReason::Usage, message));
        }
        Ok(format!("{base}{path}"))
    }

    fn read_answer(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<ServerAnswer, ClientError> {
        let read = answer.and_then(|mut response| {
            let text = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).lossy_utf8(true).read_to_string()?;
            Ok(ServerAnswer { status: response.status().as_u16(), text })
        });
        read.map_err(|error| {
            if matches!(error, ureq::Error::Http(_) | ureq::Error::BadUri(_)) {
                // The error may quote the address, and so a password in it.
                let message = format!("--url {} is not a valid address", RedactedUrl(self.url.expose()));
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

/// Encodes the parameters that have a value as the query of a URL.
pub(super) fn encode_query(parameters: &[(&str, Option<&str>)]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let encode = |text: &str| -> String {
        text.bytes()
            .map(|byte| if is_plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect()
    };
    let given = parameters.iter().filter_map(|(name, value)| Some(format!("{name}={}", encode((*value)?))));
    given.collect::<Vec<_>>().join("&")
}

/// A path with the parameters that have a value.
pub(super) fn path_with_query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    match encode_query(parameters) {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

/// Adds the key of the environment to a request, if there is one. Other users of the machine cannot see it there.
fn with_key<B>(request: RequestBuilder<B>) -> Result<RequestBuilder<B>, ClientError> {
    Ok(match read_key()? {
        Some(key) => request.header("authorization", format!("Bearer {}", key.expose())),
        None => request,
    })
}

/// Reads the key from `EVENTSTREAM_KEY`, or from the file that `EVENTSTREAM_KEY_FILE` names.
fn read_key() -> Result<Option<KeyToken>, ClientError> {
    let usage = |message: String| ClientError::new(ExitReason::Usage, message);
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let (place, text) = match (variable(KEY_VARIABLE), variable(KEY_FILE_VARIABLE)) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(usage(format!("set {KEY_VARIABLE} or {KEY_FILE_VARIABLE}, not both"))),
        (Some(text), None) => (KEY_VARIABLE, text.to_string_lossy().into_owned()),
        (None, Some(path)) => {
            let read = regular_file::read_to_string(Path::new(&path));
            (
                KEY_FILE_VARIABLE,
                read.map_err(|error| usage(format!("the file in {KEY_FILE_VARIABLE} cannot be read: {error}")))?,
            )
        }
    };
    let token = text.trim().parse().map_err(|error| usage(format!("{place}: {error}")))?;
    Ok(Some(token))
}

fn build_agent(timeout: Duration) -> Agent {
    let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(timeout)).proxy(None);
    config.build().new_agent()
}

/// Describes a problem document: what is wrong, and where.
fn describe_problem(status: u16, text: &str) -> String {
    let Ok(document) = serde_json::from_str::<Value>(text) else {
        return format!("the server refused with status {status}: {}", first_line(text));
    };
    let text_of = |name: &str| Printable(document[name].as_str().unwrap_or_default());
    let mut description =
        format!("the server refused with status {status}: {}: {}", text_of("title"), text_of("detail"));
    for error in document["errors"].as_array().into_iter().flatten() {
        let pointer = error["pointer"].as_str().unwrap_or_default();
        let message = Printable(error["message"].as_str().unwrap_or_default());
        description.push_str(&if pointer.is_empty() {
            format!("\n  {message}")
        } else {
            format!("\n  {}: {message}", Printable(pointer))
        });
    }
    description
}

fn first_line(text: &str) -> String {
    let line: String = text.lines().next().unwrap_or_default().chars().take(200).collect();
    Printable(line).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_described_with_every_place() {
        let text = r#"{"title":"The event is not valid","status":422,"detail":"nothing was accepted","errors":[
            {"pointer":"/type","message":"must be a string"},{"pointer":"","message":"no body"}]}"#;
        let described = describe_problem(422, text);
        let lines: Vec<_> = described.lines().collect();
        assert_eq!(lines[0], "the server refused with status 422: The event is not valid: nothing was accepted");
        assert_eq!(lines[1..], ["  /type: must be a string", "  no body"]);
        assert_eq!(describe_problem(502, "<html>\nx"), "the server refused with status 502: <html>");
    }
}
