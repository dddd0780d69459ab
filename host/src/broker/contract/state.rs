//! Plugin state: written together with the settle, or not at all (G3).

use super::*;
use crate::broker::{ExportedState, RestoreOutcome, SnapshotItem};
use crate::event::{MAX_COUNTER, StateChanges, StateWrite, StoredValue};

const PLUGIN: &str = "counter";

fn set(value: &str) -> StateWrite {
    StateWrite::Set { value: value.to_owned().into(), ttl_ms: None }
}

fn set_for(value: &str, ttl_ms: u64) -> StateWrite {
    StateWrite::Set { value: value.to_owned().into(), ttl_ms: Some(ttl_ms) }
}

fn step(expected: &[(&str, u64)], writes: &[(&str, StateWrite)]) -> StateChanges {
    StateChanges {
        plugin: PLUGIN.into(),
        expected: expected.iter().map(|(key, version)| ((*key).to_owned(), *version)).collect(),
        writes: writes.iter().map(|(key, write)| ((*key).to_owned(), write.clone())).collect(),
    }
}

async fn stored(broker: &dyn Broker, key: &str) -> StoredValue {
    broker.read_plugin_state(PLUGIN, key).await.expect("the state is read")
}

async fn value(broker: &dyn Broker, key: &str) -> Option<String> {
    stored(broker, key).await.value.map(|value| String::from_utf8(value.to_vec()).expect("the case wrote text"))
}

fn settle_with(delivery: &Delivery, state: StateChanges) -> SettleRequest {
    SettleRequest { state: Some(state), ..settle(delivery, Settlement::Processed, Vec::new()) }
}

/// Settles a new event as processed, with these changes of the state.
async fn commit(broker: &dyn Broker, state: StateChanges) -> SettleOutcome {
    let delivery = deliver_one(broker, "a").await;
    broker.settle(vec![settle_with(&delivery, state)]).await.expect("the settle is answered")[0]
}

/// G3: nothing is visible before the settle, and everything afterwards, byte for byte.
pub async fn state_is_visible_from_the_settle_on(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let nothing = stored(&*broker, "k").await;
    assert_eq!((nothing.value, nothing.version, nothing.keys, nothing.size_bytes), (None, 0, 0, 0));
    let bytes: Vec<u8> = (0..=255).chain(*b" 1 2 \n\0").collect();
    let write = StateWrite::Set { value: bytes.clone().into(), ttl_ms: None };
    let writes = step(&[("k", 0), ("other key", 0)], &[("k", write), ("n", StateWrite::Add(-7)), ("é", set(""))]);
    assert_eq!(commit(&*broker, writes).await, SettleOutcome::Done);
    let kept = stored(&*broker, "k").await;
    assert_eq!((kept.value.as_deref(), kept.keys), (Some(&bytes[..]), 3));
    assert_eq!(value(&*broker, "n").await.as_deref(), Some("-7"));
    assert_eq!(value(&*broker, "é").await.as_deref(), Some(""));
    assert_eq!(broker.stats().await.expect("totals").depth.state_keys, 3);

    let writes = step(&[("k", kept.version)], &[("k", StateWrite::Delete), ("missing", StateWrite::Delete)]);
    assert_eq!(commit(&*broker, writes).await, SettleOutcome::Done);
    let gone = stored(&*broker, "k").await;
    assert_eq!((gone.value, gone.version, gone.keys), (None, 0, 2));
    assert_eq!(broker.stats().await.expect("totals").depth.state_keys, 2);
}

