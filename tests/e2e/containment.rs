//! G8: each kind of misbehavior of a plugin ends in its class and does not harm the host.

use eventstream_tests::client::Event;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

on_both_brokers! {
    every_misdeed_ends_in_its_class,
    a_result_of_100_mb_is_refused_where_memory_for_it_is_granted,
    a_flood_of_log_lines_is_cut_and_the_host_stays_small,
    over_many_misdeeds_the_host_does_not_grow,
    a_plugin_sees_nothing_of_the_host_and_nothing_of_its_last_call,
    a_handler_is_told_about_its_delivery,
}

/// How much the memory of the host may grow over several rounds of misbehavior. One attempt may use 64 MiB, so that a
/// leak of one attempt shows.
const GROWTH_LIMIT_BYTES: u64 = 96 << 20;

fn stage(broker: Broker) -> Stage {
    Stage::with(broker, PluginsDir::scripted(&["p"]), |options| {
        options.with("retry.max_attempts", 1).with("consumer.concurrency", 2)
    })
}

#[track_caller]
fn ended(stage: &Stage, payload: &Value) -> Event {
    stage.client.wait_ended(&stage.client.post_event("p", payload))
}

#[track_caller]
fn fails(stage: &Stage, payload: &Value, class: &str) -> Event {
    let event = ended(stage, payload);
    assert_eq!((event.state.as_str(), event.class.as_deref()), ("failed", Some(class)), "{payload}: {event:?}");
    assert!(event.reason.as_ref().is_some_and(|reason| !reason.is_empty()), "{payload}: {event:?}");
    event
}

fn every_misdeed_ends_in_its_class(broker: Broker) {
    let plugins = PluginsDir::scripted(&["p", "impatient"]).with_settings("impatient", "[limits]\nwall_ms = 4000\n");
    let stage = Stage::with(broker, plugins, |options| options.with("retry.max_attempts", 1));
    let trap = fails(&stage, &json!({"do": "trap", "message": "no such user"}), "trap");
    let attempt = &trap.attempts[0];
    assert!(attempt.backtrace.as_ref().is_some_and(|trace| trace.contains("handle")), "{attempt:?}");
    assert!(attempt.stderr.as_ref().is_some_and(|text| text.contains("no such user")), "{attempt:?}");
    fails(&stage, &json!({"do": "unreachable"}), "trap");
    fails(&stage, &json!({"do": "exit"}), "trap");
    fails(&stage, &json!({"do": "loop"}), "timeout");
    let late = stage.client.wait_ended(&stage.client.post_event("impatient", &json!({"sleep-ms": 60_000})));
    assert_eq!((late.state.as_str(), late.class.as_deref()), ("failed", Some("timeout")), "{late:?}");
    fails(&stage, &json!({"do": "allocate"}), "limit");
    fails(&stage, &json!({"do": "recurse"}), "limit");
    fails(&stage, &json!({"return-bytes": 100_000_000}), "limit");
    fails(&stage, &json!({"return-bytes": 300_000}), "output");
    fails(&stage, &json!({"do": "publish-too-many"}), "output");
    assert_eq!(stage.client.metrics()["published"], 0, "a refused attempt publishes nothing");
    assert_eq!(stage.host.exited(), None);
}

fn a_result_of_100_mb_is_refused_where_memory_for_it_is_granted(broker: Broker) {
    let plugins = PluginsDir::scripted(&["p"]).with_settings("p", "[limits]\nmemory_bytes = 268435456\n");
    let stage = Stage::with(broker, plugins, |options| options.with("retry.max_attempts", 1));
    let before = stage.host.resident_bytes();
    fails(&stage, &json!({"return-bytes": 100_000_000}), "output");
    let after = stage.host.resident_bytes();
    assert!(after < before + GROWTH_LIMIT_BYTES, "from {before} to {after} bytes");
}

fn a_flood_of_log_lines_is_cut_and_the_host_stays_small(broker: Broker) {
    let stage = stage(broker);
    stage.client.wait_ended(&stage.client.post_event("p", &json!({})));
    let before = stage.host.resident_bytes();
    for flood in ["log-bytes", "stderr-bytes", "stdout-bytes"] {
        let event = ended(&stage, &json!({flood: 1 << 30}));
        let class = event.class.as_deref();
        assert!(matches!(class, None | Some("limit" | "timeout")), "{flood}: {event:?}");
        assert!(event.attempts[0].log.len() <= 64, "{flood}: {} lines are kept", event.attempts[0].log.len());
    }
    let after = stage.host.resident_bytes();
    assert!(after < before + GROWTH_LIMIT_BYTES, "from {before} to {after} bytes");
    assert!(stage.host.output().len() < 32 << 20, "the host's own log is bounded");
}

fn over_many_misdeeds_the_host_does_not_grow(broker: Broker) {
    let stage = stage(broker);
    let round = || {
        let misdeeds = [
            json!({"do": "allocate"}),
            json!({"do": "recurse"}),
            json!({"do": "trap"}),
            json!({"return-bytes": 30_000_000}),
            json!({"log-bytes": 4_000_000}),
        ];
        let events: Vec<Value> =
            misdeeds.iter().cycle().take(25).map(|payload| json!({"type": "p", "payload": payload})).collect();
        for id in stage.client.post_batch(&events) {
            stage.client.wait_ended(&id);
        }
        stage.host.resident_bytes()
    };
    round();
    let settled = round();
    let rounds: Vec<u64> = (0..4).map(|_| round()).collect();
    assert!(rounds.iter().all(|bytes| *bytes < settled + GROWTH_LIMIT_BYTES), "from {settled} over {rounds:?} bytes");
    assert!(stage.client.wait_ended(&stage.client.post_event("p", &json!({}))).state == "processed");
}

fn a_plugin_sees_nothing_of_the_host_and_nothing_of_its_last_call(broker: Broker) {
    let stage = stage(broker);
    let event = ended(&stage, &json!({"do": "forbidden"}));
    let seen: Value = serde_json::from_str(event.result.unwrap().get()).unwrap();
    assert_eq!(seen, json!({"environment": 0, "arguments": 0, "files": 0, "sockets": 0}));
    for _ in 0..5 {
        assert_eq!(ended(&stage, &json!({"do": "static"})).result.unwrap().get(), "1");
    }
}

fn a_handler_is_told_about_its_delivery(broker: Broker) {
    let stage = stage(broker);
    let body = r#"{"type":"p","subject":"s","source":"/shop","headers":{"tenant":"a"},"payload":{"do":"facts"}}"#;
    let id = stage.client.post(body).expect(202).json()["eventId"].as_str().unwrap().to_owned();
    let facts: Value = serde_json::from_str(stage.client.wait_ended(&id).result.unwrap().get()).unwrap();
    for (name, expected) in [
        ("attempt", json!(1)),
        ("maxAttempts", json!(1)),
        ("id", json!(id)),
        ("idempotencyKey", json!(id)),
        ("type", json!("p")),
        ("source", json!("/shop")),
        ("subject", json!("s")),
    ] {
        assert_eq!(facts[name], expected, "{name} in {facts}");
    }
    assert_eq!(facts["extensions"]["tenant"], "a", "{facts}");
    assert!(facts["remainingMs"].as_u64().is_some_and(|ms| ms <= 30_000), "{facts}");
}
