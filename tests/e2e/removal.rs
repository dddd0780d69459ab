//! A plugin is removed by the command line and by HTTP. Its events wait, and show which plugin was removed.

use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::run_command;
use eventstream_tests::layout;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::json;

on_both_brokers! {
    a_plugin_that_is_removed_leaves_its_settings_its_state_and_its_events,
}

/// The exit code and the output of a command.
fn run_on(stage: &Stage, arguments: &[&str]) -> (Option<i32>, String) {
    let output = run_command(&[arguments, &["--url", stage.host.url()]].concat());
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn a_plugin_that_is_removed_leaves_its_settings_its_state_and_its_events(broker: Broker) {
    let plugins = PluginsDir::scripted(&["work", "rest"]).with_settings("work", "concurrency = 3");
    let stage = Stage::with(broker, plugins, |options| options.with("retry.no-handler.max_attempts", 1));
    let (code, words) = run_on(&stage, &["plugin", "remove", "work"]);
    assert_eq!(code, Some(0), "{words}");
    for part in ["work is removed", "work.wasm is deleted", "settings stay in", "work.toml", "its state stays"] {
        assert!(words.contains(part), "{words} says {part}");
    }
    assert!(!stage.plugins.path().join("work.wasm").exists() && stage.plugins.path().join("work.toml").exists());
    let status = stage.client.get("/plugins/work").expect(200).json();
    assert_eq!((&status["state"], &status["types"]), (&json!("removed"), &json!([])), "{status}");
    assert!(status["removedAt"].is_string(), "{status}");
    let (_, listed) = run_on(&stage, &["plugin", "list"]);
    assert!(listed.contains("removed") && listed.contains("its file was removed at"), "{listed}");

    let id = stage.client.post_event("work", &json!({}));
    assert_eq!(stage.client.wait_for(&id, &["failed"]).class.as_deref(), Some("no-handler"));
    let other = stage.client.post_event("rest", &json!({}));
    assert_eq!(stage.client.wait_ended(&other).state, "processed");

    stage.plugins.put("work", &layout::guest("scripted"));
    stage.client.wait_for(&id, &["processed"]);
    assert_eq!(stage.client.get("/plugins/work").expect(200).json()["concurrency"], json!(3));
}

#[test]
fn what_cannot_be_removed_is_told_with_the_reason() {
    let stage = Stage::scripted(Broker::Embedded, &["work"]);
    for (name, code, words) in [("none", 1, "there is no plugin"), ("../work", 2, "a plugin's name")] {
        let (ended, said) = run_on(&stage, &["plugin", "remove", name]);
        assert!(ended == Some(code) && said.contains(words), "{name}: {said}");
    }
    let delete = |name: &str| stage.client.request("DELETE", &format!("/plugins/{name}"), &[], None).unwrap();
    assert_eq!(delete("none").expect(404).json()["type"], "/problems/not-found");
    delete("..%2fwork").expect(404);
    let removed = delete("work").expect(200).json();
    assert_eq!(
        (&removed["name"], &removed["state"], &removed["settings"]),
        (&json!("work"), &json!("removed"), &json!(null))
    );
    delete("work").expect(404);
    stage.plugins.put("away", &layout::guest("scripted"));
    stage.client.wait_for_plugin("away", "it serves", |status| status["digest"].as_str().map(drop));
    stage.plugins.remove("away");
    let (ended, said) = run_on(&stage, &["plugin", "remove", "away"]);
    assert!(ended == Some(0) && said.starts_with("away is removed; its file was gone already\n"), "{said}");
    let nowhere = run_command(&["plugin", "remove", "work", "--url", "http://127.0.0.1:1"]);
    assert_eq!(nowhere.status.code(), Some(3));
}
