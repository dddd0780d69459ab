//! Failed events that nobody wants are discarded, by id or by filter, and the command says what it did.

use std::process::Output;

use eventstream_tests::client::Client;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::run_command;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

on_both_brokers! {
    failed_events_of_a_plugin_are_discarded_after_a_look,
    failed_events_are_discarded_by_id,
    a_removed_plugin_says_how_many_failed_events_stay,
    events_that_no_plugin_handles_are_discarded_too,
}

const REASON: &str = "bad addresses & a % of \"tests\"";

fn stage(broker: Broker) -> Stage {
    Stage::with(broker, PluginsDir::scripted(&["p", "q"]), |options| options.with("retry.max_attempts", 1))
}

/// Publishes an event that fails, and returns its id.
fn fail(client: &Client, event_type: &str, payload: &Value) -> String {
    let event = client.wait_ended(&client.post_event(event_type, payload));
    assert_eq!(event.state, "failed", "{event:?}");
    event.id
}

fn rejected(client: &Client, event_type: &str) -> String {
    fail(client, event_type, &json!({ "do": "reject", "message": "no e-mail\nat all" }))
}

#[track_caller]
fn failed(stage: &Stage, arguments: &[&str], code: i32) -> Output {
    let output = run_command(&[&["failed", "discard"], arguments, &["--url", stage.host.url()]].concat());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}{}", stdout(&output), stderr(&output));
    output
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn failed_ids(client: &Client) -> Vec<String> {
    client.failed().into_iter().map(|event| event.id).collect()
}

fn failed_events_of_a_plugin_are_discarded_after_a_look(broker: Broker) {
    let stage = stage(broker);
    let client = &stage.client;
    let rejects = [(); 3].map(|()| rejected(client, "p"));
    let trap = fail(client, "p", &json!({ "do": "trap" }));
    let other = rejected(client, "q");

    let filter = ["--plugin", "p", "--class", "reject"];
    let shown = stdout(&failed(&stage, &[&filter[..], &["--dry-run"]].concat(), 0));
    assert!(rejects.iter().all(|id| shown.contains(id.as_str())), "{shown}");
    assert!(!shown.contains(&trap) && !shown.contains(&other) && shown.contains(" p reject: no e-mail\n"), "{shown}");
    assert!(shown.ends_with("would discard 3 failed events\n"), "{shown}");
    assert_eq!(failed_ids(client).len(), 5, "a look changes nothing");

    let done = failed(&stage, &[&filter[..], &["--reason", REASON, "--json"]].concat(), 0);
    assert_eq!(stdout(&done), "{\"discarded\":3,\"refused\":0,\"skipped\":0}\n");
    for id in &rejects {
        let event: Value = client.get(&format!("/events/{id}")).json();
        assert_eq!((&event["state"], &event["class"]), (&json!("discarded"), &json!("reject")), "{event}");
        assert_eq!(event["discardReason"], REASON);
        client.replay(id).expect(409);
    }
    assert_eq!(failed_ids(client), [other, trap], "newest first");
    assert_eq!(client.metrics()["discarded"], 3);
    assert!(stdout(&failed(&stage, &[&filter[..], &["--reason", REASON]].concat(), 0)).contains("discarded 0 failed"));
}

fn failed_events_are_discarded_by_id(broker: Broker) {
    let stage = stage(broker);
    let client = &stage.client;
    let [first, second] = [(); 2].map(|()| rejected(client, "p"));
    let processed = client.wait_ended(&client.post_event("p", &json!({}))).id;
    failed(&stage, &[&first], 2);
    failed(&stage, &["--reason", REASON], 2);
    failed(&stage, &[&first, "--plugin", "p", "--reason", REASON], 2);
    failed(&stage, &["not-an-id", "--reason", REASON], 2);

    let shown = failed(&stage, &[&first, &processed, "--dry-run"], 1);
    assert!(stdout(&shown).contains(&first) && stderr(&shown).contains("is processed"), "{shown:?}");
    let done = failed(&stage, &[&first, &processed, &second, "--reason", REASON], 1);
    assert!(stdout(&done).contains("discarded 2 failed events"), "{done:?}");
    assert!(stderr(&done).contains(&format!("{processed} is processed")), "{done:?}");
    assert!(failed_ids(client).is_empty());
    failed(&stage, &[&first, "--reason", REASON], 1);
    let away = run_command(&["failed", "discard", &first, "--reason", "x", "--url", "http://127.0.0.1:1"]);
    assert_eq!(away.status.code(), Some(3), "{away:?}");
}

fn a_removed_plugin_says_how_many_failed_events_stay(broker: Broker) {
    let stage = stage(broker);
    let ids = [(); 2].map(|()| rejected(&stage.client, "p"));
    let remove = |name: &str| stdout(&run_command(&["plugin", "remove", name, "--url", stage.host.url()]));
    let said = remove("p");
    assert!(said.contains("failed events that stay: 2; `eventstream failed discard --plugin p"), "{said}");
    let said = remove("q");
    assert!(said.contains("q is removed") && !said.contains("failed discard"), "{said}");
    // The plugin is gone, and its failed events can still be discarded.
    failed(&stage, &["--plugin", "p", "--reason", REASON], 0);
    for id in ids {
        assert_eq!(stage.client.event(&id).unwrap().state, "discarded");
    }
}

fn events_that_no_plugin_handles_are_discarded_too(broker: Broker) {
    let stage =
        Stage::with(broker, PluginsDir::scripted(&["p"]), |options| options.with("retry.no-handler.max_attempts", 1));
    let id = fail(&stage.client, "nobody", &json!({}));
    let done = failed(&stage, &["--plugin", "_", "--type", "nobody", "--reason", REASON], 0);
    assert_eq!(stdout(&done), "discarded 1 failed event\n");
    assert_eq!(stage.client.event(&id).unwrap().state, "discarded");
}
