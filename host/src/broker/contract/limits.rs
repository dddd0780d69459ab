//! Limits of one plugin: how many of its events wait, and what happens to a deferred attempt.
//!
//! Covers the limits by plugin of G8 and G12.

use futures_util::future::join_all;

use super::*;
use crate::broker::{Error, RetentionLimits};

/// A lane at its limit refuses its own events and no others. A limit of its own replaces the usual one.
pub async fn a_lane_that_is_full_refuses_its_own_events_only(rig: &dyn BrokerRig) {
    let broker = rig.open(BrokerOptions { max_waiting: 20, ..options() }).await;
    broker.append(appends("a", 4)).await.expect("a fifth is its own");
    let full = broker.append(appends("a", 1)).await;
    assert_eq!(full, Err(Error::LaneFull { lane: lane("a"), waiting: 4, limit: 4 }));
    assert!(full.expect_err("it is full").is_transient(), "it may go later");
    broker.append(appends("b", 1)).await.expect("another plugin's events are taken");
    let both = [appends("b", 1), appends("a", 1)].concat();
    assert!(matches!(broker.append(both).await, Err(Error::LaneFull { waiting: 4, .. })), "all of a request or none");
    assert_eq!(claim(&*broker, "b", 9).await.len(), 1);

    broker.limit_lanes(BTreeMap::from([(lane("a"), 6), (lane("c"), 1)]));
    broker.append(appends("a", 2)).await.expect("its settings allow six");
    assert!(matches!(broker.append(appends("a", 1)).await, Err(Error::LaneFull { waiting: 6, limit: 6, .. })));
    let full = broker.append(appends("c", 2)).await;
    assert_eq!(full, Err(Error::LaneFull { lane: lane("c"), waiting: 0, limit: 1 }));
}

/// Running and scheduled events count for their lane, also after a crash, a retry, a promotion and a replay.
pub async fn what_has_not_ended_counts_for_its_lane_wherever_it_stands(rig: &dyn BrokerRig) {
    let broker = rig.open(BrokerOptions { max_waiting: 15, ..short_lease() }).await;
    let mut events = appends("a", 3);
    events[0].start = DeliveryStart::InMs(600_000);
    broker.append(events).await.expect("three are its own");
    let is_full = async |broker: &dyn Broker, waiting: u64| {
        let full = Err(Error::LaneFull { lane: lane("a"), waiting, limit: 3 });
        assert_eq!(broker.append(appends("a", 4 - usize::try_from(waiting).expect("few"))).await, full);
        let by_lane = broker.stats().await.expect("totals").depth.waiting_by_lane;
        assert_eq!(by_lane.get("a"), Some(&waiting), "{by_lane:?}");
    };
    is_full(&*broker, 3).await;
    let held = claim(&*broker, "a", 2).await;
    is_full(&*broker, 3).await;
    assert_eq!(settle_one(&*broker, &held[0], retry(0)).await, SettleOutcome::Done);
    is_full(&*broker, 3).await;
    eventually("the retry is due", || async { (promote_all(&*broker).await == 1).then_some(()) }).await;
    is_full(&*broker, 3).await;
    assert_eq!(settle_one(&*broker, &held[1], failed(FailureClass::Reject)).await, SettleOutcome::Done);
    is_full(&*broker, 2).await;
    rig.kill(broker).await;

    let broker = rig.open(BrokerOptions { max_waiting: 15, ..short_lease() }).await;
    is_full(&*broker, 2).await;
    let again = broker.replay(held[1].receipt.event_id, &lane("a"), None).await.expect("answered");
    assert_eq!(again, crate::broker::FailedEventChange::Done);
    is_full(&*broker, 3).await;
    let moved = claim(&*broker, "a", 1).await.pop().expect("two wait");
    let elsewhere = SettleRequest { lane: lane("b"), ..settle(&moved, Settlement::Returned, Vec::new()) };
    assert_eq!(broker.settle(vec![elsewhere]).await.expect("answered"), [SettleOutcome::Done]);
    is_full(&*broker, 2).await;
    for delivery in claim(&*broker, "a", 9).await {
        assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Done);
    }
    is_full(&*broker, 1).await;
}

