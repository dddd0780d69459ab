//! G8, G12: what one plugin publishes takes its own share of a small store, and nothing from the others.

use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::small_disk::{self, run_on_small_disk};
use eventstream_tests::stage::{Broker, Stage, Store};
use serde_json::{Value, json};

/// The room of each store in these tests.
const STORE_BYTES: u64 = 48 << 20;
/// Plugins into whose lanes another one publishes.
const OTHERS: usize = 10;

/// Has a plugin publish what `attack` says until its attempts are put off, while another plugin works, and after a restart.
fn attack(store: Store, attack: &[Value], is_over: impl Fn(&Value) -> bool) {
    let others: Vec<String> = (0..OTHERS).map(|n| format!("other{n}")).collect();
    let plugins = ["hog", "innocent"].into_iter().chain(others.iter().map(String::as_str)).collect::<Vec<_>>();
    let mut stage = Stage::on(store, PluginsDir::scripted(&plugins), |options| options);
    let mut turns = (0..).map(|n| others[n % OTHERS].clone());
    let mut innocent = |stage: &Stage| {
        for event_type in ["innocent".to_owned(), turns.next().unwrap()] {
            let answer = stage.client.post(&json!({"type": event_type, "payload": {}}).to_string());
            assert_eq!(answer.status, 202, "{event_type}: {}", answer.text());
        }
    };
    stage.client.post_batch(attack);
    eventually("attempts of the plugin are put off", || {
        innocent(&stage);
        let metrics = stage.client.metrics();
        if is_over(&metrics) { Ok(()) } else { Err(metrics) }
    });
    stage.host.kill9();
    stage.replace_host(|options| options);
    (0..OTHERS).for_each(|_| innocent(&stage));
    let metrics = stage.client.metrics();
    let held = ["waitingBytesByLane", "failedBytesByLane"].iter().flat_map(|name| metrics[*name].as_object().unwrap());
    let held_bytes: u64 = held.map(|(_, bytes)| bytes.as_u64().unwrap()).sum();
    assert!(held_bytes < STORE_BYTES * 2 / 5, "{held_bytes} bytes of {STORE_BYTES}: {metrics}");
}

/// 20 events of which each publishes 100 that publish 100 more, all of which are rejected.
fn fill_by_a_few_events(store: Store) {
    let nested = json!({"publish": 100, "publish-type": "hog", "publish-payload": {"not": "a script"}});
    let root = json!({"publish": 100, "publish-type": "hog", "publish-payload": nested});
    attack(store, &vec![json!({"type": "hog", "payload": root}); 20], |metrics| {
        metrics["failed"].as_u64() > Some(1_000) && metrics["deferred"].as_u64() > Some(100)
    });
}

/// Each event publishes into the lane of another plugin what nobody handles before a month is over.
fn fill_the_lanes_of_others(store: Store) {
    let publishing = |n: usize| {
        let payload = json!({"publish": 20, "publish-type": format!("other{}", n % OTHERS), "publish-delay-ms": 2_592_000_000_u64,
            "publish-payload": {"message": "p".repeat(10_000)}});
        json!({"type": "hog", "payload": payload})
    };
    attack(store, &(0..80).map(publishing).collect::<Vec<_>>(), |metrics| {
        metrics["deferred"].as_u64() > Some(100) && metrics["running"] == 0
    });
}

#[test]
fn a_few_events_that_publish_thousands_leave_the_disk_to_others() {
    run_on_small_disk("many_publishes::a_few_events_on_a_small_disk", "others went on");
}

#[test]
fn what_is_published_into_many_lanes_leaves_the_disk_to_others() {
    run_on_small_disk("many_publishes::many_lanes_on_a_small_disk", "others went on");
}

#[test]
#[ignore = "the work of the process that the other test gives a small disk"]
#[expect(clippy::print_stdout, reason = "the other test waits for it")]
fn a_few_events_on_a_small_disk() {
    let Some(disk) = small_disk::directory() else { return };
    fill_by_a_few_events(Store::Embedded(tempfile::tempdir_in(disk).unwrap()));
    println!("others went on");
}

#[test]
#[ignore = "the work of the process that the other test gives a small disk"]
#[expect(clippy::print_stdout, reason = "the other test waits for it")]
fn many_lanes_on_a_small_disk() {
    let Some(disk) = small_disk::directory() else { return };
    fill_the_lanes_of_others(Store::Embedded(tempfile::tempdir_in(disk).unwrap()));
    println!("others went on");
}

fn small_redis() -> Store {
    let store = Broker::Redis.start();
    let () = store.redis().command(&["CONFIG", "SET", "maxmemory", &STORE_BYTES.to_string()]).unwrap();
    store
}

#[test]
fn a_few_events_that_publish_thousands_leave_the_memory_of_redis_to_others() {
    fill_by_a_few_events(small_redis());
}

#[test]
fn what_is_published_into_many_lanes_leaves_the_memory_of_redis_to_others() {
    fill_the_lanes_of_others(small_redis());
}
