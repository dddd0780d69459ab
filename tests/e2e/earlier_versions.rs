//! A store that an earlier version wrote is served: no event is lost or changed, and what was under way goes on.
//!
//! The stores are in `tests/stored`, whose README says how each was made.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use eventstream::clock::now;
use eventstream::event::Timestamp;
use eventstream_tests::client::{Client, Event};
use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde::Deserialize;
use serde_json::{Value, json};

on_both_brokers! {
    ended_events_are_shown_as_they_were,
    events_that_had_not_ended_are_processed,
    failed_events_can_be_replayed,
    plugin_state_is_read_and_written,
    idempotency_keys_give_the_first_ids,
}

/// The commits whose hosts wrote the stores.
const WRITERS: [&str; 4] = ["62911f2", "fb6431f", "826a76f", "9b09528"];

/// The members of an event that change until it ends.
const MOVING: &[&str] = &["state", "attempts", "attemptCount", "dueAt", "children", "result", "endedAt"];

/// What the writer showed of its store.
#[derive(Deserialize)]
struct WrittenStore {
    events: Vec<Value>,
    requests: Vec<KeyedRequest>,
}

/// A request that the writer had accepted, with an idempotency key or with an id that the sender gave.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyedRequest {
    key: Option<String>,
    body: String,
    event_ids: Vec<String>,
}

impl WrittenStore {
    fn in_state(&self, states: &'static [&'static str]) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(|event| states.contains(&as_text(&event["state"])))
    }
}

/// Starts a host on a copy of each store. Its settings keep everything, however old the store is.
fn serve_copies(broker: Broker) -> impl Iterator<Item = (Stage, WrittenStore)> {
    WRITERS.into_iter().map(move |writer| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("stored").join(writer);
        let name = broker.name().to_lowercase();
        let written = fs::read(folder.join(format!("{name}.json"))).unwrap();
        let store = broker.start_from(&folder.join(format!("{name}.tar.gz")));
        let plugins = PluginsDir::scripted(&["quick", "slow", "counter", "latecomer"]);
        let stage = Stage::on(store, plugins, |options| {
            let options = options.with("retention.processed", "36500d").with("retention.idempotency", "36500d");
            options.with("consumer.lease_ms", 2_000)
        });
        stage.client.get("/readyz").expect(200);
        (stage, serde_json::from_slice(&written).unwrap())
    })
}

fn as_text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The document of an event. It must have every member that the writer showed, apart from these.
#[track_caller]
fn assert_shown(client: &Client, written: &Value, except: &[&str]) -> Value {
    let found = client.get(&format!("/events/{}", as_text(&written["id"]))).expect(200).json();
    for (name, value) in written.as_object().unwrap().iter().filter(|(name, _)| !except.contains(&name.as_str())) {
        assert_eq!(&found[name], value, "{name} of {found}");
    }
    found
}

fn collect_ids(events: &[Event]) -> BTreeSet<&str> {
    events.iter().map(|event| event.id.as_str()).collect()
}

