//! Promises about failed events that are discarded: ended for good, kept for a while, and out of the way.

use super::transfer::snapshot;
use super::*;
use crate::broker::{EndedQuery, FailedEventChange, RestoreOutcome, RetentionLimits, SnapshotItem};

const REASON: &str = "the shop is closed";

/// Lets an event of a lane fail and returns its id.
async fn fail_one(broker: &dyn Broker, name: &str, size_bytes: usize) -> EventId {
    let data = Some(EventData::text(format!("\"{}\"", "x".repeat(size_bytes))));
    broker.append(vec![append_to(name, Event { data, ..event("order.paid") })]).await.expect("accepted");
    let delivery = claim(broker, name, 1).await.pop().expect("it waits");
    assert_eq!(settle_one(broker, &delivery, failed(FailureClass::Reject)).await, SettleOutcome::Done);
    delivery.record.event.id
}

async fn discard(broker: &dyn Broker, id: EventId) -> FailedEventChange {
    broker.discard(id, REASON, None).await.expect("answered")
}

fn bytes_of(by_lane: &BTreeMap<String, u64>, name: &str) -> u64 {
    by_lane.get(name).copied().unwrap_or(0)
}

/// G2: a discarded event is found with its reason and its failure, and nothing brings it back.
pub async fn a_discarded_event_has_ended_for_good(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let id = fail_one(&*broker, "a", 10_000).await;
    let other = fail_one(&*broker, "a", 10_000).await;
    let before = broker.stats().await.expect("totals").depth;
    let whole = bytes_of(&before.failed_bytes_by_lane, "a");
    assert!((20_000..23_000).contains(&whole), "{whole}");
    let failed = broker.find_event(id).await.expect("looked up").expect("known").record;

    assert_eq!(discard(&*broker, id).await, FailedEventChange::Done);
    assert_eq!(discard(&*broker, id).await, FailedEventChange::NotFailed(EventState::Discarded));
    let replayed = broker.replay(id, &lane("a"), None).await.expect("answered");
    assert_eq!(replayed, FailedEventChange::NotFailed(EventState::Discarded));
    rig.kill(broker).await;

    let broker = rig.open(options()).await;
    let found = broker.find_event(id).await.expect("looked up").expect("it is kept");
    assert_eq!((found.state, found.due), (EventState::Discarded, None));
    let noted = found.record.end.as_ref().and_then(|end| end.discarded.clone()).expect("it says so");
    assert_eq!(noted.reason, REASON);
    assert_eq!(found.record, failed.discarded(noted.at, REASON), "everything else is as it was");
    let listed: Vec<_> = all_ended(&*broker, EndKind::Failed).await.iter().map(|record| record.event.id).collect();
    assert_eq!(listed, [other]);
    assert!(all_ended(&*broker, EndKind::Processed).await.is_empty());
    assert!(claim(&*broker, "a", 9).await.is_empty());
    let stats = broker.stats().await.expect("totals");
    assert_eq!((stats.counters.failed, stats.counters.discarded, stats.counters.replayed), (2, 1, 0));
    assert_eq!((stats.depth.failed_kept, stats.depth.processed_kept), (1, 0));
    let left = bytes_of(&stats.depth.failed_bytes_by_lane, "a");
    assert!((10_000..11_500).contains(&left), "{left}");
    let kept = bytes_of(&stats.depth.kept_bytes_by_lane, "a");
    assert!((10_000..11_500).contains(&kept), "it counts as history: {kept}");
}

/// A discard of an event that has not failed changes nothing.
pub async fn only_failed_events_are_discarded(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    assert_eq!(discard(&*broker, EventId::new()).await, FailedEventChange::Unknown);
    let waiting = broker.append(appends("b", 1)).await.expect("accepted")[0].id;
    assert_eq!(discard(&*broker, waiting).await, FailedEventChange::NotFailed(EventState::Queued));
    let delivery = deliver_one(&*broker, "a").await;
    let id = delivery.record.event.id;
    assert_eq!(discard(&*broker, id).await, FailedEventChange::NotFailed(EventState::Running));
    assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Done);
    assert_eq!(discard(&*broker, id).await, FailedEventChange::NotFailed(EventState::Processed));
    assert_eq!(claim(&*broker, "b", 9).await.len(), 1);
    assert_eq!(broker.stats().await.expect("totals").counters.discarded, 0);
}

