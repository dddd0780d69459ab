//! Promises about moving to another store: each item moves once and continues as before.
//!
//! Covers G2 and G6 over [`StoreTransfer::snapshot`] and [`StoreTransfer::restore`]. Another namespace is another
//! store.

use std::collections::HashMap;

use super::*;
use crate::broker::{
    AcceptedEvent, BrokerStats, Error, ExportedEvent, ExportedKey, FailedEventChange, MAX_PAGE_BYTES, QueueDepth,
    RestoreOutcome, SnapshotItem,
};

/// A store with events in every state.
struct FilledStore {
    queued: EventId,
    /// With the delivery that the consumer held during the snapshot.
    running: Delivery,
    delayed: EventId,
    delayed_until: Timestamp,
    retrying: EventId,
    failed: EventId,
    processed: EventId,
}

async fn fill(broker: &dyn Broker) -> FilledStore {
    let mut known = appends("q", 1);
    known[0].idempotency = idempotency(1, 1);
    let queued = broker.append(known).await.expect("accepted")[0].id;
    let failing = deliver_one(broker, "a").await;
    assert_eq!(settle_one(broker, &failing, failed(FailureClass::Trap)).await, SettleOutcome::Done);
    let mut processing = appends("a", 1);
    processing[0].idempotency = idempotency(2, 2);
    broker.append(processing).await.expect("accepted");
    let processing = claim(broker, "a", 1).await.pop().expect("it is there");
    assert_eq!(settle_one(broker, &processing, Settlement::Processed).await, SettleOutcome::Done);
    let retrying = deliver_one(broker, "b").await;
    assert_eq!(settle_one(broker, &retrying, retry(60_000)).await, SettleOutcome::Done);
    let delayed_until = now().plus_ms(10_000);
    let mut delayed = appends("c", 1);
    delayed[0].start = DeliveryStart::At(delayed_until);
    let delayed = broker.append(delayed).await.expect("accepted")[0].id;
    let running = deliver_one(broker, "d").await;
    FilledStore {
        queued,
        running,
        delayed,
        delayed_until,
        retrying: retrying.record.event.id,
        failed: failing.record.event.id,
        processed: processing.record.event.id,
    }
}

/// All items of a snapshot, in their order.
pub(super) async fn snapshot(broker: &dyn Broker) -> Vec<SnapshotItem> {
    let mut snapshot = broker.snapshot().await.expect("a snapshot begins");
    let mut items = Vec::new();
    while let Some(part) = snapshot.next().await.expect("a part is read") {
        assert_eq!(part.unreadable, [""; 0]);
        items.extend(part.items);
    }
    assert_eq!(snapshot.next().await.expect("the end stays the end"), None);
    items
}

/// Totals and depths without the number of consumers, which varies.
async fn numbers(broker: &dyn Broker) -> BrokerStats {
    let stats = broker.stats().await.expect("totals");
    BrokerStats { depth: QueueDepth { consumers: 0, ..stats.depth }, ..stats }
}

fn waiting(items: &[SnapshotItem]) -> HashMap<EventId, ExportedEvent> {
    let waiting = items.iter().filter_map(|item| match item {
        SnapshotItem::Waiting(event) => Some((event.record.event.id, event.clone())),
        _ => None,
    });
    waiting.collect()
}

async fn other_store(rig: &dyn BrokerRig) -> std::sync::Arc<dyn Broker> {
    rig.open(BrokerOptions { namespace: "other".into(), ..options() }).await
}

