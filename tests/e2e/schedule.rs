//! G5: a delayed event is never delivered early, and soon after its due time, even across restarts.

use eventstream::event::Timestamp;
use eventstream_tests::client::Event;
use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::json;

on_both_brokers! {
    a_delayed_event_begins_when_it_is_due_and_not_before,
    an_event_with_a_delivery_time_begins_then,
    a_published_event_may_be_delayed_as_well,
    schedules_survive_restarts_of_host_and_store,
    a_schedule_far_ahead_holds_up_nothing_that_is_due,
}

/// How late an event may begin here. On an idle system the limit is a second (G5). A busy machine adds less than a
/// lease, which an event that was missed would have to wait.
const LATE_LIMIT_MS: i64 = 20_000;

fn started_ms(event: &Event) -> i64 {
    event.attempts.last().unwrap().started_at.parse::<Timestamp>().unwrap().unix_ms()
}

fn a_delayed_event_begins_when_it_is_due_and_not_before(broker: Broker) {
    let stage = Stage::scripted(broker, &["later"]);
    let asked_ms = Timestamp::from_unix_ms(now_ms()).unix_ms();
    let id = stage.client.post(r#"{"type":"later","delayMs":1500,"payload":{}}"#).expect(202).json()["eventId"].clone();
    let far =
        stage.client.post(r#"{"type":"later","delayMs":600000,"payload":{}}"#).expect(202).json()["eventId"].clone();
    let waiting = stage.client.event(far.as_str().unwrap()).unwrap();
    assert_eq!((waiting.state.as_str(), waiting.due_at.is_some()), ("scheduled", true));
    let late_ms = started_ms(&stage.client.wait_ended(id.as_str().unwrap())) - asked_ms - 1_500;
    assert!((0..LATE_LIMIT_MS).contains(&late_ms), "{late_ms} ms after its time");
}

fn an_event_with_a_delivery_time_begins_then(broker: Broker) {
    let stage = Stage::scripted(broker, &["later"]);
    let due = Timestamp::from_unix_ms(now_ms() + 1_200);
    let body = json!({"type": "later", "deliverAt": due.to_string(), "payload": {}}).to_string();
    let id = stage.client.post(&body).expect(202).json()["eventId"].as_str().unwrap().to_owned();
    let late_ms = started_ms(&stage.client.wait_ended(&id)) - due.unix_ms();
    assert!((0..LATE_LIMIT_MS).contains(&late_ms), "{late_ms} ms after its time");
}

fn a_published_event_may_be_delayed_as_well(broker: Broker) {
    let stage = Stage::scripted(broker, &["parent", "child"]);
    let payload = json!({"publish": 1, "publish-type": "child", "publish-payload": {}, "publish-delay-ms": 1_000});
    let parent = stage.client.wait_ended(&stage.client.post_event("parent", &payload));
    let child = stage.client.wait_ended(&parent.children[0]);
    let pause_ms = started_ms(&child) - started_ms(&parent);
    assert!(pause_ms >= 1_000, "begun {pause_ms} ms after its parent");
}

fn schedules_survive_restarts_of_host_and_store(broker: Broker) {
    let mut stage =
        Stage::with(broker, PluginsDir::scripted(&["later"]), |options| options.with("retry.initial_ms", 2_000));
    let asked_ms = now_ms();
    let delayed: Vec<_> = (0..20).map(|_| json!({"type": "later", "delayMs": 2_500, "payload": {}})).collect();
    let ids = stage.client.post_batch(&delayed);
    stage.host.kill9();
    stage.store.crash();
    stage.replace_host(|options| options);
    for id in &ids {
        let event = stage.client.wait_ended(id);
        assert_eq!(event.state, "processed");
        assert!(started_ms(&event) >= asked_ms + 2_500, "{event:?}");
    }
}

fn a_schedule_far_ahead_holds_up_nothing_that_is_due(broker: Broker) {
    let stage = Stage::scripted(broker, &["later"]);
    let far = stage.client.post(r#"{"type":"later","delayMs":86400000,"payload":{}}"#).expect(202).json();
    let near = stage.client.post(r#"{"type":"later","delayMs":200,"payload":{}}"#).expect(202).json();
    stage.client.wait_ended(near["eventId"].as_str().unwrap());
    assert_eq!(stage.client.event(far["eventId"].as_str().unwrap()).unwrap().state, "scheduled");
    eventually("only the far one waits", || match stage.client.metrics()["scheduled"].as_u64() {
        Some(1) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}
