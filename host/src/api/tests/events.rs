//! Publishing, listing and replaying events.

use serde_json::{Value, json};

use super::client::{JSON, delete, get, new_api, post, publish};
use super::fake::FakeBroker;
use crate::api::ApiState;
use crate::broker::Lane;
use crate::event::{EventEnd, EventState, FailureClass, Timestamp};

#[tokio::test]
async fn an_event_is_accepted_and_can_be_asked_for() {
    let (api, fake) = new_api();
    let answer = publish(&api, r#"{"type":"USER_SIGNUP","payload":{ "n": 9007199254740993 },"key":"k"}"#).await;
    let id = fake.only().record.event.id;
    assert_eq!(answer.status, 202);
    let expected = format!(
        r#"{{"message":"Event accepted and queued (Fake)","eventId":"{id}","durability":"fsync","duplicate":false}}"#
    );
    assert_eq!(answer.text, expected);
    assert_eq!(answer.header("location"), format!("/events/{id}"));
    assert_eq!(fake.state.lock().lanes[&id].as_str(), "signup");

    let shown = get(&api, answer.header("location")).await;
    assert!(shown.text.contains(r#""payload":{ "n": 9007199254740993 }"#), "{}", shown.text);
    let shown = shown.json();
    assert_eq!((&shown["state"], &shown["key"], &shown["attempts"]), (&json!("queued"), &json!("k"), &json!([])));
}

#[tokio::test]
async fn a_type_that_no_plugin_handles_waits_in_a_lane_of_its_own() {
    let (api, fake) = new_api();
    publish(&api, r#"{"type":"OTHER"}"#).await;
    assert_eq!(fake.state.lock().lanes.values().next(), Some(&Lane::unrouted()));
}

#[tokio::test]
async fn an_array_is_accepted_whole_or_not_at_all() {
    let (api, fake) = new_api();
    let answer = publish(&api, r#"[{"type":"a"},{"type":"b","delayMs":60000}]"#).await.json();
    assert_eq!(answer["message"], "2 events accepted and queued (Fake)");
    assert_eq!(answer["duplicates"], json!([false, false]));
    let second = get(&api, &format!("/events/{}", answer["eventIds"][1].as_str().unwrap())).await.json();
    assert_eq!((&second["type"], &second["state"]), (&json!("b"), &json!("scheduled")));
    assert!(second["dueAt"].is_string());

    let document = publish(&api, r#"[{"type":"a"},{"type":" "}]"#).await.is_problem(422, "invalid-event");
    assert_eq!(document["errors"][0]["pointer"], "/1/type");
    assert_eq!(fake.len(), 2);
    assert_eq!(publish(&api, "[]").await.json()["eventIds"], json!([]));
}

#[tokio::test]
async fn a_repeated_key_gives_the_first_id_and_another_body_is_refused() {
    let (api, fake) = new_api();
    let keyed = |body: &'static str| post(&api, "/events", &[JSON, ("idempotency-key", "\"k1\"")], body);
    let first = keyed(r#"{"type":"a"}"#).await.json();
    let again = keyed(r#"{"type":"a"}"#).await.json();
    assert_eq!((&first["eventId"], &again["duplicate"]), (&again["eventId"], &json!(true)));
    let document = keyed(r#"{"type":"b"}"#).await.is_problem(422, "idempotency-key-reused");
    assert_eq!(document["errors"][0]["pointer"], "");
    let batch = r#"[{"type":"c"},{"type":"b","id":"1"}]"#;
    assert_eq!(publish(&api, r#"{"type":"a","id":"1"}"#).await.status, 202);
    let document = publish(&api, batch).await.is_problem(422, "idempotency-key-reused");
    assert_eq!(document["errors"][0]["pointer"], "/1");
    assert_eq!(fake.len(), 2);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_and_nothing_is_stored() {
    let (api, fake) = new_api();
    let deep = format!("{{\"type\":\"a\",\"payload\":{}{}}}", "[".repeat(8), "]".repeat(8));
    let large = format!("{{\"type\":\"a\",\"payload\":\"{}\"}}", "x".repeat(1_024));
    let too_large = format!("{{\"type\":\"a\",\"payload\":\"{}\"}}", "x".repeat(5_000));
    for (headers, body, status, kind) in [
        (vec![JSON], "", 400, "malformed-body"),
        (vec![JSON], "not JSON", 400, "malformed-body"),
        (vec![JSON], "{\"type\":\"a\"} x", 400, "malformed-body"),
        (vec![JSON], "{\"type\":\"a\",\"type\":\"b\"}", 400, "malformed-body"),
        (vec![JSON], &deep, 400, "malformed-body"),
        (vec![JSON], "7", 400, "malformed-body"),
        (vec![JSON], "{}", 422, "invalid-event"),
        (vec![JSON], "{\"type\":\"a b\"}", 422, "invalid-event"),
        (vec![JSON], "{\"type\":\"a\",\"paylod\":1}", 422, "invalid-event"),
        (vec![JSON], &large, 413, "too-large"),
        (vec![JSON], &too_large, 413, "too-large"),
        (vec![JSON], "[{},{},{},{}]", 413, "too-large"),
        (vec![], "{\"type\":\"a\"}", 415, "unsupported-media-type"),
        (vec![("content-type", "text/plain")], "{\"type\":\"a\"}", 415, "unsupported-media-type"),
        (vec![JSON, ("content-encoding", "gzip")], "{\"type\":\"a\"}", 415, "unsupported-media-type"),
        (vec![JSON, ("idempotency-key", "a b")], "{\"type\":\"a\"}", 400, "bad-idempotency-key"),
        (vec![JSON, ("sec-fetch-site", "cross-site")], "{\"type\":\"a\"}", 403, "cross-site"),
        (vec![JSON, ("host", "b")], "{\"type\":\"a\"}", 400, "bad-request"),
    ] {
        post(&api, "/events", &headers, body.to_owned()).await.is_problem(status, kind);
    }
    post(&api, "/events", &[JSON], vec![b'"', 0xff, b'"']).await.is_problem(400, "malformed-body");
    post(&api, "/events?x=1", &[JSON], "{\"type\":\"a\"}").await.is_problem(400, "bad-query");
    let inner = fake.state.lock();
    assert_eq!((inner.events.len(), inner.calls), (0, 0));
}

/// Publishes events of these types and ends them.
async fn ended(
    api: &ApiState,
    fake: &FakeBroker,
    types: &[&str],
    failure: Option<(FailureClass, &str)>,
) -> Vec<String> {
    let mut ids = Vec::new();
    for event_type in types {
        let answer = publish(api, &format!("{{\"type\":\"{event_type}\"}}")).await.json();
        let id = answer["eventId"].as_str().unwrap();
        let failure = failure.map(|(class, reason)| (class, reason.to_owned()));
        fake.change(id.parse().unwrap(), |found| {
            found.state = if failure.is_some() { EventState::Failed } else { EventState::Processed };
            found.record.attempts_made = 1;
            found.record.end = Some(EventEnd {
                at: Timestamp::from_unix_ms(1),
                failure,
                result: None,
                children: Vec::new(),
                discarded: None,
            });
        });
        ids.push(id.to_owned());
    }
    ids
}

#[tokio::test]
async fn processed_events_are_listed_in_pages() {
    let (api, fake) = new_api();
    let ids = ended(&api, &fake, &["a", "b", "a"], None).await;
    ended(&api, &fake, &["c"], Some((FailureClass::Trap, "bug"))).await;
    let first = get(&api, "/events?limit=2").await.json();
    let listed = |page: &Value| -> Vec<String> {
        page["events"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed(&first), [ids[2].clone(), ids[1].clone()]);
    let cursor = first["nextCursor"].as_str().unwrap();
    let second = get(&api, &format!("/events?limit=2&cursor={cursor}")).await.json();
    assert_eq!((listed(&second), &second["nextCursor"]), (vec![ids[0].clone()], &Value::Null));
    assert_eq!(listed(&get(&api, "/events?type=b").await.json()), [ids[1].clone()]);
    get(&api, "/events?cursor=never-given").await.is_problem(400, "bad-query");
    let document = get(&api, "/events?limit=0&tpye=a").await.is_problem(400, "bad-query");
    assert_eq!(document["errors"].as_array().unwrap().len(), 2);
    assert!(document["errors"][0]["message"].as_str().unwrap().contains("type, since, until, limit, cursor"));
}

#[tokio::test]
async fn a_failed_event_is_shown_with_its_reason_and_replayed_once() {
    let (api, fake) = new_api();
    let id = ended(&api, &fake, &["USER_SIGNUP"], Some((FailureClass::Reject, "no e-mail"))).await.remove(0);
    let listed = get(&api, "/failed-events").await.json();
    assert_eq!(listed["nextCursor"], Value::Null);
    let shown = get(&api, &format!("/failed-events/{id}")).await.json();
    assert_eq!(listed["failedEvents"], json!([shown]));
    assert_eq!((&shown["class"], &shown["reason"]), (&json!("reject"), &json!("no e-mail")));
    assert_eq!((&shown["attemptCount"], &shown["failedAt"]), (&json!(1), &json!("1970-01-01T00:00:00.001Z")));

    let replay = format!("/failed-events/{id}/replay");
    post(&api, &replay, &[JSON], "{\"payload\":1}").await.is_problem(422, "invalid-change");
    let answer = post(&api, &replay, &[JSON], " {}").await;
    assert_eq!((answer.status, &answer.json()["eventId"]), (202, &json!(id)));
    assert_eq!(get(&api, &format!("/events/{id}")).await.json()["replays"], 1);
    post(&api, &replay, &[], "").await.is_problem(409, "not-failed");
    get(&api, &format!("/failed-events/{id}")).await.is_problem(404, "not-found");
    let unknown = "/failed-events/01890a5d-ac96-774b-bcce-b302099a8057/replay";
    post(&api, unknown, &[], "").await.is_problem(404, "not-found");
    post(&api, "/failed-events/x/replay", &[], "").await.is_problem(404, "not-found");
}

#[tokio::test]
async fn a_failed_event_is_discarded_once_and_only_with_a_reason() {
    let (api, fake) = new_api();
    let id = ended(&api, &fake, &["USER_SIGNUP"], Some((FailureClass::Reject, "no e-mail"))).await.remove(0);
    let path = format!("/failed-events/{id}");
    for query in ["", "?reason=", "?reason=%20", &format!("?reason={}", "x".repeat(1_001))] {
        let document = delete(&api, &format!("{path}{query}")).await.is_problem(400, "bad-query");
        assert_eq!(document["errors"][0]["pointer"], "reason", "{document}");
    }
    delete(&api, &format!("{path}?reason=a&force=true")).await.is_problem(400, "bad-query");
    let answer = delete(&api, &format!("{path}?reason=a%20test%20event")).await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "message": "Event discarded", "eventId": id })));
    let shown = get(&api, &format!("/events/{id}")).await.json();
    assert_eq!((&shown["state"], &shown["discardReason"]), (&json!("discarded"), &json!("a test event")));
    assert_eq!((&shown["class"], &shown["discardedAt"]), (&json!("reject"), &json!("1970-01-01T00:00:00.001Z")));
    assert_eq!(get(&api, "/failed-events").await.json()["failedEvents"], json!([]));
    delete(&api, &format!("{path}?reason=again")).await.is_problem(409, "not-failed");
    post(&api, &format!("{path}/replay"), &[], "").await.is_problem(409, "not-failed");
    let unknown = "/failed-events/01890a5d-ac96-774b-bcce-b302099a8057?reason=a";
    delete(&api, unknown).await.is_problem(404, "not-found");
    delete(&api, "/failed-events/x?reason=a").await.is_problem(404, "not-found");
}

#[tokio::test]
async fn whoever_sends_no_json_is_told_the_flag_of_curl() {
    let (api, _) = new_api();
    for headers in [&[][..], &[("content-type", "application/x-www-form-urlencoded")]] {
        let document = post(&api, "/events", headers, "{}").await.is_problem(415, "unsupported-media-type");
        assert!(document["detail"].as_str().unwrap().contains("-H 'Content-Type: application/json'"), "{document}");
    }
}