/// Each item is complete and occurs once. Processed events are left out, and the store is unchanged.
pub async fn a_snapshot_holds_everything_that_can_go_on_once(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    assert_eq!(snapshot(&*broker).await, []);
    let filled = fill(&*broker).await;
    let before = broker.stats().await.expect("totals");
    let items = snapshot(&*broker).await;
    assert_eq!(broker.stats().await.expect("totals"), before, "reading changes nothing");
    assert_eq!(broker.snapshot().await.expect("a snapshot").expected_events(), 5);

    let events = waiting(&items);
    assert_eq!(events.len(), 4);
    let lanes =
        [(filled.queued, "q"), (filled.running.record.event.id, "d"), (filled.delayed, "c"), (filled.retrying, "b")];
    for (id, name) in lanes {
        let found = broker.find_event(id).await.expect("looked up").expect("known");
        let exported = &events[&id];
        assert_eq!((exported.lane.as_str(), exported.due), (name, found.due));
        // An attempt under way counts as made, so the next one has the next number.
        let begun = u32::from(found.state == EventState::Running);
        assert_eq!(exported.record, EventRecord { attempts_made: found.record.attempts_made + begun, ..found.record });
    }
    assert_eq!(events[&filled.delayed].due, Some(filled.delayed_until));
    let failed: Vec<_> = items.iter().filter(|item| matches!(item, SnapshotItem::Failed(_))).cloned().collect();
    assert_eq!(
        failed,
        all_ended(&*broker, EndKind::Failed).await.into_iter().map(SnapshotItem::Failed).collect::<Vec<_>>()
    );

    let mut keys: Vec<ExportedKey> = Vec::new();
    for item in &items[..2] {
        let SnapshotItem::Key(key) = item else { panic!("keys come first: {item:?}") };
        keys.push(key.clone());
    }
    keys.sort_by_key(|key| key.idempotency.key);
    assert_eq!(keys.iter().map(|key| key.id).collect::<Vec<_>>(), [filled.queued, filled.processed]);
    assert_eq!(
        keys.iter().map(|key| Some(key.idempotency.clone())).collect::<Vec<_>>(),
        [idempotency(1, 1), idempotency(2, 2)]
    );
    let window_ms = i64::try_from(options().retention.idempotency_ms).expect("a day");
    assert!(
        keys.iter().all(|key| (0..20_000).contains(&(now().unix_ms() + window_ms - key.until.unix_ms()))),
        "{keys:?}"
    );
    assert_eq!(items.len(), 4 + 1 + 2);
    assert_eq!(
        settle_one(&*broker, &filled.running, Settlement::Processed).await,
        SettleOutcome::Done,
        "and takes nothing"
    );
}

/// A large snapshot has parts of bounded size, in the order in which events wait, without duplicates.
pub async fn a_large_snapshot_comes_in_parts_and_in_order(rig: &dyn BrokerRig) {
    const LARGE_BYTES: usize = 200 * 1024;
    let broker = rig.open(options()).await;
    let mut expected: HashMap<&str, Vec<EventId>> = HashMap::new();
    let due = now().plus_ms(600_000);
    for round in 0..6 {
        for name in ["a", "b"] {
            let accepted = broker.append(appends(name, 60)).await.expect("accepted");
            expected.entry(name).or_default().extend(accepted.iter().map(|accepted| accepted.id));
        }
        // Many events are due in the same millisecond, and span several parts.
        let mut later = appends("due", 60);
        for (place, append) in later.iter_mut().enumerate() {
            append.start = DeliveryStart::At(due);
            append.idempotency = idempotency(u8::try_from(place).expect("a small number"), round);
            if let Some(idempotency) = &mut append.idempotency {
                idempotency.key[1] = round;
            }
        }
        let accepted = broker.append(later).await.expect("accepted");
        expected.entry("due").or_default().extend(accepted.iter().map(|accepted| accepted.id));
    }
    let n_large = MAX_PAGE_BYTES / LARGE_BYTES + 30;
    for _ in 0..n_large {
        let data = Some(EventData::binary(vec![7; LARGE_BYTES]));
        let append = append_to("large", Event { data, ..event("large") });
        expected.entry("large").or_default().push(append.record.event.id);
        broker.append(vec![append]).await.expect("accepted");
    }
    let mut snapshot = broker.snapshot().await.expect("a snapshot begins");
    let (mut found, mut n_parts, mut n_keys): (HashMap<String, Vec<EventId>>, _, _) = (HashMap::new(), 0, 0);
    while let Some(part) = snapshot.next().await.expect("a part is read") {
        let mut size_bytes = 0;
        n_parts += 1;
        for item in part.items {
            match item {
                SnapshotItem::Waiting(event) => {
                    size_bytes += event.record.size_bytes();
                    found.entry(event.lane.to_string()).or_default().push(event.record.event.id);
                }
                SnapshotItem::Key(_) => n_keys += 1,
                SnapshotItem::Failed(_) | SnapshotItem::State(_) => panic!("nothing failed or kept anything: {item:?}"),
            }
        }
        assert!(size_bytes <= MAX_PAGE_BYTES + 10 * LARGE_BYTES, "{size_bytes} bytes in a part");
    }
    assert!(n_parts > 5 && n_keys == 360, "{n_parts} parts, {n_keys} keys");
    for name in ["a", "b", "large"] {
        assert_eq!(found[name], expected[name], "lane {name}");
    }
    let mut due = found["due"].clone();
    due.sort();
    expected.get_mut("due").expect("filled").sort();
    assert_eq!(due, expected["due"]);
}

