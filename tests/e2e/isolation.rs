//! G8 for waiting: a plugin that is slow, looping or flooded holds up nobody but itself.
//!
//! Asserted as an order, not as a time: the quick events end while the others still wait. How much latency others feel
//! is measured by `cargo xtask bench`.

use eventstream_tests::guests::PluginsDir;
use eventstream_tests::stage::Stage;
use serde_json::{Value, json};

/// Events of the plugin that is in trouble.
const CROWD: usize = 1_500;
/// Events of its neighbor.
const QUICK: usize = 40;

/// Posts a crowd for one plugin, then a few for another, and checks that these end while nearly all of the crowd waits.
#[track_caller]
fn neighbors_finish_first(trouble: &Value) {
    let stage =
        Stage::with(PluginsDir::scripted(&["trouble", "quick"]), |options| options.with("consumer.concurrency", 3));
    for _ in 0..CROWD / 500 {
        stage.client.post_batch(&vec![json!({"type": "trouble", "payload": trouble}); 500]);
    }
    for _ in 0..QUICK {
        let event = stage.client.wait_ended(&stage.client.post_event("quick", &json!({})));
        assert_eq!((event.state.as_str(), event.attempts.len()), ("processed", 1));
    }
    let metrics = stage.client.metrics();
    let ended = metrics["processed"].as_u64().unwrap() + metrics["failed"].as_u64().unwrap() - QUICK as u64;
    assert!(ended < CROWD as u64 / 2, "{ended} of the crowd ended before their neighbors: {metrics}");
    assert!(metrics["lanes"]["trouble"].as_u64().unwrap() > CROWD as u64 / 2, "{metrics}");
}

#[test]
fn events_of_others_finish_while_a_crowd_waits_for_a_plugin_that_sleeps() {
    neighbors_finish_first(&json!({"sleep-ms": 2_000}));
}

#[test]
fn events_of_others_finish_while_a_crowd_waits_for_a_plugin_that_loops() {
    neighbors_finish_first(&json!({"do": "loop"}));
}

#[test]
fn events_of_others_finish_while_a_crowd_waits_for_a_plugin_that_fills_its_memory() {
    neighbors_finish_first(&json!({"do": "allocate"}));
}

#[test]
fn events_of_others_finish_while_a_crowd_waits_for_a_plugin_that_traps() {
    neighbors_finish_first(&json!({"spin-ms": 20, "do": "trap"}));
}

#[test]
fn events_without_a_handler_hold_up_nobody() {
    let stage = Stage::scripted(&["quick"]);
    for _ in 0..2 {
        stage.client.post_batch(&vec![json!({"type": "nobody", "payload": {}}); 500]);
    }
    for _ in 0..QUICK {
        assert_eq!(stage.client.wait_ended(&stage.client.post_event("quick", &json!({}))).state, "processed");
    }
}