/// Events that handlers publish pass every limit, and then block only their own lane. Several lanes at their limits do
/// not block a lane that holds few events.
pub async fn backlogs_leave_room_for_other_lanes(rig: &dyn BrokerRig) {
    let broker = rig.open(BrokerOptions { max_waiting: 50, ..options() }).await;
    let loops = deliver_one(&*broker, "a").await;
    let published = settle(&loops, Settlement::Processed, appends("a", 200));
    assert_eq!(broker.settle(vec![published]).await.expect("answered"), [SettleOutcome::Done]);
    assert!(matches!(broker.append(appends("a", 1)).await, Err(Error::LaneFull { waiting: 200, limit: 10, .. })));
    for name in ["b", "c", "d", "e"] {
        broker.append(appends(name, 10)).await.expect("what another lane holds beyond its limit does not count");
    }
    broker.append(appends("f", 1)).await.expect("it holds little");
    assert_eq!(broker.append(appends("f", 1)).await, Err(Error::Full { waiting: 241, limit: 50 }));
    broker.append(appends("g", 1)).await.expect("it holds little");
    assert_eq!(broker.append(appends("h", 2)).await, Err(Error::Full { waiting: 242, limit: 50 }));
}

/// Events that no plugin handles share one limit.
pub async fn unhandled_types_share_a_fifth_of_the_limit(rig: &dyn BrokerRig) {
    let broker = rig.open(BrokerOptions { max_waiting: 10, ..options() }).await;
    broker.append(appends("_", 2)).await.expect("a fifth");
    let full = broker.append(appends("_", 1)).await.expect_err("no more than that");
    assert!(full.to_string().contains("no plugin handles"), "{full}");
    broker.append(appends("a", 1)).await.expect("those of a plugin are taken");
}

/// Contract section 7: a deferred attempt does not count, has no effects, and returns in time.
pub async fn a_deferred_event_returns_as_if_not_tried(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let first = deliver_one(&*broker, "a").await;
    assert_eq!(settle_one(&*broker, &first, Settlement::Deferred { delay_ms: 600_000 }).await, SettleOutcome::Done);
    assert_eq!(
        settle_one(&*broker, &first, Settlement::Deferred { delay_ms: 0 }).await,
        SettleOutcome::Done,
        "it is repeated"
    );
    let found = broker.find_event(first.receipt.event_id).await.expect("looked up").expect("known");
    assert!(found.due.is_some_and(|due| due > now().plus_ms(60_000)), "{found:?}");
    assert!(claim(&*broker, "a", 9).await.is_empty());

    let second = deliver_one(&*broker, "a").await;
    assert_eq!(settle_one(&*broker, &second, Settlement::Deferred { delay_ms: 1 }).await, SettleOutcome::Done);
    rig.kill(broker).await;
    let broker = rig.open(options()).await;
    let again = eventually("what was put off comes back", || async {
        promote_all(&*broker).await;
        claim(&*broker, "a", 1).await.pop()
    })
    .await;
    assert_eq!(again.record, EventRecord { deferrals: 1, ..second.record });
    assert_eq!((again.attempt(), again.deliveries), (1, 1));
    let stats = broker.stats().await.expect("totals");
    assert_eq!((stats.counters.deferred, stats.counters.retried, stats.counters.failed), (2, 0, 0));
    assert_eq!(stats.depth.waiting_by_lane.get("a"), Some(&2));
    assert_eq!(settle_one(&*broker, &again, Settlement::Processed).await, SettleOutcome::Done);
}

/// An event keeps the length of its chain of causes.
pub async fn an_event_keeps_how_many_caused_it(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let deep = append_to("a", Event { cause: Some(EventId::new()), depth: 63, ..event("loop") });
    broker.append(vec![deep]).await.expect("accepted");
    let delivery = claim(&*broker, "a", 1).await.pop().expect("it waits");
    assert_eq!(delivery.record.event.depth, 63);
    let child = append_to("a", Event { cause: Some(EventId::new()), depth: 64, ..event("loop") });
    let published = settle(&delivery, Settlement::Processed, vec![child]);
    assert_eq!(broker.settle(vec![published]).await.expect("answered"), [SettleOutcome::Done]);
    assert_eq!(claim(&*broker, "a", 1).await.pop().expect("it waits").record.event.depth, 64);
}