/// G5, G6: in another store everything continues as before, and counts as accepted there.
pub async fn what_is_restored_goes_on_where_it_stood(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let filled = fill(&*broker).await;
    let items = snapshot(&*broker).await;
    let story = all_ended(&*broker, EndKind::Failed).await;
    rig.kill(broker).await;
    let exported = waiting(&items);
    let other = other_store(rig).await;
    assert_eq!(other.restore(items.clone()).await, Ok(vec![RestoreOutcome::Done; 7]));
    rig.kill(other).await;

    let other = other_store(rig).await;
    let stats = other.stats().await.expect("totals");
    assert_eq!((stats.depth.waiting(), stats.depth.scheduled, stats.depth.failed_kept), (4, 2, 1));
    assert_eq!((stats.counters.accepted, stats.counters.failed), (5, 1));
    assert_eq!(stats.counters.failed_by_class, BTreeMap::from([(FailureClass::Trap, 1)]));
    assert_eq!(all_ended(&*other, EndKind::Failed).await, story);
    assert_eq!(state(&*other, filled.processed).await, None);
    for (id, expected) in [(filled.delayed, EventState::Scheduled), (filled.retrying, EventState::Retrying)] {
        let found = other.find_event(id).await.expect("looked up").expect("known");
        assert_eq!((found.state, found.due), (expected, exported[&id].due));
        assert_eq!(found.record, exported[&id].record);
    }
    for (name, id, attempt) in [("q", filled.queued, 1), ("d", filled.running.record.event.id, 2)] {
        let delivery = claim(&*other, name, 9).await.pop().expect("it waits in its lane");
        assert_eq!((delivery.record.event.id, delivery.attempt()), (id, attempt));
        assert_eq!(delivery.record, exported[&id].record);
        assert_eq!(settle_one(&*other, &delivery, Settlement::Processed).await, SettleOutcome::Done);
    }
    for (key, id) in [(1, filled.queued), (2, filled.processed)] {
        let mut again = appends("q", 1);
        again[0].idempotency = idempotency(key, key);
        assert_eq!(other.append(again.clone()).await, Ok(vec![AcceptedEvent { id, duplicate: true }]));
        again[0].idempotency = idempotency(key, 9);
        assert_eq!(other.append(again).await, Err(Error::Conflict(vec![0])));
    }
    let delivery = eventually("the delayed event is delivered", || async {
        promote_all(&*other).await;
        claim(&*other, "c", 9).await.pop()
    })
    .await;
    assert_eq!(delivery.record.event.id, filled.delayed);
    assert!(now() >= filled.delayed_until, "it came before its time");
    assert_eq!(state(&*other, filled.retrying).await, Some(EventState::Retrying));
    assert_eq!(other.replay(filled.failed, &lane("a"), None).await, Ok(FailedEventChange::Done));
    assert_eq!(claim(&*other, "a", 9).await[0].record.replays, 1);
}