/// G3: if the state changed since the handler read it, the settle has no effect and the handler runs again.
pub async fn a_concurrent_change_is_a_conflict(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let delivery = deliver_one(&*broker, "late").await;
    let stale = step(&[("k", 0)], &[("k", set("late")), ("n", StateWrite::Add(1))]);
    commit(&*broker, step(&[("k", 0)], &[("k", set("first"))])).await;
    let mut late = settle_with(&delivery, stale.clone());
    late.publish = appends("children", 2);
    for _ in 0..2 {
        assert_eq!(broker.settle(vec![late.clone()]).await, Ok(vec![SettleOutcome::Conflict]));
    }
    assert_eq!(value(&*broker, "k").await.as_deref(), Some("first"));
    assert_eq!(value(&*broker, "n").await, None);
    assert_eq!(state(&*broker, delivery.record.event.id).await, Some(EventState::Running));
    let counters = broker.stats().await.expect("totals").counters;
    assert_eq!((counters.processed, counters.published, counters.state_conflicts), (1, 0, 2));

    // Keys that were only read count as well, and a key that was deleted and set again has changed.
    let seen = stored(&*broker, "k").await.version;
    commit(&*broker, step(&[], &[("k", StateWrite::Delete)])).await;
    commit(&*broker, step(&[], &[("k", set("first"))])).await;
    late.state = Some(step(&[("k", seen)], &[]));
    assert_eq!(broker.settle(vec![late.clone()]).await, Ok(vec![SettleOutcome::Conflict]));

    late.state = Some(step(&[("k", stored(&*broker, "k").await.version)], &[("k", set("late"))]));
    // Of two in one batch the first one wins.
    let rival = deliver_one(&*broker, "late").await;
    let rival = settle_with(&rival, late.state.clone().expect("it was set"));
    assert_eq!(broker.settle(vec![late, rival]).await, Ok(vec![SettleOutcome::Done, SettleOutcome::Conflict]));
    assert_eq!(value(&*broker, "k").await.as_deref(), Some("late"));
}

/// G3: increments add up in any order. An impossible increment is a conflict, so that its handler learns of it.
pub async fn increments_do_not_conflict(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let mut batch = Vec::new();
    for n in 1..=20 {
        let delivery = deliver_one(&*broker, "a").await;
        batch.push(settle_with(&delivery, step(&[], &[("n", StateWrite::Add(n)), ("m", StateWrite::Add(-n))])));
    }
    batch.reverse();
    assert_eq!(broker.settle(batch).await, Ok(vec![SettleOutcome::Done; 20]));
    assert_eq!(value(&*broker, "n").await.as_deref(), Some("210"));
    assert_eq!(value(&*broker, "m").await.as_deref(), Some("-210"));

    commit(&*broker, step(&[], &[("n", set("9007199254740990")), ("text", set("x"))])).await;
    assert_eq!(commit(&*broker, step(&[], &[("n", StateWrite::Add(1))])).await, SettleOutcome::Done);
    assert_eq!(value(&*broker, "n").await, Some(MAX_COUNTER.to_string()));
    for (key, delta) in [("n", 1), ("text", 1), ("n", -2 * MAX_COUNTER - 1)] {
        assert_eq!(
            commit(&*broker, step(&[], &[(key, StateWrite::Add(delta))])).await,
            SettleOutcome::Conflict,
            "{key}"
        );
    }
}

/// G4: a consumer that lost the delivery changes nothing.
pub async fn a_lost_delivery_writes_nothing(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let delivery = deliver_one(&*broker, "a").await;
    assert_eq!(settle_one(&*broker, &delivery, retry(0)).await, SettleOutcome::Done);
    let lost = settle_with(&delivery, step(&[], &[("n", StateWrite::Add(1))]));
    let mut stale = lost.clone();
    stale.receipt.deliveries += 1;
    assert_eq!(broker.settle(vec![stale]).await, Ok(vec![SettleOutcome::Lost]));
    assert_eq!((value(&*broker, "n").await, stored(&*broker, "n").await.keys), (None, 0));
}

/// G3: a repeated settle writes once, also if its own writes changed the keys that it read.
pub async fn a_repeated_settle_writes_once(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let delivery = deliver_one(&*broker, "a").await;
    let once = settle_with(&delivery, step(&[("k", 0)], &[("k", set("v")), ("n", StateWrite::Add(1))]));
    for _ in 0..3 {
        assert_eq!(broker.settle(vec![once.clone()]).await, Ok(vec![SettleOutcome::Done]));
    }
    assert_eq!(value(&*broker, "n").await.as_deref(), Some("1"));
}

