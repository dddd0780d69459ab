//! Requests through `wasi:http`, one after the other, and what comes of each.

use serde_json::{Value, json};
use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme};
use wasip2::io::streams::StreamError;

use crate::script::Request;

/// What is read at once.
const CHUNK_BYTES: u64 = 65_536;

/// A list with `status`, `headers` and `body`, or `error`, of each request.
pub fn send_all(request: &Request) -> String {
    let answers: Vec<Value> = (0..request.times.unwrap_or(1))
        .map(|_| send(request).unwrap_or_else(|error| json!({ "error": error })))
        .collect();
    json!(answers).to_string()
}

fn send(request: &Request) -> Result<Value, String> {
    let (scheme, rest) = request.url.split_once("://").ok_or("no scheme")?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let headers = Fields::new();
    for (name, value) in &request.headers {
        headers.append(name, value.as_bytes()).map_err(|error| format!("{error:?}"))?;
    }
    let outgoing = OutgoingRequest::new(headers);
    let invalid = |()| "the request is invalid".to_owned();
    outgoing.set_method(&method(&request.method)).map_err(invalid)?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    outgoing.set_scheme(Some(&scheme)).map_err(invalid)?;
    outgoing.set_authority(Some(authority)).map_err(invalid)?;
    outgoing.set_path_with_query(Some(path)).map_err(invalid)?;
    let body = outgoing.body().map_err(invalid)?;
    let answer = handle(outgoing, None).map_err(|error| format!("{error:?}"))?;
    if !request.body.is_empty() {
        let stream = body.write().map_err(invalid)?;
        for part in request.body.as_bytes().chunks(4_096) {
            if stream.blocking_write_and_flush(part).is_err() {
                break;
            }
        }
    }
    // A request that was broken off has told why in its answer.
    let _ = OutgoingBody::finish(body, None);
    answer.subscribe().block();
    let response =
        answer.get().ok_or("no answer")?.map_err(|()| "taken twice")?.map_err(|error| format!("{error:?}"))?;
    read(&response)
}

fn read(response: &IncomingResponse) -> Result<Value, String> {
    let headers: Vec<(String, String)> = response
        .headers()
        .entries()
        .into_iter()
        .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
        .collect();
    let body = response.consume().map_err(|()| "taken twice")?;
    let stream = body.stream().map_err(|()| "taken twice")?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(CHUNK_BYTES) {
            Ok(part) => bytes.extend(part),
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => {
                let code = wasip2::http::types::http_error_code(&error);
                return Err(code.map_or_else(|| error.to_debug_string(), |code| format!("{code:?}")));
            }
        }
    }
    Ok(json!({
        "status": response.status(),
        "headers": headers,
        "body": String::from_utf8_lossy(&bytes),
    }))
}

fn method(name: &str) -> Method {
    match name {
        "" | "GET" => Method::Get,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        other => Method::Other(other.to_owned()),
    }
}