/// Of a discard and a replay at the same time, exactly one takes effect.
pub async fn a_discard_and_a_replay_at_once_have_one_winner(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let (mut discarded, mut replayed) = (0, 0);
    for round in 0..20 {
        let id = fail_one(&*broker, "a", 10).await;
        let target = lane("b");
        // Both orders of sending, since the first usually wins.
        let (discard, replay) = if round % 2 == 0 {
            tokio::join!(broker.discard(id, REASON, None), broker.replay(id, &target, None))
        } else {
            let (replay, discard) = tokio::join!(broker.replay(id, &target, None), broker.discard(id, REASON, None));
            (discard, replay)
        };
        match (discard.expect("answered"), replay.expect("answered")) {
            (FailedEventChange::Done, FailedEventChange::NotFailed(EventState::Discarded)) => {
                discarded += 1;
                assert_eq!(state(&*broker, id).await, Some(EventState::Discarded));
            }
            (FailedEventChange::NotFailed(EventState::Queued), FailedEventChange::Done) => {
                replayed += 1;
                assert_eq!(state(&*broker, id).await, Some(EventState::Queued));
            }
            both => panic!("round {round}: {both:?}"),
        }
    }
    let stats = broker.stats().await.expect("totals");
    assert_eq!((stats.counters.discarded, stats.counters.replayed), (discarded, replayed));
    assert_eq!(claim(&*broker, "b", 99).await.len() as u64, replayed);
    assert_eq!((stats.depth.failed_kept, bytes_of(&stats.depth.failed_bytes_by_lane, "a")), (0, 0));
}

/// G12: discarded events leave after their age, and within the bytes of the history, the oldest of the largest lane
/// first.
pub async fn discarded_events_are_kept_as_history_is(rig: &dyn BrokerRig) {
    let retention = RetentionLimits { processed_max_bytes: 100_000, ..BrokerOptions::default().retention };
    let broker = rig.open(BrokerOptions { retention, ..options() }).await;
    let quiet = deliver_one(&*broker, "quiet").await;
    assert_eq!(settle_one(&*broker, &quiet, Settlement::Processed).await, SettleOutcome::Done);
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(fail_one(&*broker, "a", 10_000).await);
        assert_eq!(discard(&*broker, ids[ids.len() - 1]).await, FailedEventChange::Done);
    }
    while broker.maintain().await.expect("maintained") {}
    let kept_bytes: u64 = broker.stats().await.expect("totals").depth.kept_bytes_by_lane.values().sum();
    assert!((50_000..=100_000).contains(&kept_bytes), "{kept_bytes}");
    let mut kept = Vec::new();
    for id in &ids {
        kept.extend(state(&*broker, *id).await.map(|state| (*id, state)));
    }
    let newest = ids[ids.len() - kept.len()..].iter().map(|id| (*id, EventState::Discarded)).collect::<Vec<_>>();
    assert!((5..10).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept, newest, "the newest");
    assert_eq!(state(&*broker, quiet.record.event.id).await, Some(EventState::Processed));
    let failing = fail_one(&*broker, "a", 10).await;
    rig.kill(broker).await;

    let retention = RetentionLimits { discarded_ms: 0, ..BrokerOptions::default().retention };
    let broker = rig.open(BrokerOptions { retention, ..options() }).await;
    eventually("what is past its age is forgotten", || async {
        broker.maintain().await.expect("maintained");
        state(&*broker, ids[19]).await.is_none().then_some(())
    })
    .await;
    assert_eq!(bytes_of(&broker.stats().await.expect("totals").depth.kept_bytes_by_lane, "a"), 0);
    assert_eq!(discard(&*broker, ids[19]).await, FailedEventChange::Unknown);
    assert_eq!(state(&*broker, quiet.record.event.id).await, Some(EventState::Processed));
    assert_eq!(state(&*broker, failing).await, Some(EventState::Failed));
}