/// A value with a time to live expires. An increment does not prolong it; a new write does.
pub async fn keys_end_in_time(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let mut seen = StoredValue::default();
    // Both commits must fit into the time, which takes longer on a busy machine.
    for ttl_ms in [300, 3_000, 30_000] {
        let began = Instant::now();
        let kept = set_for("1", ttl_ms);
        let writes = [("short", kept.clone()), ("prolonged", kept), ("long", set_for("1", 600_000))];
        commit(&*broker, step(&[], &writes)).await;
        commit(&*broker, step(&[], &[("short", StateWrite::Add(1)), ("prolonged", set("2"))])).await;
        seen = stored(&*broker, "short").await;
        if began.elapsed() < Duration::from_millis(ttl_ms) {
            break;
        }
    }
    eventually("the key ends", || async { value(&*broker, "short").await.is_none().then_some(()) }).await;
    assert_eq!(commit(&*broker, step(&[("short", seen.version)], &[])).await, SettleOutcome::Conflict);
    assert_eq!(commit(&*broker, step(&[("short", 0)], &[])).await, SettleOutcome::Done);
    eventually("it is forgotten", || async {
        broker.maintain().await.expect("the store is kept");
        (stored(&*broker, "long").await.keys == 2).then_some(())
    })
    .await;
    assert_eq!(value(&*broker, "prolonged").await.as_deref(), Some("2"));
    assert_eq!(value(&*broker, "long").await.as_deref(), Some("1"));
    commit(&*broker, step(&[], &[("short", StateWrite::Add(5))])).await;
    assert_eq!(value(&*broker, "short").await.as_deref(), Some("5"));
    assert_eq!(broker.stats().await.expect("totals").depth.state_keys, 3);
}

/// Each plugin has its own state keys.
pub async fn plugins_do_not_see_each_other(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    commit(&*broker, step(&[], &[("k", set("mine"))])).await;
    let others = StateChanges { plugin: "counter.2".into(), ..step(&[("k", 0)], &[("k", set("theirs"))]) };
    assert_eq!(commit(&*broker, others).await, SettleOutcome::Done);
    assert_eq!(value(&*broker, "k").await.as_deref(), Some("mine"));
    let theirs = broker.read_plugin_state("counter.2", "k").await.expect("the state is read");
    assert_eq!((theirs.value.as_deref(), theirs.keys), (Some(&b"theirs"[..]), 1));
}

/// G1: committed state survives a crash and is part of an export.
pub async fn state_survives_a_crash_and_moves_to_another_store(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    commit(&*broker, step(&[], &[("k", set("v")), ("n", StateWrite::Add(41)), ("end", set_for("1", 600_000))])).await;
    rig.kill(broker).await;
    let broker = rig.open(options()).await;
    assert_eq!(value(&*broker, "k").await.as_deref(), Some("v"));
    commit(&*broker, step(&[], &[("n", StateWrite::Add(1))])).await;
    assert_eq!(value(&*broker, "n").await.as_deref(), Some("42"));

    let mut exported = Vec::new();
    let mut snapshot = broker.snapshot().await.expect("a snapshot");
    while let Some(part) = snapshot.next().await.expect("a part") {
        assert_eq!(part.unreadable, [""; 0]);
        exported.extend(part.items.into_iter().filter(|item| matches!(item, SnapshotItem::State(_))));
    }
    drop(snapshot);
    assert_eq!(exported.len(), 3);
    assert_eq!(broker.restore(exported.clone()).await, Ok(vec![RestoreOutcome::Known; 3]));
    let gone = step(&[], &[("k", StateWrite::Delete), ("n", StateWrite::Delete), ("end", StateWrite::Delete)]);
    commit(&*broker, gone).await;
    assert_eq!(broker.restore(exported.clone()).await, Ok(vec![RestoreOutcome::Done; 3]));
    assert_eq!(value(&*broker, "n").await.as_deref(), Some("42"));
    let over = ExportedState { plugin: PLUGIN.into(), key: "over".into(), value: "1".into(), until: Some(now()) };
    assert_eq!(broker.restore(vec![SnapshotItem::State(over)]).await, Ok(vec![RestoreOutcome::Expired]));
    assert_eq!(stored(&*broker, "end").await.keys, 3);
    commit(&*broker, step(&[], &[("n", StateWrite::Add(1))])).await;
    assert_eq!(value(&*broker, "n").await.as_deref(), Some("43"));
}

