//! G12: what fills the disk of an embedded store takes nothing from others, and an operator can make room again.

use std::time::Duration;

use eventstream_tests::eventually::{eventually, try_eventually};
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::run_command;
use eventstream_tests::small_disk::{self, run_on_small_disk};
use eventstream_tests::stage::{Stage, Store};
use serde_json::{Value, json};

/// A host whose store is on the small disk of this process; `None` in any other process.
fn stage_on_small_disk(names: &[&str]) -> Option<Stage> {
    let folder = tempfile::tempdir_in(small_disk::directory()?).unwrap();
    Some(Stage::on(Store::Embedded(folder), PluginsDir::scripted(names), |options| options))
}

fn post(stage: &Stage, event_type: &str, payload: &Value) -> (u16, String) {
    let answer = stage.client.post(&json!({"type": event_type, "payload": payload}).to_string());
    (answer.status, answer.text())
}

#[test]
fn a_plugin_whose_events_fail_leaves_the_disk_to_others_and_its_failed_events_can_be_discarded() {
    run_on_small_disk("full_disk::fail_many_large_events", "all are discarded");
}

#[test]
#[ignore = "the work of the process that the other test gives a small disk"]
#[expect(clippy::print_stdout, reason = "the other test waits for it")]
fn fail_many_large_events() {
    let Some(stage) = stage_on_small_disk(&["hog", "quiet"]) else { return };
    let rejected = json!({"do": "reject", "message": "z".repeat(200_000)});
    let publishing = json!({"publish": 6, "publish-type": "hog", "publish-payload": rejected});
    for round in 0..400 {
        let (status, said) = post(&stage, "hog", &publishing);
        assert!(matches!(status, 202 | 429), "round {round}: {status} {said}");
        if round % 20 == 0 {
            let (status, said) = post(&stage, "quiet", &json!({}));
            assert_eq!(status, 202, "round {round}: {said}");
        }
    }
    eventually("its failed events count", || match post(&stage, "hog", &json!({})) {
        (429, said) if said.contains("eventstream failed discard --plugin hog") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let id = stage.client.post_event("quiet", &json!({}));
    stage.client.wait_for(&id, &["processed"]);

    // The events that were deferred publish again when there is room, so there is more to discard then.
    eventually("nothing of it is left", || {
        let discard = ["failed", "discard", "--plugin", "hog", "--reason", "of no use", "--url", stage.host.url()];
        let discarded = run_command(&discard);
        assert!(discarded.status.success(), "{}", String::from_utf8_lossy(&discarded.stderr));
        let metrics = stage.client.metrics();
        let is_empty = metrics["waiting"] == 0 && metrics["failedKept"] == 0 && metrics["discarded"] != 0;
        if is_empty { Ok(()) } else { Err(metrics) }
    });
    let id = stage.client.post_event("hog", &json!({}));
    stage.client.wait_for(&id, &["processed"]);
    println!("all are discarded");
}

#[test]
fn on_a_disk_that_plugin_state_filled_events_are_accepted_again_when_state_is_removed() {
    run_on_small_disk("full_disk::fill_with_state", "accepts again");
}

#[test]
#[ignore = "the work of the process that the other test gives a small disk"]
#[expect(clippy::print_stdout, reason = "the other test waits for it")]
fn fill_with_state() {
    let keepers: Vec<String> = (0..10).map(|n| format!("keeper-{n}")).collect();
    let names: Vec<&str> = keepers.iter().map(String::as_str).chain(["quiet"]).collect();
    let Some(stage) = stage_on_small_disk(&names) else { return };
    let accepts = || match post(&stage, "quiet", &json!({})) {
        (202, _) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    // A short lack of room ends with the next checkpoint.
    let refusal = (0..2_000).find_map(|n| {
        let set = json!({"state": [{"set": {"key": format!("key-{n}"), "bytes": 50_000}}]});
        let refused = keepers.iter().any(|keeper| post(&stage, keeper, &set).0 == 503);
        if refused { try_eventually(Duration::from_secs(3), accepts).err() } else { None }
    });
    assert!(refusal.as_ref().is_some_and(|said| said.contains("store-full")), "{refusal:?}");
    for keeper in &keepers[..5] {
        let removed = stage.client.request("DELETE", &format!("/plugins/{keeper}?state=true"), &[], None).unwrap();
        let removed = removed.expect(200).json();
        assert!(removed["stateKeysRemoved"].as_u64() > Some(0), "{removed}");
    }
    eventually("events are accepted again", accepts);
    let id = stage.client.post_event("quiet", &json!({}));
    stage.client.wait_for(&id, &["processed"]);
    println!("accepts again");
}
