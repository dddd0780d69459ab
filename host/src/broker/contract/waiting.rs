//! Events that wait: a person starts them early or cancels them, and against a claim exactly one of the two wins.

use super::*;
use crate::broker::WaitingEventChange;

const HOUR_MS: u64 = 3_600_000;
const REASON: &str = "cancelled by key:ops: sent by mistake";

async fn cancel(broker: &dyn Broker, id: EventId) -> WaitingEventChange {
    broker.cancel(id, REASON, None).await.expect("answered")
}

async fn run_now(broker: &dyn Broker, id: EventId) -> WaitingEventChange {
    broker.run_now(id, None).await.expect("answered")
}

async fn schedule_one(broker: &dyn Broker, name: &str) -> EventId {
    let request = AppendRequest { start: DeliveryStart::InMs(HOUR_MS), ..append_to(name, event("order.paid")) };
    broker.append(vec![request]).await.expect("accepted")[0].id
}

/// An attempt of this lane that a retry, or a deferral, follows in an hour.
async fn put_off(broker: &dyn Broker, name: &str, settlement: Settlement) -> EventId {
    let delivery = deliver_one(broker, name).await;
    assert_eq!(settle_one(broker, &delivery, settlement).await, SettleOutcome::Done);
    delivery.record.event.id
}

/// What is due later is due at once, with its attempts; anything else is left as it is.
pub async fn an_event_that_is_due_later_can_start_now(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let ids = [
        schedule_one(&*broker, "a").await,
        put_off(&*broker, "a", retry(HOUR_MS)).await,
        put_off(&*broker, "a", Settlement::Deferred { delay_ms: HOUR_MS }).await,
    ];
    assert_eq!(promote_all(&*broker).await, 0);
    for id in ids {
        assert_eq!(run_now(&*broker, id).await, WaitingEventChange::Done);
        assert_eq!(run_now(&*broker, id).await, WaitingEventChange::Done, "it is due and not promoted yet");
    }
    assert_eq!(promote_all(&*broker).await, 3);
    assert_eq!(run_now(&*broker, ids[0]).await, WaitingEventChange::NotWaiting(EventState::Queued));
    let deliveries = claim(&*broker, "a", 9).await;
    let mut claimed: Vec<_> = deliveries.iter().map(|it| (it.record.event.id, it.attempt())).collect();
    claimed.sort();
    let mut expected = vec![(ids[0], 1), (ids[1], 2), (ids[2], 1)];
    expected.sort();
    assert_eq!(claimed, expected);
    assert_eq!(run_now(&*broker, ids[1]).await, WaitingEventChange::NotWaiting(EventState::Running));
    assert_eq!(run_now(&*broker, EventId::new()).await, WaitingEventChange::Unknown);
}

/// G2: a cancelled event has ended for good, is counted nowhere else, and keeps who ended it.
pub async fn an_event_that_waits_can_be_cancelled(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let ids = [
        broker.append(appends("b", 1)).await.expect("accepted")[0].id,
        schedule_one(&*broker, "a").await,
        put_off(&*broker, "a", retry(HOUR_MS)).await,
        put_off(&*broker, "a", Settlement::Deferred { delay_ms: HOUR_MS }).await,
    ];
    for id in ids {
        let before = broker.find_event(id).await.expect("looked up").expect("known").record;
        assert_eq!(cancel(&*broker, id).await, WaitingEventChange::Done);
        assert_eq!(cancel(&*broker, id).await, WaitingEventChange::NotWaiting(EventState::Discarded));
        assert_eq!(run_now(&*broker, id).await, WaitingEventChange::NotWaiting(EventState::Discarded));
        let found = broker.find_event(id).await.expect("looked up").expect("it is kept");
        assert_eq!((found.state, found.due), (EventState::Discarded, None));
        let noted = found.record.end.as_ref().and_then(|end| end.discarded.clone()).expect("it says so");
        assert_eq!(noted.reason, REASON);
        assert_eq!(found.record, before.cancelled(noted.at, REASON), "everything else is as it was");
    }
    rig.kill(broker).await;
    let broker = rig.open(options()).await;
    for id in ids {
        assert_eq!(state(&*broker, id).await, Some(EventState::Discarded));
    }
    assert_eq!((promote_all(&*broker).await, claim(&*broker, "a", 9).await.len()), (0, 0));
    assert_eq!(claim(&*broker, "b", 9).await.len(), 0);
    let stats = broker.stats().await.expect("totals");
    assert_eq!((stats.counters.discarded, stats.counters.failed, stats.counters.processed), (4, 0, 0));
    let depth = stats.depth;
    assert_eq!((depth.scheduled, depth.running, depth.queued.values().sum::<u64>(), depth.waiting()), (0, 0, 0, 0));
    assert_eq!(depth.waiting_by_lane.values().chain(depth.waiting_bytes_by_lane.values()).sum::<u64>(), 0, "{depth:?}");
    for name in ["a", "b"] {
        assert!(depth.kept_bytes_by_lane.get(name).is_some_and(|bytes| *bytes > 0), "{name}: {depth:?}");
    }
}

/// What runs or has ended is not cancelled.
pub async fn only_events_that_wait_are_cancelled(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    assert_eq!(cancel(&*broker, EventId::new()).await, WaitingEventChange::Unknown);
    for (settlement, ended) in
        [(Settlement::Processed, EventState::Processed), (failed(FailureClass::Reject), EventState::Failed)]
    {
        let delivery = deliver_one(&*broker, "a").await;
        let id = delivery.record.event.id;
        assert_eq!(cancel(&*broker, id).await, WaitingEventChange::NotWaiting(EventState::Running));
        assert_eq!(settle_one(&*broker, &delivery, settlement).await, SettleOutcome::Done);
        assert_eq!(cancel(&*broker, id).await, WaitingEventChange::NotWaiting(ended));
    }
    assert_eq!(broker.stats().await.expect("totals").counters.discarded, 0);
}

/// G2, G4: of a claim and a cancel at the same time exactly one gets the event.
pub async fn a_claim_and_a_cancel_at_once_have_one_winner(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let (mut cancelled, mut claimed) = (0, 0);
    for round in 0..40 {
        let id = broker.append(appends("a", 1)).await.expect("accepted")[0].id;
        // Both orders of sending, since the first usually wins.
        let (change, deliveries) = if round % 2 == 0 {
            tokio::join!(cancel(&*broker, id), claim(&*broker, "a", 1))
        } else {
            let (deliveries, change) = tokio::join!(claim(&*broker, "a", 1), cancel(&*broker, id));
            (change, deliveries)
        };
        match (change, &deliveries[..]) {
            (WaitingEventChange::Done, []) => {
                cancelled += 1;
                assert_eq!(state(&*broker, id).await, Some(EventState::Discarded));
            }
            (WaitingEventChange::NotWaiting(EventState::Running), [delivery]) => {
                claimed += 1;
                assert_eq!(settle_one(&*broker, delivery, Settlement::Processed).await, SettleOutcome::Done);
                assert_eq!(state(&*broker, id).await, Some(EventState::Processed));
            }
            both => panic!("round {round}: {both:?}"),
        }
    }
    let stats = broker.stats().await.expect("totals");
    assert_eq!((stats.counters.discarded, stats.counters.processed), (cancelled, claimed));
    assert_eq!((stats.depth.waiting(), cancelled + claimed), (0, 40));
}
