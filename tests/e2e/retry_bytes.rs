//! G8, G12: what the retries of a plugin keep takes its own share of the store, and nothing from the others.

use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::layout;
use eventstream_tests::small_disk::{self, run_on_small_disk};
use eventstream_tests::stage::{Broker, Stage, Store};
use serde_json::json;

/// Many times as many attempts as would fill a small store with their output.
const RETRIES: u64 = 600;

/// Has a plugin fail thousands of events, each attempt with hundreds of kilobytes of output, while another plugin works.
/// Then a build that does not fail works off what is left.
fn retry_with_much_output(stage: &Stage, used_bytes: impl Fn() -> u64, most_bytes: u64) {
    let client = &stage.client;
    let hog = json!({"type": "hog", "payload": {"do": "trap", "log-bytes": 400_000, "stderr-bytes": 20_000}});
    for _ in 0..3 {
        client.post_batch(&vec![hog.clone(); 1_000]);
    }
    let innocent = json!({"type": "innocent", "payload": {}}).to_string();
    eventually("its events were tried often", || {
        let answer = client.post(&innocent);
        assert_eq!(answer.status, 202, "{}", answer.text());
        let used_bytes = used_bytes();
        assert!(used_bytes <= most_bytes, "{used_bytes} bytes");
        let metrics = client.metrics();
        if metrics["retried"].as_u64() >= Some(RETRIES) { Ok(()) } else { Err(metrics) }
    });
    stage.host.wait_for_output("its attempts are kept without log, standard error and backtrace");
    let id = client.post_event("innocent", &json!({}));
    client.wait_for(&id, &["processed"]);

    stage.plugins.put("hog", &layout::guest("idle"));
    eventually("a build that does not fail works the lane off", || {
        let metrics = client.metrics();
        if metrics["waiting"] == 0 { Ok(()) } else { Err(metrics) }
    });
    let id = client.post_event("hog", &json!({}));
    client.wait_for(&id, &["processed"]);
    assert!(used_bytes() <= most_bytes);
}

#[test]
fn retries_with_much_output_leave_the_disk_to_others() {
    run_on_small_disk("retry_bytes::retry_on_a_small_disk", "the lane is worked off");
}

#[test]
#[ignore = "the work of the process that the other test gives a small disk"]
#[expect(clippy::print_stdout, reason = "the other test waits for it")]
fn retry_on_a_small_disk() {
    let Some(disk) = small_disk::directory() else { return };
    let store = Store::Embedded(tempfile::tempdir_in(disk).unwrap());
    let stage = Stage::on(store, PluginsDir::scripted(&["hog", "innocent"]), |options| options);
    retry_with_much_output(&stage, || stage.store.disk_bytes(), 40 << 20);
    println!("the lane is worked off");
}

#[test]
fn retries_with_much_output_leave_the_memory_of_redis_to_others() {
    let store = Broker::Redis.start();
    let () = store.redis().command(&["CONFIG", "SET", "maxmemory", "64mb"]).unwrap();
    let stage = Stage::on(store, PluginsDir::scripted(&["hog", "innocent"]), |options| options);
    let used_bytes = || {
        let info: String = stage.store.redis().command(&["INFO", "memory"]).unwrap();
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        used.and_then(|used| used.trim().parse().ok()).unwrap()
    };
    retry_with_much_output(&stage, used_bytes, 60 << 20);
}
