//! Starting and cancelling events that wait.

use serde_json::json;

use super::client::{get, new_api, post, publish};
use crate::event::EventState;

const SCHEDULED: &str = r#"{"type":"USER_SIGNUP","payload":{},"delayMs":60000}"#;

#[tokio::test]
async fn a_scheduled_event_is_started_once() {
    let (api, fake) = new_api();
    let id = publish(&api, SCHEDULED).await.json()["eventId"].as_str().unwrap().to_owned();
    let path = format!("/events/{id}/run-now");
    let started = post(&api, &path, &[], r#"{"reason":"the customer waits"}"#).await;
    assert_eq!((started.status, started.header("location")), (202, format!("/events/{id}").as_str()));
    assert_eq!(started.json(), json!({ "message": "Event is due now", "eventId": id }));
    assert_eq!(fake.only().state, EventState::Queued);
    let detail = post(&api, &path, &[], "").await.is_problem(409, "not-waiting")["detail"].to_string();
    assert!(detail.contains("queued and starts as soon"), "{detail}");
    post(&api, &path, &[], r#"{"until":"2h"}"#).await.is_problem(422, "invalid-change");
    post(&api, &format!("{path}?force=1"), &[], "").await.is_problem(400, "bad-query");
    for unknown in ["/events/x/run-now", "/events/01890a5d-ac96-774b-bcce-b302099a8057/run-now"] {
        post(&api, unknown, &[], "").await.is_problem(404, "not-found");
    }
}

#[tokio::test]
async fn a_waiting_event_is_cancelled_once_with_who_did_it() {
    let (api, fake) = new_api();
    let id = publish(&api, SCHEDULED).await.json()["eventId"].as_str().unwrap().to_owned();
    let path = format!("/events/{id}/cancel");
    let cancelled = post(&api, &path, &[], r#"{"reason":"sent by mistake"}"#).await;
    assert_eq!((cancelled.status, cancelled.json()), (200, json!({ "message": "Event cancelled", "eventId": id })));
    let shown = get(&api, &format!("/events/{id}")).await.json();
    assert_eq!(
        (&shown["state"], &shown["discardReason"]),
        (&json!("discarded"), &json!("cancelled by local: sent by mistake"))
    );
    assert_eq!((&shown["class"], &shown["reason"]), (&json!(null), &json!(null)));
    post(&api, &path, &[], "").await.is_problem(409, "not-waiting");
    fake.change(id.parse().unwrap(), |found| found.state = EventState::Running);
    let detail = post(&api, &path, &[], "").await.is_problem(409, "not-waiting")["detail"].to_string();
    assert!(detail.contains("is running; only an event that waits"), "{detail}");
    post(&api, "/events/01890a5d-ac96-774b-bcce-b302099a8057/cancel", &[], "").await.is_problem(404, "not-found");
}
