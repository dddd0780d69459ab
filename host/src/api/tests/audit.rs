//! What leaves an entry in the audit, and how entries are listed.

use serde_json::{Value, json};

use super::client::{delete, get, new_api, post, publish};
use crate::broker::Error;

const SCHEDULED: &str = r#"{"type":"USER_SIGNUP","payload":{},"delayMs":60000}"#;

async fn actions(api: &crate::api::ApiState, query: &str) -> Vec<String> {
    let page = get(api, &format!("/audit{query}")).await.json();
    let entries = page["entries"].as_array().unwrap().iter();
    entries
        .map(|entry| format!("{} {}", entry["action"].as_str().unwrap(), entry["target"].as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn each_change_has_an_entry_and_a_refusal_has_none() {
    let (api, _) = new_api();
    let id = publish(&api, SCHEDULED).await.json()["eventId"].as_str().unwrap().to_owned();
    let reason = r#"{"reason":"the customer waits"}"#;
    post(&api, &format!("/events/{id}/run-now"), &[], reason).await;
    post(&api, &format!("/events/{id}/run-now"), &[], reason).await.is_problem(409, "not-waiting");
    post(&api, &format!("/events/{id}/cancel"), &[], "").await;
    post(&api, "/plugins/signup/rollback", &[], reason).await;
    post(&api, "/plugins/old/rollback", &[], reason).await.is_problem(409, "not-rolled-back");
    post(&api, "/plugins/signup/approve?digest=abc", &[], "").await;
    post(&api, "/plugins/signup/approve?digest=def", &[], "").await.is_problem(409, "not-approved");
    delete(&api, "/plugins/signup?state&reason=replaced").await;
    delete(&api, "/plugins/none?state").await.is_problem(404, "not-found");
    delete(&api, "/plugins/signup?reason=").await.is_problem(400, "bad-query");
    let (run, cancel) = (format!("event.run-now {id}"), format!("event.cancel {id}"));
    let changes = ["state.remove signup", "plugin.remove signup", "plugin.approve signup", "plugin.rollback signup"];
    assert_eq!(actions(&api, "").await, [&changes[..], &[&cancel, &run]].concat());
    let all = get(&api, "/audit").await.json();
    let last = &all["entries"][5];
    assert_eq!((&last["by"], &last["from"], &last["key"]), (&json!("local"), &json!("127.0.0.1"), &Value::Null));
    assert_eq!((&last["reason"], &last["outcome"]), (&json!("the customer waits"), &json!("done")));
    assert_eq!((&all["entries"][1]["reason"], &all["entries"][2]["detail"]), (&json!("replaced"), &json!("abc")));
}

#[tokio::test]
async fn entries_are_filtered_and_come_in_pages() {
    let (api, _) = new_api();
    for _ in 0..3 {
        post(&api, "/plugins/signup/pause", &[], "").await;
        post(&api, "/plugins/signup/resume", &[], "").await;
    }
    assert_eq!(actions(&api, "?action=plugin.pause").await, ["plugin.pause signup"; 3]);
    let page = get(&api, "/audit?limit=4").await.json();
    assert_eq!((page["entries"].as_array().unwrap().len(), &page["nextCursor"]), (4, &json!("4")));
    assert_eq!(actions(&api, "?limit=4&cursor=4").await.len(), 2);
    assert_eq!(actions(&api, "?by=key:ops").await.len(), 0);
    get(&api, "/audit?cursor=x").await.is_problem(400, "bad-query");
    get(&api, "/audit?who=me").await.is_problem(400, "bad-query");
}

/// A rollback must be possible while the store is away.
#[tokio::test]
async fn a_plugin_changes_although_its_entry_cannot_be_written() {
    let (api, fake) = new_api();
    fake.state.lock().failure = Some(Error::refused("away"));
    assert_eq!(post(&api, "/plugins/signup/rollback", &[], "").await.status, 200);
    get(&api, "/audit").await.is_problem(503, "store-unavailable");
    fake.state.lock().failure = None;
    assert_eq!(actions(&api, "").await.len(), 0);
}
