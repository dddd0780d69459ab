//! G8: different hosts share a store. An event that only one of them can handle is left to that host, without an
//! attempt.
//!
//! Events without a plugin fail at their first attempt here, so that a superfluous attempt shows.

use eventstream_tests::client::Client;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::{Host, HostOptions};
use eventstream_tests::layout;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

/// A setting that cannot be met on this machine.
const SECRET_MISSING: &str = "secrets = { token = { file = \"/nowhere/token\" } }";

fn strict(options: HostOptions) -> HostOptions {
    options.with("retry.no-handler.max_attempts", 1)
}

/// A Redis with one host.
fn stage(plugins: PluginsDir) -> Stage {
    Stage::with(Broker::Redis, plugins, strict)
}

/// Another host on the same store, with plugins of its own.
fn another(stage: &Stage, plugins: &PluginsDir) -> Host {
    Host::spawn(&strict(stage.options_with(plugins)))
}

fn batch(event_type: &str, sleep_ms: u64, n: usize) -> Vec<Value> {
    vec![json!({"type": event_type, "payload": {"sleep-ms": sleep_ms}}); n]
}

/// Each event was processed at its first attempt, and none ever failed.
#[track_caller]
fn all_processed_at_once(client: &Client, ids: &[String]) {
    for id in ids {
        let event = client.wait_ended(id);
        assert_eq!((event.state.as_str(), event.attempts.len()), ("processed", 1), "{event:?}");
    }
    let metrics = client.metrics();
    assert_eq!((&metrics["failed"], &metrics["retried"]), (&json!(0), &json!(0)), "{metrics}");
}

#[test]
fn events_are_handled_by_the_host_that_can_whoever_accepts_them() {
    let broken = PluginsDir::scripted(&["work", "rest"]).with_settings("work", SECRET_MISSING);
    for lacking in [PluginsDir::scripted(&["rest"]), broken] {
        let stage = stage(PluginsDir::scripted(&["work", "rest"]));
        let others = [another(&stage, &lacking), another(&stage, &lacking)];
        let mut ids = Vec::new();
        for _ in 0..10 {
            for client in [&stage.client, &others[0].client(), &others[1].client()] {
                ids.extend(client.post_batch(&batch("work", 5, 10)));
                ids.extend(client.post_batch(&batch("rest", 0, 2)));
            }
        }
        all_processed_at_once(&stage.client, &ids);
    }
}

#[test]
fn a_host_that_joins_with_a_plugin_of_its_own_gets_its_events() {
    let stage = stage(PluginsDir::scripted(&["rest"]));
    let with_plugin = PluginsDir::scripted(&["work"]);
    let joining = another(&stage, &with_plugin);
    let mut ids = joining.client().post_batch(&batch("work", 0, 50));
    ids.extend(stage.client.post_batch(&batch("work", 0, 50)));
    all_processed_at_once(&stage.client, &ids);
    stage.host.wait_for_output("a plugin that another host serves and this one does not");
}

#[test]
fn one_plugin_with_other_types_on_each_host_handles_all_of_them() {
    let typed = |types: &str| PluginsDir::scripted(&["work"]).with_settings("work", &format!("types = [{types}]"));
    let stage = stage(typed("\"a\""));
    let (second, third) = (typed("\"b\", \"c.*\""), typed("\"d\""));
    let hosts = [another(&stage, &second), another(&stage, &third)];
    let mut ids = Vec::new();
    for client in [&stage.client, &hosts[0].client(), &hosts[1].client()] {
        for event_type in ["a", "b", "c.x", "d"] {
            ids.extend(client.post_batch(&batch(event_type, 2, 20)));
        }
    }
    all_processed_at_once(&stage.client, &ids);
}

#[test]
fn a_plugin_removed_on_one_host_leaves_what_waits_to_the_other() {
    let stage = stage(PluginsDir::scripted(&["work"]).with_settings("work", "concurrency = 2"));
    let plugins = PluginsDir::scripted(&["work"]).with_settings("work", "concurrency = 2");
    let other = another(&stage, &plugins);
    let ids = stage.client.post_batch(&batch("work", 100, 60));
    stage.client.wait_for(&ids[0], &["running", "processed"]);
    plugins.remove("work");
    other.client().wait_for_plugin("work", "it is gone", |status| (status["state"] == "removed").then_some(()));
    let mut ids = ids;
    ids.extend(other.client().post_batch(&batch("work", 0, 20)));
    all_processed_at_once(&stage.client, &ids);
    // And back: it takes part again.
    plugins.put("work", &layout::guest("scripted"));
    other.client().wait_for_plugin("work", "it serves", |status| (status["state"] == "active").then_some(()));
    all_processed_at_once(&stage.client, &other.client().post_batch(&batch("work", 0, 20)));
}

