//! G9: plugins are replaced, damaged, removed and put back under load, and no event fails because of it.

use std::collections::BTreeSet;
use std::time::Duration;

use eventstream_tests::client::Client;
use eventstream_tests::eventually::{eventually, holds_for};
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::layout;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

on_both_brokers! {
    a_plugin_replaced_under_load_fails_no_event,
    a_file_that_cannot_be_loaded_leaves_the_old_version_at_work,
    a_bad_file_beside_good_ones_is_shown_and_holds_up_nobody,
    a_plugin_that_goes_leaves_its_events_to_its_return,
    files_that_are_not_finished_are_not_loaded,
    types_come_from_the_settings_where_they_name_them,
}

/// The scripted guest with an additional empty custom section: the same plugin with another digest.
fn another_build() -> Vec<u8> {
    let mut bytes = std::fs::read(layout::guest("scripted")).unwrap();
    // Section 0 of 6 bytes: a name of 5.
    bytes.extend_from_slice(b"\x00\x06\x05build");
    bytes
}

fn plugin(client: &Client, name: &str) -> Value {
    client.get(&format!("/plugins/{name}")).expect(200).json()
}

#[track_caller]
fn wait_for_digest(client: &Client, name: &str, is_it: impl Fn(&str) -> bool) -> String {
    eventually(&format!("the version of {name} changes"), || {
        let status = client.get(&format!("/plugins/{name}")).json();
        match status["digest"].as_str() {
            Some(digest) if is_it(digest) && status["state"] == "active" => Ok(digest.to_owned()),
            _ => Err(status.to_string()),
        }
    })
}

fn a_plugin_replaced_under_load_fails_no_event(broker: Broker) {
    let stage = Stage::scripted(broker, &["work"]);
    let first = wait_for_digest(&stage.client, "work", |_| true);
    let second_build = another_build();
    let mut ids = Vec::new();
    for round in 0..4 {
        ids.extend(stage.client.post_batch(&vec![json!({"type": "work", "payload": {"sleep-ms": 15}}); 60]));
        if round % 2 == 0 {
            stage.plugins.write("work.wasm", &second_build);
            wait_for_digest(&stage.client, "work", |digest| digest != first);
        } else {
            stage.plugins.put("work", &layout::guest("scripted"));
            wait_for_digest(&stage.client, "work", |digest| digest == first);
        }
    }
    let mut digests = BTreeSet::new();
    for id in &ids {
        let event = stage.client.wait_ended(id);
        assert_eq!((event.state.as_str(), event.attempts.len()), ("processed", 1), "{event:?}");
        digests.extend(event.attempts[0].digest.clone());
    }
    assert_eq!(digests.len(), 2, "both builds ran, and no other");
}

fn a_file_that_cannot_be_loaded_leaves_the_old_version_at_work(broker: Broker) {
    let stage = Stage::scripted(broker, &["work"]);
    let first = wait_for_digest(&stage.client, "work", |_| true);
    for (what, content) in [
        ("not wasm", b"hello".to_vec()),
        ("cut short", std::fs::read(layout::guest("scripted")).unwrap()[..5_000].to_vec()),
        ("empty", Vec::new()),
        ("a module without a component", b"\x00asm\x01\x00\x00\x00".to_vec()),
    ] {
        stage.plugins.write("work.wasm", &content);
        let status = eventually(&format!("the fault is shown: {what}"), || {
            let status = plugin(&stage.client, "work");
            if status["error"].is_string() { Ok(status) } else { Err(status) }
        });
        assert_eq!(status["digest"], json!(first), "{what}: {status}");
        let event = stage.client.wait_ended(&stage.client.post_event("work", &json!({})));
        assert_eq!((event.state.as_str(), event.attempts[0].digest.as_ref()), ("processed", Some(&first)), "{what}");
        stage.plugins.put("work", &layout::guest("scripted"));
        eventually(&format!("the fault is gone: {what}"), || {
            let status = plugin(&stage.client, "work");
            if status["error"].is_null() { Ok(()) } else { Err(status) }
        });
    }
}

fn a_bad_file_beside_good_ones_is_shown_and_holds_up_nobody(broker: Broker) {
    let plugins = PluginsDir::scripted(&["good"]);
    plugins.write("bad.wasm", b"hello");
    let stage = Stage::with(broker, plugins, |options| options);
    assert_eq!(stage.client.wait_ended(&stage.client.post_event("good", &json!({}))).state, "processed");
    let status = plugin(&stage.client, "bad");
    assert!(status["error"].as_str().is_some_and(|error| !error.is_empty()), "{status}");
    let all = stage.client.get("/plugins").expect(200).text();
    assert!(all.contains("\"good\"") && all.contains("\"bad\""), "{all}");
    stage.client.get("/plugins/none").expect(404);
}

fn a_plugin_that_goes_leaves_its_events_to_its_return(broker: Broker) {
    let stage = Stage::with(broker, PluginsDir::scripted(&["work"]), |options| options.with("retry.max_attempts", 1));
    stage.plugins.remove("work");
    eventually("the plugin is gone", || {
        let answer = stage.client.get("/plugins/work");
        if answer.status == 404 || answer.json()["state"] != "active" { Ok(()) } else { Err(answer.text()) }
    });
    let id = stage.client.post_event("work", &json!({}));
    assert_eq!(stage.client.wait_for(&id, &["failed"]).class.as_deref(), Some("no-handler"));
    stage.plugins.put("work", &layout::guest("scripted"));
    stage.client.wait_for(&id, &["processed"]);
}

fn files_that_are_not_finished_are_not_loaded(broker: Broker) {
    let stage = Stage::scripted(broker, &["work"]);
    let component = std::fs::read(layout::guest("scripted")).unwrap();
    for file in [".hidden.wasm", "later.wasm.tmp", "notes.txt"] {
        std::fs::write(stage.plugins.path().join(file), &component).unwrap();
    }
    stage.plugins.put("last", &layout::guest("scripted"));
    wait_for_digest(&stage.client, "last", |_| true);
    holds_for(Duration::from_millis(500), "only whole plugins are loaded", || {
        let plugins = stage.client.get("/plugins").expect(200).text();
        if plugins.contains("hidden") || plugins.contains("later") || plugins.contains("notes") {
            Err(plugins)
        } else {
            Ok(())
        }
    });
}

fn types_come_from_the_settings_where_they_name_them(broker: Broker) {
    let plugins = PluginsDir::scripted(&["orders", "rest"])
        .with_settings("orders", "types = [\"order.*\"]\n")
        .with_settings("rest", "types = [\"*\"]\n");
    let stage = Stage::with(broker, plugins, |options| options);
    for (event_type, expected) in [("order.paid", "orders"), ("order", "rest"), ("anything", "rest")] {
        let event = stage.client.wait_ended(&stage.client.post_event(event_type, &json!({})));
        assert_eq!(event.attempts[0].plugin.as_deref(), Some(expected), "{event_type}");
    }
}