/// An export leaves discarded events behind, and an older export brings none of them back.
pub async fn a_snapshot_brings_no_discarded_event_back(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let id = fail_one(&*broker, "a", 10).await;
    let kept = fail_one(&*broker, "a", 10).await;
    let older = broker.find_event(id).await.expect("looked up").expect("known").record;
    assert_eq!(discard(&*broker, id).await, FailedEventChange::Done);
    let failed = snapshot(&*broker).await.into_iter().filter_map(|item| match item {
        SnapshotItem::Failed(record) => Some(record.event.id),
        _ => None,
    });
    assert_eq!(failed.collect::<Vec<_>>(), [kept]);
    let restored = broker.restore(vec![SnapshotItem::Failed(older)]).await;
    assert_eq!(restored, Ok(vec![RestoreOutcome::Known]));
    assert_eq!(state(&*broker, id).await, Some(EventState::Discarded));
}

/// Of several calls at the same moment one moves a failed event. The others are told what became of it.
pub async fn of_two_calls_at_one_moment_one_takes_a_failed_event(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    for _ in 0..5 {
        let id = fail_one(&*broker, "a", 10).await;
        let both = tokio::join!(broker.discard(id, "first", None), broker.discard(id, "second", None));
        let (Ok(first), Ok(second)) = both else { panic!("{both:?}") };
        let is_done = [first, second].map(|outcome| outcome == FailedEventChange::Done);
        assert!(is_done[0] != is_done[1], "{first:?} {second:?}");
        let loser = if is_done[0] { second } else { first };
        assert_eq!(loser, FailedEventChange::NotFailed(EventState::Discarded));
    }
    let mut replayed = 0;
    for _ in 0..5 {
        let id = fail_one(&*broker, "a", 10).await;
        let target = lane("b");
        let both = tokio::join!(broker.replay(id, &target, None), broker.discard(id, "not needed", None));
        match both {
            (Ok(FailedEventChange::Done), Ok(FailedEventChange::NotFailed(EventState::Queued))) => replayed += 1,
            (Ok(FailedEventChange::NotFailed(EventState::Discarded)), Ok(FailedEventChange::Done)) => {}
            other => panic!("{other:?}"),
        }
    }
    let stats = broker.stats().await.expect("totals");
    assert_eq!((stats.counters.discarded, stats.counters.replayed), (10 - replayed, replayed));
    assert_eq!((stats.depth.waiting(), stats.depth.failed_kept), (replayed, 0));
    assert_eq!(bytes_of(&stats.depth.failed_bytes_by_lane, "a"), 0);
}

/// Failed events are listed by the lane against which they count, also after a move to another store.
pub async fn failed_events_are_listed_by_lane(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let of_a = [fail_one(&*broker, "a", 10).await, fail_one(&*broker, "a", 10).await];
    let of_b = fail_one(&*broker, "b", 10).await;
    let moved = deliver_one(&*broker, "c").await;
    let mut record = settle(&moved, failed(FailureClass::Reject), Vec::new()).record;
    record.event = event("moved").into();
    for attempt in &mut record.attempts {
        attempt.plugin = Some("b".into());
    }
    let restored = record.event.id;
    assert_eq!(broker.restore(vec![SnapshotItem::Failed(record)]).await, Ok(vec![RestoreOutcome::Done]));
    let listed = async |name: &str| {
        let query = EndedQuery { lane: Some(lane(name)), ..EndedQuery::all(EndKind::Failed, 9) };
        let page = broker.list_ended(query).await.expect("a page");
        page.records.iter().map(|record| record.event.id).collect::<Vec<_>>()
    };
    assert_eq!(listed("a").await, [of_a[1], of_a[0]]);
    assert_eq!(listed("b").await, [restored, of_b]);
    assert!(listed("c").await.is_empty());
    assert_eq!(discard(&*broker, restored).await, FailedEventChange::Done);
    assert_eq!(listed("b").await, [of_b]);
    let depth = broker.stats().await.expect("totals").depth;
    assert!(bytes_of(&depth.failed_bytes_by_lane, "a") > bytes_of(&depth.failed_bytes_by_lane, "b"));
    assert!(bytes_of(&depth.failed_bytes_by_lane, "b") > 0);
}
