//! A client of the API that calls the router without sockets.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use serde_json::Value;

use super::fake::{FakeBroker, fake_api};
use crate::api::{ApiState, Gateway, ServerOptions};
use crate::event::EventLimits;

pub(super) struct TestResponse {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl TestResponse {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {:?}", self.text))
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// Asserts that this is a problem document with this status and type.
    #[track_caller]
    pub(super) fn is_problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!((self.status, self.header("content-type")), (status, "application/problem+json"), "{}", self.text);
        let document = self.json();
        assert_eq!(document["type"], format!("/problems/{kind}"), "{}", self.text);
        assert_eq!(document["status"], status);
        document
    }
}

pub(super) fn options() -> ServerOptions {
    ServerOptions {
        max_body_bytes: 4_096,
        limits: EventLimits { max_payload_bytes: 1_024, max_batch_events: 3, max_json_depth: 8 },
        ..ServerOptions::default()
    }
}

pub(super) async fn send(api: &ApiState, request: Request<Body>) -> TestResponse {
    answer_of(Gateway::new(api.clone()).for_client(([127, 0, 0, 1], 1).into()).answer(request).await).await
}

pub(super) async fn answer_of(response: Response<Body>) -> TestResponse {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    assert_eq!(parts.headers["x-content-type-options"], "nosniff");
    TestResponse {
        status: parts.status.as_u16(),
        headers: parts.headers,
        text: String::from_utf8(bytes.to_vec()).unwrap(),
    }
}

pub(super) async fn get(api: &ApiState, path: &str) -> TestResponse {
    send(api, Request::get(path).header("host", "localhost").body(Body::empty()).unwrap()).await
}

pub(super) async fn delete(api: &ApiState, path: &str) -> TestResponse {
    send(api, Request::delete(path).header("host", "localhost").body(Body::empty()).unwrap()).await
}

pub(super) async fn post(api: &ApiState, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> TestResponse {
    let mut request = Request::post(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(api, request.body(body.into()).unwrap()).await
}

pub(super) const JSON: (&str, &str) = ("content-type", "application/json");

pub(super) async fn publish(api: &ApiState, body: &str) -> TestResponse {
    post(api, "/events", &[JSON], body.to_owned()).await
}

pub(in crate::api) fn new_api() -> (ApiState, Arc<FakeBroker>) {
    fake_api(options())
}
