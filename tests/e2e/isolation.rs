//! G8 for waiting: a plugin that is slow, loops or is flooded delays only its own events.
//!
//! The tests assert an order, not a time: the quick events end while the others still wait. `cargo xtask bench`
//! measures how much the latency of other plugins grows.

use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

on_both_brokers! {
    events_of_others_finish_while_a_crowd_waits_for_a_plugin_that_sleeps,
    events_of_others_finish_while_a_crowd_waits_for_a_plugin_that_loops,
    events_of_others_finish_while_a_crowd_waits_for_a_plugin_that_fills_its_memory,
    events_of_others_finish_while_a_crowd_waits_for_a_plugin_that_traps,
    events_without_a_handler_hold_up_nobody,
    events_of_a_plugin_of_which_nothing_runs_are_handled_while_slow_ones_fill_the_host,
}

/// Events of the plugin that is in trouble.
const CROWD: usize = 1_500;
/// Events of its neighbor.
const QUICK: usize = 40;

/// Posts many events for one plugin, then a few for another, and checks that the few end while nearly all of the many
/// wait.
#[track_caller]
fn neighbors_finish_first(broker: Broker, trouble: &Value) {
    // None of the many events fails while the others wait for a processor.
    let plugins = PluginsDir::scripted(&["trouble", "quick"]);
    let plugins = plugins.with_settings("trouble", "[retry]\nmax_attempts = 1000\n");
    let stage = Stage::with(broker, plugins, |options| options.with("consumer.concurrency", 3));
    for _ in 0..CROWD / 500 {
        stage.client.post_batch(&vec![json!({"type": "trouble", "payload": trouble}); 500]);
    }
    for _ in 0..QUICK {
        let event = stage.client.wait_ended(&stage.client.post_event("quick", &json!({})));
        assert_eq!((event.state.as_str(), event.attempts.len()), ("processed", 1), "{:#?}", event.attempts);
    }
    let metrics = stage.client.metrics();
    let ended = metrics["processed"].as_u64().unwrap() + metrics["failed"].as_u64().unwrap() - QUICK as u64;
    assert!(ended < CROWD as u64 / 2, "{ended} of the crowd ended before their neighbors: {metrics}");
    assert!(metrics["lanes"]["trouble"].as_u64().unwrap() > CROWD as u64 / 2, "{metrics}");
}

fn events_of_others_finish_while_a_crowd_waits_for_a_plugin_that_sleeps(broker: Broker) {
    neighbors_finish_first(broker, &json!({"sleep-ms": 2_000}));
}

fn events_of_others_finish_while_a_crowd_waits_for_a_plugin_that_loops(broker: Broker) {
    neighbors_finish_first(broker, &json!({"do": "loop"}));
}

fn events_of_others_finish_while_a_crowd_waits_for_a_plugin_that_fills_its_memory(broker: Broker) {
    neighbors_finish_first(broker, &json!({"do": "allocate"}));
}

fn events_of_others_finish_while_a_crowd_waits_for_a_plugin_that_traps(broker: Broker) {
    neighbors_finish_first(broker, &json!({"spin-ms": 20, "do": "trap"}));
}

fn events_without_a_handler_hold_up_nobody(broker: Broker) {
    let stage = Stage::scripted(broker, &["quick"]);
    for _ in 0..2 {
        stage.client.post_batch(&vec![json!({"type": "nobody", "payload": {}}); 500]);
    }
    for _ in 0..QUICK {
        assert_eq!(stage.client.wait_ended(&stage.client.post_event("quick", &json!({}))).state, "processed");
    }
}

/// Many slow plugins fill all their slots. The plugin that begins next must not wait for one of them to end.
fn events_of_a_plugin_of_which_nothing_runs_are_handled_while_slow_ones_fill_the_host(broker: Broker) {
    const SLOW: usize = 22;
    /// This many plugins fill a host that handles 64 events at once, if each may have four attempts.
    const FILL: usize = 16;
    let names: Vec<String> = (0..SLOW).map(|n| format!("slow{n}")).chain((0..6).map(|n| format!("quick{n}"))).collect();
    let plugins = PluginsDir::scripted(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let stage = Stage::with(broker, plugins, |options| {
        options.with("consumer.concurrency", 4).with("plugins.limits.wall_ms", 600_000)
    });
    let (slow, quick) = names.split_at(SLOW);
    let (fill, beyond) = slow.split_at(FILL);
    let mut expected = 0;
    for (names, each) in [(fill, 4), (beyond, 1)] {
        for name in names {
            stage.client.post_batch(&vec![json!({"type": name, "payload": {"sleep-ms": 300_000}}); each]);
        }
        expected += (names.len() * each) as u64;
        eventually(&format!("{expected} events are under way"), || {
            let running = stage.client.metrics()["running"].as_u64().unwrap();
            if running >= expected { Ok(()) } else { Err(format!("{running}")) }
        });
    }
    for name in quick {
        assert_eq!(stage.client.wait_ended(&stage.client.post_event(name, &json!({}))).state, "processed");
    }
    assert_eq!(stage.client.metrics()["processed"], quick.len(), "none of the slow ones has ended");
}
