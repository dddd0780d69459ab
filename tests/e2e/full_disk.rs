//! G12: what fills the disk of an embedded store takes nothing from others, and an operator can make room again.

use std::io::Write;

use eventstream_tests::eventually::eventually;
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
fn plugin_state_leaves_a_small_disk_to_others_and_its_removal_makes_room_where_others_filled_it() {
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
    // Far more than each may keep.
    for n in 0..40 {
        let set = json!({"state": [{"set": {"key": format!("key-{n}"), "bytes": 50_000}}]});
        let ids: Vec<String> = keepers.iter().map(|keeper| stage.client.post_event(keeper, &set)).collect();
        ids.iter().for_each(|id| drop(stage.client.wait_ended(id)));
        assert_eq!(accepts(), Ok(()), "round {n}");
    }
    let failed = stage.client.failed();
    assert!(
        !failed.is_empty() && failed.iter().all(|event| format!("{event:?}").contains("bytes of state")),
        "{failed:?}"
    );
    // The store may give room back to the disk meanwhile.
    eventually("events are refused", || {
        fill_disk();
        accepts().err().filter(|said| said.contains("store-full")).ok_or("they are accepted")
    });
    for keeper in &keepers {
        let removed = stage.client.request("DELETE", &format!("/plugins/{keeper}?state=true"), &[], None).unwrap();
        let removed = removed.expect(200).json();
        assert!(removed["stateKeysRemoved"].as_u64() > Some(0), "{removed}");
    }
    eventually("events are accepted again", accepts);
    let id = stage.client.post_event("quiet", &json!({}));
    stage.client.wait_for(&id, &["processed"]);
    println!("accepts again");
}

#[test]
fn a_store_on_a_disk_that_others_filled_opens_serves_and_can_be_worked_off() {
    run_on_small_disk("full_disk::work_off_while_others_fill_the_disk", "worked off");
}

#[test]
#[ignore = "the work of the process that the other test gives a small disk"]
#[expect(clippy::print_stdout, reason = "the other test waits for it")]
fn work_off_while_others_fill_the_disk() {
    let Some(mut stage) = stage_on_small_disk(&["hog", "quiet"]) else { return };
    let rejected = json!({"do": "reject", "message": "z".repeat(100_000)});
    let failed: Vec<String> = (0..12).map(|_| stage.client.post_event("hog", &rejected)).collect();
    failed.iter().for_each(|id| drop(stage.client.wait_for(id, &["failed"])));
    let later = json!({"type": "quiet", "payload": {}, "delayMs": 600_000}).to_string();
    let waiting = stage.client.post(&later).expect(202).json();

    fill_disk();
    refuses_and_says_why(&stage);
    discard(&stage, &failed[0]);
    fill_disk();
    discard(&stage, &failed[1]);
    stage.host.terminate();
    let ended = stage.host.wait();
    assert_eq!(ended.code(), Some(0), "{}", stage.host.output());

    // A clean stop gave the log's room back. Others take it before the next start.
    fill_disk();
    stage.replace_host(|options| options);
    refuses_and_says_why(&stage);
    stage.client.wait_for(&failed[1], &["discarded"]);
    discard(&stage, &failed[2]);
    stage.host.kill9();

    fill_disk();
    stage.replace_host(|options| options);
    refuses_and_says_why(&stage);
    assert_eq!(stage.client.metrics()["waiting"], 1);
    failed[3..].iter().for_each(|id| discard(&stage, id));

    std::fs::remove_file(filling()).unwrap();
    let id = eventually("events are accepted again", || match post(&stage, "quiet", &json!({})) {
        (202, said) => Ok(serde_json::from_str::<Value>(&said).unwrap()["eventId"].as_str().unwrap().to_owned()),
        other => Err(format!("{other:?}")),
    });
    stage.client.wait_for(&id, &["processed"]);
    let metrics = stage.client.metrics();
    assert_eq!((&metrics["failedKept"], &metrics["discarded"]), (&json!(0), &json!(failed.len())), "{metrics}");
    stage.client.wait_for(waiting["eventId"].as_str().unwrap(), &["scheduled"]);
    println!("worked off");
}

#[test]
fn a_stop_does_not_wait_until_a_full_disk_has_room() {
    run_on_small_disk("full_disk::stop_while_settles_find_no_room", "stopped");
}

#[test]
#[ignore = "the work of the process that the other test gives a small disk"]
#[expect(clippy::print_stdout, reason = "the other test waits for it")]
fn stop_while_settles_find_no_room() {
    // Each keeps less than its share, and all together more than the reserve.
    let names: Vec<String> = (0..6).map(|n| format!("hog-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let Some(mut stage) = stage_on_small_disk(&names) else { return };
    let payload = json!({"do": "reject", "message": "z".repeat(1_000), "log-bytes": 150_000});
    let events: Vec<Value> =
        (0..90).map(|n| json!({"type": names[n % names.len()], "payload": payload, "delayMs": 4_000})).collect();
    stage.client.post_batch(&events);
    fill_disk();
    stage.host.wait_for_output("could not settle attempts");
    stage.host.terminate();
    let ended = stage.host.wait();
    let said = stage.host.output();
    assert_eq!(ended.code(), Some(0), "{said}");
    assert!(said.contains("are made again after the next start") && !said.contains("attempts still running"), "{said}");

    fill_disk();
    stage.replace_host(|options| options);
    std::fs::remove_file(filling()).unwrap();
    eventually("all are handled", || {
        let metrics = stage.client.metrics();
        let is_over = metrics["failedKept"] == 90 && metrics["waiting"] == 0;
        if is_over { Ok(()) } else { Err(metrics) }
    });
    println!("stopped");
}

/// The file with which another program fills the small disk.
fn filling() -> std::path::PathBuf {
    small_disk::directory().unwrap().join("filling")
}

/// Takes all that is free on the small disk.
fn fill_disk() {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(filling()).unwrap();
    for size_bytes in [1 << 20, 4_096] {
        while file.write_all(&vec![7; size_bytes]).is_ok() {}
    }
}

fn refuses_and_says_why(stage: &Stage) {
    eventually("events are refused", || match post(stage, "quiet", &json!({})) {
        (503, said) if said.contains("store-full") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let readiness = stage.client.request("GET", "/readyz", &[], None).unwrap();
    let said = readiness.text();
    assert!(readiness.status == 503 && said.contains("the store has no room left"), "{said}");
}

fn discard(stage: &Stage, id: &str) {
    let discarded = run_command(&["failed", "discard", id, "--reason", "of no use", "--url", stage.host.url()]);
    assert!(discarded.status.success(), "{id}: {}{}", String::from_utf8_lossy(&discarded.stderr), stage.host.output());
}
