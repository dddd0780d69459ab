//! G8, G12: the failed events of one plugin take its own share of the memory of Redis, and nothing from the others.

use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::run_command;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::json;

/// The memory of Redis. A plugin may take an eighth of it.
const MEMORY: &str = "64mb";

#[test]
fn a_plugin_that_rejects_its_own_events_fills_only_its_share_and_discarding_makes_room() {
    let store = Broker::Redis.start();
    let () = store.redis().command(&["CONFIG", "SET", "maxmemory", MEMORY]).unwrap();
    let stage = Stage::on(store, PluginsDir::scripted(&["hog", "innocent"]), |options| options);
    let client = &stage.client;
    let payload = json!({"do": "reject", "message": "z".repeat(100_000)});
    let hog = json!({
        "type": "hog",
        "payload": {"publish": 6, "publish-type": "hog", "publish-payload": payload},
    });
    let refusal = eventually("the hog has filled its share", || {
        let answer = client.post(&hog.to_string());
        let innocent = client.post(&json!({"type": "innocent", "payload": {}}).to_string());
        assert_eq!(innocent.status, 202, "{}", innocent.text());
        let said = answer.text();
        if answer.status == 429 && said.contains("failed discard --plugin hog") { Ok(said) } else { Err(said) }
    });
    assert!(refusal.contains("failed events"), "{refusal}");
    let innocent = client.post_event("innocent", &json!({}));
    client.wait_for(&innocent, &["processed"]);

    let failed = client.failed();
    assert!(failed.len() > 40, "{} events fill the share", failed.len());
    for event in &failed {
        let path = format!("/failed-events/{}?reason=tested", event.id);
        client.request("DELETE", &path, &[], None).unwrap().expect(200);
    }
    client.wait_for(&failed[0].id, &["discarded"]);
    eventually("the hog is accepted again", || {
        let answer = client.post(&json!({"type": "hog", "payload": {}}).to_string());
        if answer.status == 202 { Ok(()) } else { Err(answer.text()) }
    });
    assert_eq!(client.metrics()["discarded"], failed.len());
}

#[test]
fn a_store_whose_memory_others_filled_opens_serves_and_can_be_worked_off() {
    let mut stage = Stage::scripted(Broker::Redis, &["hog", "innocent"]);
    let rejected = json!({"do": "reject", "message": "no use"});
    let failed: Vec<String> = (0..6).map(|_| stage.client.post_event("hog", &rejected)).collect();
    failed.iter().for_each(|id| drop(stage.client.wait_for(id, &["failed"])));
    let later = json!({"type": "innocent", "payload": {}, "delayMs": 600_000}).to_string();
    let waiting = stage.client.post(&later).expect(202).json();
    let limit = |stage: &Stage, memory: &str| {
        let () = stage.store.redis().command(&["CONFIG", "SET", "maxmemory", memory]).unwrap();
    };
    let refuses_and_says_why = |stage: &Stage| {
        eventually("events are refused", || {
            let refused = stage.client.post(&json!({"type": "innocent", "payload": {}}).to_string());
            if refused.status == 503 { Ok(()) } else { Err(refused.text()) }
        });
        eventually("it is not ready and says why", || {
            let said = stage.client.request("GET", "/readyz", &[], None).unwrap();
            let words = said.text();
            if said.status == 503 && words.contains("memory") { Ok(()) } else { Err(words) }
        });
    };
    let discard = |stage: &Stage, id: &str| {
        let discarded = run_command(&["failed", "discard", id, "--reason", "of no use", "--url", stage.host.url()]);
        assert!(discarded.status.success(), "{}", String::from_utf8_lossy(&discarded.stderr));
    };

    limit(&stage, "1mb");
    refuses_and_says_why(&stage);
    discard(&stage, &failed[0]);
    stage.host.terminate();
    assert_eq!(stage.host.wait().code(), Some(0), "{}", stage.host.output());
    stage.replace_host(|options| options);
    refuses_and_says_why(&stage);
    discard(&stage, &failed[1]);
    stage.host.kill9();
    stage.replace_host(|options| options);
    failed[2..].iter().for_each(|id| discard(&stage, id));
    assert_eq!(stage.client.metrics()["waiting"], 1);

    limit(&stage, "0");
    let id = eventually("events are accepted again", || {
        let answer = stage.client.post(&json!({"type": "innocent", "payload": {}}).to_string());
        if answer.status == 202 {
            Ok(answer.json()["eventId"].as_str().unwrap().to_owned())
        } else {
            Err(answer.text())
        }
    });
    stage.client.wait_for(&id, &["processed"]);
    let metrics = stage.client.metrics();
    assert_eq!((&metrics["failedKept"], &metrics["discarded"]), (&json!(0), &json!(failed.len())), "{metrics}");
    stage.client.wait_for(waiting["eventId"].as_str().unwrap(), &["scheduled"]);
}
