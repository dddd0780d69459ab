//! `wasi:http`: passes an event as a request of the CloudEvents HTTP binding in binary mode, and reads the response status.
//!
//! The response is read while the handler writes it. When the call ends, the handler's objects are dropped, so that a
//! response that it left open ends too.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_http::WasiHttpView;
pub(super) use wasmtime_wasi_http::p2::bindings::exports::wasi::http::incoming_handler::{
    Guest, GuestIndices as Indices,
};
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::event_form::{HandlerAnswer, attributes, failure};
use crate::clock;
use crate::event::{AttemptFailure, Event, EventData, FailureClass, media_type};
use crate::plugin::host_api::InstanceHost;
use crate::plugin::run::outcome;
use crate::plugin::sandbox::limits::LimitBreach;

/// How many bytes of a response body go into a failure message.
const MAX_BODY_MESSAGE_BYTES: usize = 1_024;

/// A response with its whole body, or why there is none.
type HttpCallResult = Result<Response<Bytes>, AttemptFailure>;

pub(super) async fn call(
    handler: &Guest,
    store: &mut Store<InstanceHost>,
    event: &Event,
) -> wasmtime::Result<HandlerAnswer> {
    let limit_bytes = store.data().context.limits.host_call_bytes;
    let (sender, receiver) = oneshot::channel();
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(Scheme::Http, to_request(event)?)?;
    let answer_to = http.new_response_outparam(sender)?;

    let mut answered = pin!(read_response(receiver, limit_bytes));
    let answered_early = {
        let call = pin!(handler.call_handle(&mut *store, request, answer_to));
        match select(call, answered.as_mut()).await {
            Either::Left((ended, _)) => ended.map(|()| None)?,
            Either::Right((Ok(answer), call)) => call.await.map(|()| Some(answer))?,
            Either::Right((Err(breach), _)) => return Err(breach.into()),
        }
    };
    let answered = match answered_early {
        Some(answered) => answered,
        None => {
            store.data_mut().drop_handles();
            answered.await?
        }
    };
    Ok(answered.and_then(|response| to_answer(&response)))
}

/// The event as a request to `/`.
fn to_request(event: &Event) -> wasmtime::Result<Request<Full<Bytes>>> {
    let body = event.data.as_ref().map_or_else(Bytes::new, |data| data.bytes.clone());
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_static("eventstream"));
    headers.insert(CONTENT_LENGTH, body.len().into());
    if let Some(content_type) = &event.data_content_type {
        // As bytes, because it may contain non-ASCII characters.
        headers.insert(CONTENT_TYPE, HeaderValue::from_bytes(content_type.as_bytes())?);
    }
    for (name, value) in attributes(event) {
        headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(percent_encoded(&value))?);
    }
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.headers_mut() = headers;
    Ok(request)
}

/// An attribute value in the header encoding of the binding.
fn percent_encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'!'..=b'~' if byte != b'"' && byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Waits for a response and reads its body.
async fn read_response(
    receiver: oneshot::Receiver<Result<Response<HyperOutgoingBody>, ErrorCode>>,
    limit_bytes: u64,
) -> Result<HttpCallResult, LimitBreach> {
    let (head, mut body) = match receiver.await {
        Ok(Ok(response)) => response.into_parts(),
        Ok(Err(code)) => {
            let words = outcome::format_message(format_args!("the handler answered with the error {code:?}"));
            return Ok(Err(failure(FailureClass::Retry, words)));
        }
        Err(_) => return Ok(Err(failure(FailureClass::Trap, "the handler ended without an answer"))),
    };
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) if (whole.len() + data.len()) as u64 > limit_bytes => {
                return Err(LimitBreach::HostCall { limit_bytes });
            }
            Ok(Ok(data)) => whole.extend_from_slice(&data),
            Ok(Err(_trailers)) => {}
            Err(error) => {
                let words = format!("the handler did not complete its answer: {error:?}");
                return Ok(Err(failure(FailureClass::Retry, words)));
            }
        }
    }
    Ok(Ok(Response::from_parts(head, whole.freeze())))
}