#[test]
fn the_only_host_that_handles_it_is_started_anew_and_nothing_fails() {
    let mut stage = stage(PluginsDir::scripted(&["work", "rest"]));
    let lacking = PluginsDir::scripted(&["rest"]);
    let other = another(&stage, &lacking);
    let mut ids = stage.client.post_batch(&batch("work", 20, 40));
    stage.host.terminate();
    assert_eq!(stage.host.wait().code(), Some(0));
    ids.extend(other.client().post_batch(&batch("work", 0, 40)));
    // Something else goes on meanwhile.
    all_processed_at_once(&other.client(), &other.client().post_batch(&batch("rest", 0, 20)));
    stage.replace_host(strict);
    all_processed_at_once(&stage.client, &ids);
}

#[test]
fn what_nobody_handles_fails_by_the_policy_and_is_replayed_when_one_host_gets_the_plugin() {
    let stage = stage(PluginsDir::scripted(&["rest"]));
    let lacking = PluginsDir::scripted(&["rest"]);
    let other = another(&stage, &lacking);
    let mut ids = stage.client.post_batch(&batch("work", 0, 5));
    ids.extend(other.client().post_batch(&batch("work", 0, 5)));
    for id in &ids {
        assert_eq!(stage.client.wait_for(id, &["failed"]).class.as_deref(), Some("no-handler"));
    }
    stage.plugins.put("work", &layout::guest("scripted"));
    for id in &ids {
        stage.client.wait_for(id, &["processed"]);
    }
    assert_eq!(stage.client.metrics()["failed"], 10);
}

#[test]
fn what_a_dead_host_held_is_taken_over_by_one_that_handles_it() {
    let set = |options: HostOptions| strict(options).with("consumer.lease_ms", 3_000);
    let stage = Stage::with(Broker::Redis, PluginsDir::scripted(&["work"]), set);
    let (lacking, having) = (PluginsDir::scripted(&["rest"]), PluginsDir::scripted(&["work"]));
    let others = [(); 2].map(|()| Host::spawn(&set(stage.options_with(&lacking))));
    let ids = stage.client.post_batch(&batch("work", 15_000, 2));
    for id in &ids {
        stage.client.wait_for(id, &["running"]);
    }
    stage.host.kill9();
    let heir = Host::spawn(&set(stage.options_with(&having)));
    for id in &ids {
        let event = heir.client().wait_ended(id);
        let attempts: Vec<u32> = event.attempts.iter().map(|attempt| attempt.attempt).collect();
        assert_eq!((event.state.as_str(), attempts), ("processed", vec![2]), "{event:?}");
    }
    let metrics = others[0].client().metrics();
    assert_eq!((&metrics["failed"], &metrics["retried"]), (&json!(0), &json!(0)), "{metrics}");
}

#[test]
fn once_the_only_host_that_handles_it_is_gone_for_good_the_policy_begins() {
    let set = |options: HostOptions| strict(options).with("consumer.lease_ms", 1_000);
    let stage = Stage::with(Broker::Redis, PluginsDir::scripted(&["work"]), set);
    let lacking = PluginsDir::scripted(&["rest"]);
    let other = Host::spawn(&set(stage.options_with(&lacking)));
    let id = other.client().post_batch(&batch("work", 0, 1)).remove(0);
    stage.client.wait_for(&id, &["processed"]);
    stage.host.kill9();
    let id = other.client().post_batch(&batch("work", 0, 1)).remove(0);
    let event = other.client().wait_for(&id, &["failed"]);
    assert_eq!(event.class.as_deref(), Some("no-handler"), "{event:?}");
    other.wait_for_output("no other host serves this plugin any more");
    let heir = Host::spawn(&set(stage.options()));
    assert_eq!(heir.client().wait_for(&id, &["processed"]).attempts.len(), 2);
}
