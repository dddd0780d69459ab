//! G8, G12: large results of a plugin take its own share of the store, and nothing from the others.

use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::small_disk::{self, run_on_small_disk};
use eventstream_tests::stage::{Broker, Stage, Store};
use serde_json::json;

/// The events with large results. Kept all at once, they would fill a small store.
const EVENTS: usize = 200;
const RESULT_BYTES: usize = 250_000;

/// Has a plugin process a batch of events with large results, while another plugin works.
fn process_large_results(stage: &Stage, used_bytes: impl Fn() -> u64, most_bytes: u64) {
    let client = &stage.client;
    let hog = json!({"type": "hog", "payload": {"return-bytes": RESULT_BYTES}});
    client.post_batch(&vec![hog; EVENTS]);
    let innocent = json!({"type": "innocent", "payload": {}}).to_string();
    let mut innocents = 0;
    eventually("every event is processed", || {
        let answer = client.post(&innocent);
        assert_eq!(answer.status, 202, "{}", answer.text());
        innocents += 1;
        let used_bytes = used_bytes();
        assert!(used_bytes <= most_bytes, "{used_bytes} bytes");
        let metrics = client.metrics();
        if metrics["processed"] == EVENTS + innocents && metrics["waiting"] == 0 { Ok(()) } else { Err(metrics) }
    });
    assert_eq!((client.metrics()["failed"].as_u64(), client.metrics()["retried"].as_u64()), (Some(0), Some(0)));
}

#[test]
fn large_results_leave_the_disk_to_others() {
    run_on_small_disk("large_results::results_on_a_small_disk", "all were processed");
}

#[test]
#[ignore = "the work of the process that the other test gives a small disk"]
#[expect(clippy::print_stdout, reason = "the other test waits for it")]
fn results_on_a_small_disk() {
    let Some(disk) = small_disk::directory() else { return };
    let store = Store::Embedded(tempfile::tempdir_in(disk).unwrap());
    let stage = Stage::on(store, PluginsDir::scripted(&["hog", "innocent"]), |options| options);
    process_large_results(&stage, || stage.store.disk_bytes(), 48 << 20);
    println!("all were processed");
}

#[test]
fn large_results_leave_the_memory_of_redis_to_others() {
    let store = Broker::Redis.start();
    let () = store.redis().command(&["CONFIG", "SET", "maxmemory", "64mb"]).unwrap();
    let stage = Stage::on(store, PluginsDir::scripted(&["hog", "innocent"]), |options| options);
    let used_bytes = || stage.store.redis().info("used_memory").unwrap();
    process_large_results(&stage, used_bytes, 36 << 20);
    stage.host.wait_for_output("its attempts begin only as fast as room is made");
}