/// Processes `n` events of a lane and returns their ids, oldest first.
async fn process(broker: &dyn Broker, name: &str, n: usize) -> Vec<EventId> {
    broker.append(appends(name, n)).await.expect("accepted");
    let claimed = claim(broker, name, n).await;
    assert_eq!(claimed.len(), n);
    let settles = claimed.iter().map(|delivery| settle(delivery, Settlement::Processed, Vec::new())).collect();
    assert_eq!(broker.settle(settles).await.expect("settled"), vec![SettleOutcome::Done; n]);
    claimed.iter().map(|delivery| delivery.receipt.event_id).collect()
}

/// The events among these that the store still holds.
async fn known(broker: &dyn Broker, ids: &[EventId]) -> Vec<EventId> {
    let mut known = Vec::new();
    for id in ids {
        if state(broker, *id).await.is_some() {
            known.push(*id);
        }
    }
    known
}

/// G8: the lane with the largest history loses its oldest events first, also after the store was opened again.
pub async fn the_history_of_one_plugin_pushes_no_other_out(rig: &dyn BrokerRig) {
    let retention = RetentionLimits { processed_max: 20, ..BrokerOptions::default().retention };
    let of_both = || BrokerOptions { retention, ..options() };
    let broker = rig.open(of_both()).await;
    let quiet = process(&*broker, "quiet", 3).await;
    let mut loud = process(&*broker, "loud", 300).await;
    while broker.maintain().await.expect("maintained") {}
    assert_eq!(known(&*broker, &quiet).await, quiet);
    assert_eq!(known(&*broker, &loud).await, loud[283..], "the newest of the one that has the most");
    rig.kill(broker).await;

    let broker = rig.open(of_both()).await;
    loud.extend(process(&*broker, "loud", 30).await);
    while broker.maintain().await.expect("maintained") {}
    assert_eq!(known(&*broker, &quiet).await, quiet);
    assert_eq!(known(&*broker, &loud).await, loud[313..]);

    let mut second = quiet;
    second.extend(process(&*broker, "quiet", 100).await);
    loud.extend(process(&*broker, "loud", 5).await);
    while broker.maintain().await.expect("maintained") {}
    let (kept_second, kept_loud) = (known(&*broker, &second).await, known(&*broker, &loud).await);
    assert_eq!(kept_second.len() + kept_loud.len(), 20);
    assert!(kept_second.len() >= 8 && kept_loud.len() >= 8, "{} and {}", kept_second.len(), kept_loud.len());
    assert_eq!(kept_second, second[second.len() - kept_second.len()..]);
    assert_eq!(kept_loud, loud[loud.len() - kept_loud.len()..]);
}

fn large(n: usize) -> Vec<AppendRequest> {
    let event = || Event { data: Some(EventData::text("x".repeat(10_000))), ..event("order.paid") };
    (0..n).map(|_| append_to("a", event())).collect()
}

/// G12: the store counts the waiting bytes of each lane, and a lane at its limit refuses only its own events.
pub async fn bytes_that_wait_are_counted_and_limited_by_lane(rig: &dyn BrokerRig) {
    let limited = || BrokerOptions { max_waiting_bytes: 55_000, ..options() };
    let broker = rig.open(limited()).await;
    let bytes = async |broker: &dyn Broker| {
        let depth = broker.stats().await.expect("totals").depth;
        depth.waiting_bytes_by_lane.get("a").copied().unwrap_or(0)
    };
    let mut events = large(6);
    events[0].start = DeliveryStart::InMs(600_000);
    broker.append(events).await.expect("one request may be as large as it is");
    let all = bytes(&*broker).await;
    assert!((60_000..66_000).contains(&all), "{all}");
    let heavy = broker.append(large(1)).await;
    assert!(matches!(heavy, Err(Error::LaneHeavy { .. })), "{heavy:?}");
    broker.append(appends("b", 1)).await.expect("another plugin's events are taken");

    let held = claim(&*broker, "a", 4).await;
    assert_eq!(bytes(&*broker).await, all, "what is handled counts");
    assert_eq!(settle_one(&*broker, &held[0], Settlement::Processed).await, SettleOutcome::Done);
    assert_eq!(settle_one(&*broker, &held[0], Settlement::Processed).await, SettleOutcome::Done, "it is repeated");
    assert_eq!(settle_one(&*broker, &held[1], failed(FailureClass::Reject)).await, SettleOutcome::Done);
    assert_eq!(settle_one(&*broker, &held[2], Settlement::Returned).await, SettleOutcome::Done);
    let left = bytes(&*broker).await;
    assert!((40_000..44_000).contains(&left), "{left}");
    assert_eq!(settle_one(&*broker, &held[3], Settlement::Processed).await, SettleOutcome::Done);
    let left = bytes(&*broker).await;
    rig.kill(broker).await;

    let broker = rig.open(BrokerOptions { lease_ms: SHORT_LEASE_MS, ..limited() }).await;
    assert_eq!(bytes(&*broker).await, left);
    broker.append(large(1)).await.expect("there is room again");
    let left = bytes(&*broker).await;
    let replayed = broker.replay(held[1].receipt.event_id, &lane("a"), None).await.expect("answered");
    assert_eq!(replayed, crate::broker::FailedEventChange::Done);
    let more = bytes(&*broker).await - left;
    assert!((10_000..12_000).contains(&more), "{more}");
}

