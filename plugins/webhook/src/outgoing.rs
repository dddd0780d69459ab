//! One HTTP request through `wasi:http`, which the operator has to grant.

use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{ErrorCode, Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme};

use crate::message::Address;

/// The most that one write accepts.
const CHUNK_BYTES: usize = 4_096;

/// The status and the `Retry-After` of an answer. Its body is not read.
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<String>,
}

/// Why there is no answer.
pub enum Failure {
    /// The host does not let the plugin send this.
    Denied(String),
    /// The address or a header has characters that no request can carry.
    Invalid,
    /// The service did not answer.
    Unreachable(String),
}

/// Sends a body and waits for the answer.
pub fn post(address: &Address<'_>, headers: &[(&str, String)], body: &[u8]) -> Result<Answer, Failure> {
    let request = new_request(address, headers).ok_or(Failure::Invalid)?;
    let outgoing_body = request.body().map_err(|()| Failure::Invalid)?;
    let response = handle(request, None).map_err(failure)?;
    write(outgoing_body, body);
    response.subscribe().block();
    match response.get() {
        Some(Ok(Ok(answer))) => Ok(Answer { status: answer.status(), retry_after: retry_after(&answer) }),
        Some(Ok(Err(code))) => Err(failure(code)),
        Some(Err(())) | None => Err(Failure::Unreachable("no answer".into())),
    }
}

fn new_request(address: &Address<'_>, headers: &[(&str, String)]) -> Option<OutgoingRequest> {
    let fields = Fields::new();
    for (name, value) in headers {
        fields.append(name, value.as_bytes()).ok()?;
    }
    let scheme = if address.is_https { Scheme::Https } else { Scheme::Http };
    let request = OutgoingRequest::new(fields);
    request.set_method(&Method::Post).ok()?;
    request.set_scheme(Some(&scheme)).ok()?;
    request.set_authority(Some(address.authority)).ok()?;
    request.set_path_with_query(Some(&address.path_with_query)).ok()?;
    Some(request)
}

/// Writes the body. If the receiver stops reading, the answer says why.
fn write(outgoing_body: OutgoingBody, body: &[u8]) {
    let Ok(stream) = outgoing_body.write() else { return };
    for part in body.chunks(CHUNK_BYTES) {
        if stream.blocking_write_and_flush(part).is_err() {
            return;
        }
    }
    // The stream is a child of the body, so it has to go first.
    drop(stream);
    let _ = OutgoingBody::finish(outgoing_body, None);
}

fn failure(code: ErrorCode) -> Failure {
    let words = format!("{code:?}").trim_start_matches("ErrorCode::").to_owned();
    match code {
        ErrorCode::HttpRequestDenied | ErrorCode::DestinationIpProhibited => Failure::Denied(words),
        _ => Failure::Unreachable(words),
    }
}

fn retry_after(answer: &IncomingResponse) -> Option<String> {
    let values = answer.headers().get("retry-after");
    String::from_utf8(values.into_iter().next()?).ok()
}