/// G12: the store counts the bytes of a plugin's state, for few large values and many small ones, and after deletions.
pub async fn the_size_of_a_plugins_state_is_known(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let size = async |broker: &dyn Broker| stored(broker, "k").await.size_bytes;
    let large = "x".repeat(50_000);
    assert_eq!(
        commit(&*broker, step(&[], &[("k", set(&large)), ("n", StateWrite::Add(1))])).await,
        SettleOutcome::Done
    );
    let with_large = size(&*broker).await;
    assert!((50_000..51_000).contains(&with_large), "{with_large}");
    let names: Vec<String> = (0..200).map(|n| format!("small {n}")).collect();
    let small: Vec<(&str, StateWrite)> = names.iter().map(|name| (name.as_str(), set(""))).collect();
    assert_eq!(commit(&*broker, step(&[], &small)).await, SettleOutcome::Done);
    let with_small = size(&*broker).await;
    assert!(with_small > with_large + 200 * 100, "names and keys take room: {with_small}");
    assert_eq!(commit(&*broker, step(&[], &[("k", set("y"))])).await, SettleOutcome::Done);
    let less = size(&*broker).await;
    assert!((with_small - 49_999).abs_diff(less) < 10, "{less}");
    rig.kill(broker).await;

    let broker = rig.open(options()).await;
    assert_eq!(size(&*broker).await, less);
    let gone: Vec<(&str, StateWrite)> = names.iter().map(|name| (name.as_str(), StateWrite::Delete)).collect();
    let gone = [&gone[..], &[("k", StateWrite::Delete), ("n", StateWrite::Delete)]].concat();
    assert_eq!(commit(&*broker, step(&[], &gone)).await, SettleOutcome::Done);
    assert_eq!(size(&*broker).await, 0);
    commit(&*broker, step(&[], &[("brief", set_for(&large, 1))])).await;
    eventually("what has ended takes nothing", || async {
        broker.maintain().await.expect("maintained");
        (size(&*broker).await == 0).then_some(())
    })
    .await;
}

/// All state of a plugin can be removed, and that of others stays.
pub async fn the_state_of_a_plugin_can_be_removed(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let names: Vec<String> = (0..700).map(|n| n.to_string()).collect();
    for part in names.chunks(100) {
        let writes: Vec<(&str, StateWrite)> = part.iter().map(|name| (name.as_str(), set_for("v", 600_000))).collect();
        assert_eq!(commit(&*broker, step(&[], &writes)).await, SettleOutcome::Done);
    }
    let other = StateChanges { plugin: "other".into(), ..step(&[], &[("k", set("stays"))]) };
    assert_eq!(commit(&*broker, other).await, SettleOutcome::Done);
    let seen = stored(&*broker, "7").await;
    assert_eq!(broker.remove_plugin_state("nobody", None).await, Ok(0));
    assert_eq!(broker.remove_plugin_state(PLUGIN, None).await, Ok(700));
    let gone = stored(&*broker, "7").await;
    assert_eq!((gone.value, gone.version, gone.keys, gone.size_bytes), (None, 0, 0, 0));
    assert_eq!(broker.stats().await.expect("totals").depth.state_keys, 1);
    assert_eq!(broker.read_plugin_state("other", "k").await.expect("read").value.as_deref(), Some(&b"stays"[..]));
    assert_eq!(
        commit(&*broker, step(&[("7", seen.version)], &[])).await,
        SettleOutcome::Conflict,
        "it was seen and is gone"
    );
    assert_eq!(commit(&*broker, step(&[("7", 0)], &[("7", set("again"))])).await, SettleOutcome::Done);
    assert_eq!(value(&*broker, "7").await.as_deref(), Some("again"));
}