/// G8, G12: many clients at once fill a lane up to its limit of bytes and no further, although nobody looks at the
/// totals in between. What fails meanwhile counts at once.
pub async fn clients_fill_a_lane_up_to_its_limit_of_bytes_and_no_further(rig: &dyn BrokerRig) {
    const LIMIT_BYTES: u64 = 55_000;
    let broker = rig.open(BrokerOptions { max_waiting_bytes: LIMIT_BYTES, ..options() }).await;
    let fill = async |requests: usize| {
        let answers = join_all((0..requests).map(|_| broker.append(large(1)))).await;
        let (accepted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        for refusal in refused {
            assert!(matches!(refusal, Err(Error::LaneHeavy { limit_bytes: LIMIT_BYTES, .. })), "{refusal:?}");
        }
        accepted.len()
    };
    assert_eq!(fill(20).await, 5, "so many fit");
    let held = claim(&*broker, "a", 3).await;
    for delivery in &held[..2] {
        assert_eq!(settle_one(&*broker, delivery, failed(FailureClass::Reject)).await, SettleOutcome::Done);
    }
    assert_eq!(fill(1).await, 0, "failed events count");
    let (mut two, key) = (large(2), Idempotency { key: [7; 32], fingerprint: [0; 32] });
    two[0].idempotency = Some(key.clone());
    assert_eq!(settle_one(&*broker, &held[2], Settlement::Processed).await, SettleOutcome::Done);
    let refusal = broker.append(two.clone()).await;
    assert!(matches!(refusal, Err(Error::LaneHeavy { .. })), "one of them would fit: {refusal:?}");
    broker.append(vec![two.remove(0)]).await.expect("the refused request took nothing, its key included");
    let again = AppendRequest { idempotency: Some(key), ..large(1).remove(0) };
    let known = broker.append(vec![again]).await.expect("an event that the store has takes no room");
    assert!(known[0].duplicate);
    let depth = broker.stats().await.expect("totals").depth;
    let held_bytes = depth.waiting_bytes_by_lane["a"] + depth.failed_bytes_by_lane["a"];
    assert!(held_bytes <= LIMIT_BYTES, "{held_bytes}");
    let counters = broker.stats().await.expect("totals").counters;
    assert_eq!((counters.accepted, counters.duplicates), (6, 1));
}

/// G8, G12: history is trimmed by bytes as well, from the lane with the most bytes, even if these are few events.
pub async fn few_large_results_push_no_history_out(rig: &dyn BrokerRig) {
    let retention = RetentionLimits { processed_max_bytes: 100_000, ..BrokerOptions::default().retention };
    let broker = rig.open(BrokerOptions { retention, ..options() }).await;
    let quiet = process(&*broker, "quiet", 30).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        broker.append(large(5)).await.expect("accepted");
        for delivery in claim(&*broker, "a", 5).await {
            ids.push(delivery.receipt.event_id);
            assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Done);
        }
    }
    while broker.maintain().await.expect("maintained") {}
    assert_eq!(known(&*broker, &quiet).await, quiet);
    let kept = known(&*broker, &ids).await;
    assert!((4..10).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept, ids[ids.len() - kept.len()..], "the newest");
    let bytes: u64 = broker.stats().await.expect("totals").depth.kept_bytes_by_lane.values().sum();
    assert!(bytes <= 100_000, "{bytes}");
}
