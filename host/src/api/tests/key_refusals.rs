//! Requests that are refused for want of a key or a right: why, how often, and what is counted of them.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::json;

use super::client::{answer_of, new_api};
use super::fake_keys::{key, token, with_keys};
use super::keys::{publish, scoped, send, send_as};
use crate::api::Gateway;
use crate::api_key::Scope;
use crate::event::Timestamp;

#[tokio::test]
async fn what_is_no_key_is_refused_with_the_reason() {
    let (api, fake) = new_api();
    let (api, _) = with_keys(api, &fake, [scoped(1, Scope::Read)], Vec::new()).await;
    let sent = async |headers: &[&str]| {
        let request = Request::get("/events").header("host", "localhost");
        let request = headers.iter().fold(request, |request, value| request.header("authorization", *value));
        let request = request.body(Body::empty()).unwrap();
        answer_of(Gateway::new(api.clone()).for_client(([10, 0, 0, 1], 1).into()).answer(request).await).await
    };
    let good = token(1);
    let good = good.expose();
    for value in [format!("Bearer {good}"), format!("bearer   {good} "), format!("BEARER {good}")] {
        assert_eq!(sent(&[&value]).await.status, 200, "{value}");
    }
    let mistyped = format!("Bearer {}x", &good[..52]);
    for (values, word) in [
        (&[mistyped.as_str()][..], "typing error"),
        (&["Bearer abc"], "a key is es1_"),
        (&["Bearer "], "key"),
        (&["Bearer x", "Bearer y"], "more than one header"),
    ] {
        let answer = sent(values).await;
        assert_eq!(answer.status, 401, "{values:?}");
        assert!(answer.text.contains(word) && !answer.text.contains(&good[15..40]), "{values:?}: {}", answer.text);
    }
    sent(&["Basic abc"]).await.is_problem(401, "key-missing");
    for _ in 0..80 {
        sent(&["Bearer abc"]).await;
    }
    sent(&["Bearer abc"]).await.is_problem(429, "rate-limited");
    assert_eq!(sent(&[&format!("Bearer {good}")]).await.status, 200, "a valid key is never refused for others' tries");
}

#[tokio::test]
async fn refused_requests_are_counted_by_reason() {
    let (api, fake) = new_api();
    let mut ended = scoped(3, Scope::Read);
    ended.rights.expires_at = Some(Timestamp::from_unix_ms(2));
    let revoked = scoped(4, Scope::Read).revoked(Timestamp::from_unix_ms(1));
    let publisher = key(1, r#"{"scopes":["publish"],"types":["a"]}"#);
    let stored = [publisher, scoped(2, Scope::Read), ended, revoked];
    let (api, _) = with_keys(api, &fake, stored, Vec::new()).await;
    send(&api, &Method::GET, "/events", None, "").await.is_problem(401, "key-missing");
    for number in [3, 4, 4, 5] {
        send_as(&api, number, Method::GET, "/events", "").await.is_problem(401, "key-refused");
    }
    send_as(&api, 1, Method::GET, "/events", "").await.is_problem(403, "not-permitted");
    publish(&api, Some(&token(1)), r#"{"type":"b"}"#).await.is_problem(403, "not-permitted");
    let metrics = send_as(&api, 2, Method::GET, "/metrics", "").await.json();
    let counted = json!({
        "missing": 1, "malformed": 0, "unknown": 1, "expired": 1, "revoked": 2, "replaced": 0, "unread": 0,
        "not-permitted": 2,
    });
    assert_eq!(metrics["authFailures"], counted);
}
