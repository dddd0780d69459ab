//! Plugin state with the real binary: it lasts, it belongs to its plugin, and a failed attempt writes nothing.

use eventstream_tests::client::Client;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

on_both_brokers! {
    state_lasts_and_belongs_to_its_plugin,
    an_attempt_that_fails_writes_nothing,
    a_key_that_is_kept_for_a_time_ends,
}

/// Makes these calls in one event of this type, and returns their answers.
#[track_caller]
fn call_state(client: &Client, event_type: &str, calls: &Value) -> Value {
    let id = client.post_event(event_type, &json!({"state": calls, "do": "state"}));
    let event = client.wait_ended(&id);
    assert_eq!(event.state, "processed", "{event:?}");
    serde_json::from_str(event.result.unwrap().get()).unwrap()
}

fn state_lasts_and_belongs_to_its_plugin(broker: Broker) {
    let mut stage = Stage::with(broker, PluginsDir::scripted(&["counter", "other"]), |options| options);
    let key = "order/7 \"ü\"";
    let written = json!([{"set": {"key": key, "value": "paid"}}, {"increment": {"key": "orders", "delta": 1}}]);
    assert_eq!(call_state(&stage.client, "counter", &written), json!([null, 1]));
    let read = json!([{"get": {"key": key}}, {"increment": {"key": "orders", "delta": 1}}]);
    assert_eq!(call_state(&stage.client, "other", &read), json!([null, 1]), "what another plugin keeps is not seen");
    stage.host.kill9();
    stage.host.wait();
    stage.replace_host(|options| options);
    assert_eq!(call_state(&stage.client, "counter", &read), json!(["paid", 2]));
    assert_eq!(stage.client.metrics()["stateKeys"], 3);
    assert_eq!(
        call_state(&stage.client, "counter", &json!([{"delete": {"key": key}}, {"get": {"key": key}}])),
        json!([null, null])
    );
    assert_eq!(stage.client.metrics()["stateKeys"], 2);
}

fn an_attempt_that_fails_writes_nothing(broker: Broker) {
    let stage = Stage::scripted(broker, &["counter"]);
    let count = json!([{"increment": {"key": "n", "delta": 1}}, {"next": {"key": "m"}}]);
    for payload in [
        json!({"state": count, "do": "reject"}),
        json!({"state": count, "do": "trap"}),
        json!({"state": count, "return-bytes": 1 << 20}),
    ] {
        assert_eq!(stage.client.wait_ended(&stage.client.post_event("counter", &payload)).state, "failed", "{payload}");
    }
    let flaky = stage.client.post_event("counter", &json!({"state": count, "flaky": 3}));
    assert_eq!(stage.client.wait_ended(&flaky).attempts.len(), 3);
    assert_eq!(
        call_state(&stage.client, "counter", &json!([{"get": {"key": "n"}}, {"get": {"key": "m"}}])),
        json!(["1", "1"])
    );
}

fn a_key_that_is_kept_for_a_time_ends(broker: Broker) {
    let stage = Stage::scripted(broker, &["counter"]);
    call_state(&stage.client, "counter", &json!([{"set": {"key": "k", "value": "v", "ttl-ms": 300}}]));
    eventstream_tests::eventually::eventually("the key ends and is forgotten", || {
        let answer = call_state(&stage.client, "counter", &json!([{"get": {"key": "k"}}]));
        let keys = stage.client.metrics()["stateKeys"].clone();
        if answer == json!([null]) && keys == 0 { Ok(()) } else { Err(format!("{answer}, {keys} keys")) }
    });
}