/// Also if the first restore was partial.
pub async fn restoring_again_changes_nothing(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    fill(&*broker).await;
    let mut items = snapshot(&*broker).await;
    rig.kill(broker).await;
    let other = other_store(rig).await;
    let some: Vec<_> = items.iter().step_by(2).cloned().collect();
    assert_eq!(other.restore(some).await, Ok(vec![RestoreOutcome::Done; 4]));
    let whole = other.restore(items.clone()).await.expect("restored");
    for (place, restored) in whole.into_iter().enumerate() {
        assert_eq!(restored, if place % 2 == 0 { RestoreOutcome::Known } else { RestoreOutcome::Done }, "item {place}");
    }
    let before = (numbers(&*other).await, snapshot(&*other).await);
    rig.kill(other).await;
    let other = other_store(rig).await;
    // The id or the key alone decides whether an item is known.
    for item in &mut items {
        match item {
            SnapshotItem::Key(key) => key.until = key.until.plus_ms(60_000),
            SnapshotItem::Waiting(event) => event.due = Some(now()),
            SnapshotItem::Failed(record) => record.replays = 7,
            SnapshotItem::State(state) => state.value = "other".into(),
        }
    }
    let twice = [items.clone(), items].concat();
    assert_eq!(other.restore(twice).await, Ok(vec![RestoreOutcome::Known; 14]));
    assert_eq!((numbers(&*other).await, snapshot(&*other).await), before);
}

/// G2: another restore neither brings an ended event back nor disturbs one that is being handled.
pub async fn what_ended_is_not_brought_back_by_restoring(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let mut items = Vec::new();
    for append in appends("a", 4) {
        items.push(SnapshotItem::Waiting(ExportedEvent { record: append.record, lane: append.lane, due: None }));
    }
    assert_eq!(broker.restore(items.clone()).await, Ok(vec![RestoreOutcome::Done; 4]));
    let deliveries = claim(&*broker, "a", 3).await;
    let settlements = [Settlement::Processed, failed(FailureClass::Reject), retry(60_000)];
    for (delivery, settlement) in deliveries.iter().zip(settlements) {
        assert_eq!(settle_one(&*broker, delivery, settlement).await, SettleOutcome::Done);
    }
    let held = claim(&*broker, "a", 1).await.pop().expect("the last one");
    let before = broker.stats().await.expect("totals");
    assert_eq!(broker.restore(items).await, Ok(vec![RestoreOutcome::Known; 4]));
    assert_eq!(broker.stats().await.expect("totals"), before);
    let expected = [EventState::Processed, EventState::Failed, EventState::Retrying, EventState::Running];
    for (delivery, expected) in deliveries.iter().chain([&held]).zip(expected) {
        assert_eq!(state(&*broker, delivery.record.event.id).await, Some(expected));
    }
    assert_eq!(settle_one(&*broker, &held, Settlement::Processed).await, SettleOutcome::Done);
}

/// G6, G12: a key whose window is over is not restored. The depth limit does not apply to restored events.
pub async fn windows_end_and_limits_are_for_new_events(rig: &dyn BrokerRig) {
    let broker = rig.open(BrokerOptions { max_waiting: 1, ..options() }).await;
    let key = |key, until| {
        let idempotency = idempotency(key, 1).expect("a key");
        SnapshotItem::Key(ExportedKey { idempotency, id: EventId::new(), until })
    };
    let mut items = vec![key(1, now()), key(2, now().plus_ms(10_000)), key(3, now().plus_ms(60_000))];
    for append in appends("a", 3) {
        items.push(SnapshotItem::Waiting(ExportedEvent { record: append.record, lane: append.lane, due: None }));
    }
    let restored = broker.restore(items).await.expect("restored");
    assert_eq!(restored[..3], [RestoreOutcome::Expired, RestoreOutcome::Done, RestoreOutcome::Done]);
    assert!(matches!(broker.append(appends("a", 1)).await, Err(Error::LaneFull { waiting: 3, limit: 1, .. })));
    for delivery in claim(&*broker, "a", 3).await {
        assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Done);
    }
    let is_known = async |key: u8| {
        let mut events = appends("z", 1);
        events[0].idempotency = idempotency(key, 1);
        let accepted = broker.append(events).await.expect("accepted")[0];
        for delivery in claim(&*broker, "z", 9).await {
            assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Done);
        }
        accepted.duplicate
    };
    assert!(is_known(2).await && is_known(3).await && !is_known(1).await);
    eventually("the window of a restored key ends", || async { (!is_known(2).await).then_some(()) }).await;
}
