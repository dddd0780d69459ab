//! Health, metrics, and what clients get when the server or its broker is in trouble.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use serde_json::json;

use super::client::{answer_of, get, new_api, options, publish, send};
use super::fake::FakePluginAdmin;
use crate::api::{ApiState, Gateway};
use crate::broker::Error;
use crate::event::FailureClass;

#[tokio::test]
async fn errors_of_the_broker_become_problems() {
    let (api, fake) = new_api();
    for (error, status, kind) in [
        (Error::Full { waiting: 1, limit: 1 }, 429, "queue-full"),
        (Error::NoRoom("OOM".into()), 503, "store-full"),
        (Error::refused("connection refused"), 503, "store-unavailable"),
        (Error::unknown("cut"), 503, "store-unavailable"),
        (Error::Unsafe("the store evicts".into()), 503, "store-unsafe"),
        (Error::Misconfigured("WRONGTYPE".into()), 500, "store-misconfigured"),
    ] {
        fake.state.lock().failure = Some(error);
        publish(&api, r#"{"type":"a"}"#).await.is_problem(status, kind);
        for path in ["/events", "/failed-events", "/metrics", "/events/01890a5d-ac96-774b-bcce-b302099a8057"] {
            get(&api, path).await.is_problem(status, kind);
        }
    }
}

#[tokio::test]
async fn a_panic_in_a_handler_is_an_answer() {
    let (api, fake) = new_api();
    fake.state.lock().panics = true;
    publish(&api, r#"{"type":"a"}"#).await.is_problem(500, "internal");
    assert_eq!(get(&api, "/livez").await.status, 200);
}

#[tokio::test]
async fn metrics_are_json_unless_text_is_asked_for() {
    let (api, fake) = new_api();
    {
        let mut inner = fake.state.lock();
        inner.stats.counters.processed = 10;
        inner.stats.counters.failed = 2;
        inner.stats.counters.failed_by_class.insert(FailureClass::NoHandler, 2);
        inner.stats.depth.queued.insert("signup".into(), 3);
    }
    let metrics = get(&api, "/metrics").await.json();
    assert_eq!((&metrics["processed"], &metrics["failed"], &metrics["waiting"]), (&json!(10), &json!(2), &json!(3)));
    assert_eq!((&metrics["failedByClass"], &metrics["lanes"]), (&json!({ "no-handler": 2 }), &json!({ "signup": 3 })));
    let request = Request::get("/metrics").header("host", "localhost").header("accept", "application/openmetrics-text");
    let answer = send(&api, request.body(Body::empty()).unwrap()).await;
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"));
    assert!(answer.text.contains("eventstream_events_processed_total 10\n"), "{}", answer.text);
}

#[tokio::test]
async fn readiness_follows_the_broker_and_the_end_of_the_host() {
    let (api, fake) = new_api();
    let ready = json!({ "status": "ready", "accepting": true, "handling": true });
    assert_eq!(get(&api, "/readyz").await.json(), ready);
    let verbose = get(&api, "/readyz?verbose").await.json();
    assert_eq!(verbose["checks"][1]["facts"], json!({ "kind": "Fake", "durability": "fsync" }));

    fake.state.lock().trouble = Some("the store is away".into());
    let document = get(&api, "/readyz").await.is_problem(503, "not-ready");
    assert_eq!((&document["detail"], &document["checks"][1]["ready"]), (&json!("the store is away"), &json!(false)));
    assert_eq!((&document["accepting"], &document["handling"]), (&json!(false), &json!(true)));
    fake.state.lock().trouble = None;
    api.stopping.cancel();
    let document = get(&api, "/readyz").await.is_problem(503, "not-ready");
    assert_eq!(document["detail"], "the server is stopping");
    assert_eq!((&document["accepting"], &document["handling"]), (&json!(false), &json!(false)));
    assert_eq!(get(&api, "/livez").await.status, 200);
}

#[tokio::test]
async fn plugins_that_are_awaited_keep_the_host_from_being_ready() {
    let (api, _) = new_api();
    let plugins = Arc::new(FakePluginAdmin { unready_reason: Some("plugins are being loaded: a".into()) });
    let document = get(&ApiState { plugins, ..api }, "/readyz").await.is_problem(503, "not-ready");
    assert_eq!(document["detail"], "plugins are being loaded: a");
    assert_eq!((&document["checks"][2]["name"], &document["checks"][2]["ready"]), (&json!("plugins"), &json!(false)));
}

#[tokio::test]
async fn until_the_broker_is_there_the_server_lives_and_takes_nothing() {
    let client = ([127, 0, 0, 1], 1).into();
    let gateway = Gateway::starting(options(), "the broker is being opened".into()).for_client(client);
    let ask = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        answer_of(gateway.clone().answer(request.body(Body::from("{}")).unwrap()).await).await
    };
    assert_eq!(ask("GET", "/livez").await.status, 200);
    for (method, path) in [("GET", "/readyz"), ("POST", "/events"), ("GET", "/metrics"), ("DELETE", "/plugins/a")] {
        let refusal = ask(method, path).await;
        assert_eq!(refusal.header("retry-after"), "1", "{path}");
        let document = refusal.is_problem(503, "not-ready");
        assert!(document["detail"].as_str().unwrap().starts_with("the broker is being opened"), "{document}");
    }
    gateway.open(new_api().0);
    assert_eq!(ask("GET", "/readyz").await.status, 200);
}
