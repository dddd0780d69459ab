//! G8, G12: the failed events of one plugin take its own share of the memory of Redis, and nothing from the others.

use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
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