/// The meaning of a response: success is a result, 429 and 5xx are retried, anything else is rejected.
fn to_answer(response: &Response<Bytes>) -> HandlerAnswer {
    let status = response.status();
    if status.is_success() {
        return Ok(to_result(response.headers(), response.body()));
    }
    let cut = &response.body()[..response.body().len().min(MAX_BODY_MESSAGE_BYTES)];
    let words = match String::from_utf8_lossy(cut).trim() {
        "" => format!("the handler answered {status}"),
        words => format!("the handler answered {status}: {words}"),
    };
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
        let after_ms = response.headers().get(RETRY_AFTER).and_then(|value| parse_retry_after(value.to_str().ok()?));
        return Err(AttemptFailure { after_ms, ..failure(FailureClass::Retry, words) });
    }
    Err(failure(FailureClass::Reject, words))
}

/// The result for a response body: text if the content type says so and it is UTF-8, nothing if it is empty.
fn to_result(headers: &HeaderMap, body: &Bytes) -> Option<EventData> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_text = media_type::essence(content_type).starts_with("text/") || media_type::is_json(content_type);
    match std::str::from_utf8(body) {
        _ if body.is_empty() => None,
        Ok(text) if is_text => Some(EventData::text(text)),
        _ => Some(EventData::binary(body.to_vec())),
    }
}

/// The delay of `Retry-After`, which is a number of seconds or a date.
fn parse_retry_after(value: &str) -> Option<u64> {
    if let Ok(seconds) = value.trim().parse::<u64>() {
        return Some(seconds.saturating_mul(1_000));
    }
    let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp().as_millisecond();
    Some(u64::try_from(at.saturating_sub(clock::now().unix_ms())).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)], body: &'static str) -> HandlerAnswer {
        let builder = headers.iter().fold(Response::builder(), |builder, (name, value)| builder.header(*name, *value));
        to_answer(&builder.status(status).body(Bytes::from_static(body.as_bytes())).unwrap())
    }

    #[test]
    fn the_status_decides_the_answer() {
        assert_eq!(answer(204, &[], "").unwrap(), None);
        let json = [("content-type", "application/json; charset=utf-8")];
        assert_eq!(answer(200, &json, "{}").unwrap(), Some(EventData::text("{}")));
        assert_eq!(answer(200, &[], "{}").unwrap(), Some(EventData::binary(b"{}".to_vec())));
        for (status, class) in [
            (301, FailureClass::Reject),
            (400, FailureClass::Reject),
            (404, FailureClass::Reject),
            (429, FailureClass::Retry),
            (500, FailureClass::Retry),
            (503, FailureClass::Retry),
        ] {
            let failure = answer(status, &[], "why").unwrap_err();
            assert_eq!((failure.class, failure.after_ms), (class, None), "{status}");
            assert!(failure.message.contains("why") && failure.message.contains(&status.to_string()), "{failure:?}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(answer(429, &[("retry-after", "7")], "").unwrap_err().after_ms, Some(7_000));
        assert_eq!(answer(503, &[("retry-after", "soon")], "").unwrap_err().after_ms, None);
        let past = [("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")];
        assert_eq!(answer(503, &past, "").unwrap_err().after_ms, Some(0));
        let future = [("retry-after", "Sat, 06 Nov 2094 08:49:37 GMT")];
        assert!(answer(503, &future, "").unwrap_err().after_ms.is_some_and(|after_ms| after_ms > 1_000_000_000));
    }

    #[test]
    fn attributes_are_encoded_as_the_binding_requires() {
        assert_eq!(percent_encoded("Euro € 50%"), "Euro%20%E2%82%AC%2050%25");
        assert_eq!(percent_encoded("a\"b~"), "a%22b~");
        let event = crate::plugin::testing::event("{\"n\":1}");
        let request = to_request(&event).unwrap();
        assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/"));
        let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
        assert_eq!((header("ce-type"), header("ce-id")), ("test".to_owned(), event.id.to_string()));
        assert_eq!((header("ce-specversion"), header("content-length")), ("1.0".to_owned(), "7".to_owned()));
        assert_eq!(header("content-type"), "application/json");

        let odd = Event { data_content_type: Some("text/é".into()), data: None, ..event };
        assert_eq!(to_request(&odd).unwrap().headers()["content-length"], "0");
    }
}
