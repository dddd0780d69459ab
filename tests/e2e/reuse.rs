//! Reuse of instances, if the operator allows it for a plugin: only after an attempt that ended with ok.

use eventstream_tests::client::Client;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

on_both_brokers! {
    an_instance_is_used_again_until_an_attempt_fails,
    a_new_build_begins_with_new_instances,
}

const REUSE: &str = "concurrency = 1\nreuse = { max_events = 1000, idle_ms = \"1h\" }\nretry = { max_attempts = 1 }";

/// How many calls the instance has seen that handles an event of this plugin now.
#[track_caller]
fn seen(client: &Client) -> u64 {
    let event = client.wait_ended(&client.post_event("kept", &json!({"do": "static"})));
    assert_eq!(event.state, "processed", "{event:?}");
    event.result.unwrap().get().parse().unwrap()
}

fn kept(broker: Broker) -> Stage {
    Stage::with(broker, PluginsDir::scripted(&["kept"]).with_settings("kept", REUSE), |options| options)
}

fn an_instance_is_used_again_until_an_attempt_fails(broker: Broker) {
    let stage = kept(broker);
    let reported = stage.client.get("/plugins/kept").expect(200).json()["reuse"].clone();
    assert_eq!(reported, json!({"maxEvents": 1000, "idleMs": 3_600_000}));
    for calls in 1..=5 {
        assert_eq!(seen(&stage.client), calls);
    }
    for end in ["retry", "reject", "trap", "loop"] {
        let id = stage.client.post_event("kept", &json!({"do": end}));
        assert_eq!(stage.client.wait_ended(&id).state, "failed", "{end}");
        for calls in 1..=2 {
            assert_eq!(seen(&stage.client), calls, "after {end}");
        }
    }
    let id = stage.client.post_event("kept", &json!({"do": "facts"}));
    let facts: Value = serde_json::from_str(stage.client.wait_ended(&id).result.unwrap().get()).unwrap();
    assert_eq!(facts["id"], json!(id), "it gets its own event");
}

fn a_new_build_begins_with_new_instances(broker: Broker) {
    let stage = kept(broker);
    assert_eq!((seen(&stage.client), seen(&stage.client)), (1, 2));
    let [_, (other, digest)] = eventstream_tests::guests::two_builds();
    stage.plugins.write("kept.wasm", &other);
    stage.client.wait_for_version("kept", &digest);
    assert_eq!((seen(&stage.client), seen(&stage.client)), (1, 2));
}