fn ended_events_are_shown_as_they_were(broker: Broker) {
    for (stage, written) in serve_copies(broker) {
        let metrics = stage.client.metrics();
        assert_eq!(metrics["dataLosses"], 0, "{metrics}");
        assert!(written.in_state(&["processed"]).count() >= 9 && written.in_state(&["failed"]).count() >= 4);
        for event in written.in_state(&["processed"]) {
            assert_shown(&stage.client, event, &[]);
        }
        // A plugin that handles the type of an event without a handler is there now.
        let without_handler = |event: &&Value| event["class"] == "no-handler";
        for event in written.in_state(&["failed"]).filter(|event| !without_handler(event)) {
            assert_shown(&stage.client, event, &[]);
        }
        for event in written.in_state(&["failed"]).filter(without_handler) {
            let id = as_text(&event["id"]);
            eventually("the event is handled by the plugin that is there now", || match stage.client.event(id) {
                Some(event) if event.state == "processed" => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
        let (processed, failed) = (stage.client.processed(), stage.client.failed());
        for event in written.in_state(&["processed"]) {
            assert!(collect_ids(&processed).contains(as_text(&event["id"])), "{event} is listed");
        }
        for event in written.in_state(&["failed"]).filter(|event| !without_handler(event)) {
            assert!(collect_ids(&failed).contains(as_text(&event["id"])), "{event} is listed");
        }
    }
}

fn events_that_had_not_ended_are_processed(broker: Broker) {
    for (stage, written) in serve_copies(broker) {
        assert!(written.in_state(&["queued"]).count() >= 2 && written.in_state(&["running"]).count() == 1);
        assert!(written.in_state(&["retrying"]).count() >= 1 && written.in_state(&["scheduled"]).count() == 2);
        for event in written.in_state(&["queued", "running", "retrying", "scheduled"]) {
            assert_shown(&stage.client, event, MOVING);
            let is_due = event["dueAt"].as_str().is_none_or(|at| at.parse::<Timestamp>().unwrap() <= now());
            if !is_due {
                assert_shown(&stage.client, event, &[]);
                continue;
            }
            let ended = stage.client.wait_ended(as_text(&event["id"]));
            assert_eq!(ended.state, "processed", "{ended:?}");
            let attempts_before = event["attempts"].as_array().unwrap().len();
            assert!(ended.attempts.len() > attempts_before, "{ended:?}");
            let found = assert_shown(&stage.client, event, MOVING);
            let attempts = &found["attempts"].as_array().unwrap()[..attempts_before];
            assert_eq!(&json!(attempts), &event["attempts"], "{found}");
        }
    }
}

fn failed_events_can_be_replayed(broker: Broker) {
    for (stage, written) in serve_copies(broker) {
        let rejected = written.in_state(&["failed"]).filter(|event| event["class"] == "reject");
        for event in rejected {
            let id = as_text(&event["id"]);
            let attempts_before = event["attempts"].as_array().unwrap().len();
            stage.client.replay(id).expect(202);
            let again = eventually("the event is rejected again", || match stage.client.failed_event(id) {
                Some(event) if event.attempts.len() == attempts_before + 1 => Ok(event),
                other => Err(format!("{other:?}")),
            });
            assert_eq!(u64::from(again.replays), event["replays"].as_u64().unwrap_or(0) + 1, "{again:?}");
            assert_shown(&stage.client, event, &["attempts", "attemptCount", "endedAt", "failedAt", "replays"]);
        }
    }
}

fn plugin_state_is_read_and_written(broker: Broker) {
    for (stage, _) in serve_copies(broker) {
        let calls = json!([{"get": {"key": "order/7"}}, {"increment": {"key": "orders", "delta": 1}}]);
        let id = stage.client.post_event("counter", &json!({"do": "state", "state": calls}));
        let event = stage.client.wait_ended(&id);
        let answers: Value = serde_json::from_str(event.result.unwrap().get()).unwrap();
        assert_eq!(answers, json!(["paid", 2]));
    }
}

fn idempotency_keys_give_the_first_ids(broker: Broker) {
    for (stage, written) in serve_copies(broker) {
        assert_eq!(written.requests.len(), 3);
        for request in &written.requests {
            let answer = match &request.key {
                Some(key) => stage.client.try_post_keyed(&request.body, key).unwrap(),
                None => stage.client.post(&request.body),
            };
            let answer = answer.expect(202).json();
            let ids = answer.get("eventIds").cloned().unwrap_or_else(|| json!([answer["eventId"]]));
            assert_eq!(ids, json!(request.event_ids), "{answer}");
        }
        let key_bytes = &stage.client.metrics()["idempotencyBytesByLane"];
        // Redis has no list of the keys that it holds, so keys from before they were counted just end.
        let counted: u64 = key_bytes.as_object().unwrap().values().filter_map(Value::as_u64).sum();
        assert!(broker.is_shared() || counted > 500, "{key_bytes}");
    }
}
