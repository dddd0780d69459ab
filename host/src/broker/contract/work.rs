//! Promises to workers: fair claims, waits, timely retries, and returned deliveries.
//!
//! Covers the broker's part of G5 and G8, and the returned deliveries of G10.

use std::collections::HashSet;

use super::*;
use crate::broker::{ExportedEvent, SnapshotItem};

fn want(name: &str, free: usize) -> LaneDemand {
    LaneDemand { lane: lane(name), free }
}

/// The number of deliveries of each lane.
fn by_lane(deliveries: &[Delivery]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for delivery in deliveries {
        *counts.entry(delivery.receipt.lane.to_string()).or_default() += 1;
    }
    counts
}

/// A claim exceeds neither a lane's free slots nor the host's, and takes nothing from other lanes.
pub async fn a_claim_takes_what_it_wants_and_no_more(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    for name in ["a", "b", "c"] {
        broker.append(appends(name, 5)).await.expect("accepted");
    }
    let ask = |lanes: Vec<LaneDemand>, max| {
        let broker = broker.clone();
        async move { by_lane(&broker.claim(ClaimRequest { lanes, max }).await.expect("answered")) }
    };
    let counts = |pairs: &[(&str, usize)]| pairs.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
    let none: BTreeMap<String, usize> = BTreeMap::new();
    assert_eq!(ask(vec![], 10).await, none);
    assert_eq!(ask(vec![want("a", 3)], 0).await, none);
    assert_eq!(ask(vec![want("a", 0)], 3).await, none);
    assert_eq!(ask(vec![want("nobody", 3)], 3).await, none);
    assert_eq!(ask(vec![want("a", 2), want("b", 1)], 10).await, counts(&[("a", 2), ("b", 1)]));
    assert_eq!(ask(vec![want("a", 9)], 2).await, counts(&[("a", 2)]));
    assert_eq!(ask(vec![want("a", 9), want("b", 9), want("c", 9)], 100).await, counts(&[("a", 1), ("b", 4), ("c", 5)]));
    assert!(broker.lanes().contains(&lane("nobody")), "a lane that was asked for exists");
}

/// G8: a full lane takes no slots from others, uses what others leave, and the first lane of the request comes first.
pub async fn slots_are_shared_out_fairly_in_the_order_asked(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    broker.append(appends("flooded", 50)).await.expect("accepted");
    broker.append(appends("calm", 2)).await.expect("accepted");
    let lanes = vec![want("flooded", 50), want("calm", 50), want("empty", 50)];
    let deliveries = broker.claim(ClaimRequest { lanes, max: 9 }).await.expect("answered");
    let counts = by_lane(&deliveries);
    assert_eq!((counts["flooded"], counts["calm"]), (7, 2));

    broker.append(appends("calm", 2)).await.expect("accepted");
    let lanes = vec![want("calm", 50), want("flooded", 50)];
    let deliveries = broker.claim(ClaimRequest { lanes, max: 1 }).await.expect("answered");
    assert_eq!(by_lane(&deliveries), BTreeMap::from([("calm".to_owned(), 1)]));
}

/// Concurrent claims hand out no event twice, and keep the order within a lane.
pub async fn an_event_is_handed_out_once(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let events = appends("a", 60);
    broker.append(events.clone()).await.expect("accepted");
    let first = claim(&*broker, "a", 10).await;
    let ids: Vec<_> = first.iter().map(|delivery| delivery.record.event.id).collect();
    assert_eq!(ids, events[..10].iter().map(|event| event.record.event.id).collect::<Vec<_>>());

    let rest = futures_util::future::join_all((0..10).map(|_| claim(&*broker, "a", 8))).await;
    let rest: Vec<_> = rest.into_iter().flatten().map(|delivery| delivery.record.event.id).collect();
    let all: HashSet<_> = rest.iter().chain(&ids).collect();
    assert_eq!((rest.len(), all.len()), (50, 60));
    let receipts: HashSet<_> = first.iter().map(|delivery| delivery.receipt.clone()).collect();
    assert_eq!(receipts.len(), 10, "each delivery has a receipt of its own");
}

/// A wait ends when an event arrives, or after its time.
pub async fn a_wait_ends_when_something_arrives(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let lanes = [lane("a"), lane("b")];
    assert!(claim(&*broker, "b", 1).await.is_empty());
    broker.wait_for_work(&lanes).await.expect("the wait ends by itself");
    let waits = {
        let broker = broker.clone();
        let lanes = lanes.clone();
        async move {
            eventually("the event is handed out", || async {
                broker.wait_for_work(&lanes).await.expect("the wait ends");
                claim(&*broker, "b", 1).await.pop()
            })
            .await
        }
    };
    let appended = async {
        tokio::task::yield_now().await;
        broker.append(appends("b", 1)).await.expect("accepted")[0].id
    };
    let (delivery, id) = futures_util::future::join(waits, appended).await;
    assert_eq!(delivery.record.event.id, id);
}

/// A wait takes nothing, so a dropped wait changes nothing.
pub async fn a_dropped_wait_loses_nothing(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    assert!(claim(&*broker, "a", 1).await.is_empty());
    for _ in 0..5 {
        let lanes = [lane("a")];
        let _ = tokio::time::timeout(Duration::from_millis(30), broker.wait_for_work(&lanes)).await;
    }
    broker.append(appends("a", 5)).await.expect("accepted");
    broker.wait_for_work(&[lane("a")]).await.expect("the wait ends");
    assert_eq!(claim(&*broker, "a", 9).await.len(), 5);
}

/// Waits are dropped at any moment, as when a slot becomes free, and the next wait is for more lanes.
pub async fn dropped_waits_for_one_lane_hold_up_no_other(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    assert!(claim(&*broker, "full", 1).await.is_empty() && claim(&*broker, "free", 1).await.is_empty());
    let (mut round, mut late_rounds) = (0_u64, 0);
    while round < 30 {
        for moment in 0..6_u64 {
            // The timers of the runtime are too coarse here.
            let (begun, patience) = (Instant::now(), Duration::from_micros((round * 6 + moment) * 5));
            let moment_comes = async {
                while begun.elapsed() < patience {
                    tokio::task::yield_now().await;
                }
            };
            let lanes = [lane("free")];
            tokio::select! {
                _ = broker.wait_for_work(&lanes) => {}
                () = moment_comes => {}
            }
        }
        let append = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            broker.append(appends("full", 1)).await.expect("accepted");
            Instant::now()
        };
        let wait = async {
            broker.wait_for_work(&[lane("full"), lane("free")]).await.expect("the wait ends");
            Instant::now()
        };
        let (appended, woken) = tokio::join!(append, wait);
        let late = woken.saturating_duration_since(appended);
        assert_eq!(claim(&*broker, "full", 9).await.len(), 1, "round {round}");
        // A pause of the machine delays one round or two; a blocked wait delays every round.
        if late < Duration::from_millis(300) {
            (round, late_rounds) = (round + 1, 0);
        } else {
            late_rounds += 1;
            assert!(late_rounds < 5, "round {round}: woken {late:?} after there was something");
        }
    }
}

/// After a wait an event in an empty lane is found at once, and soon even if another lane never runs empty.
pub async fn among_many_lanes_none_is_overlooked(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let lanes: Vec<Lane> = (0..100).map(|n| lane(&format!("l{n}"))).collect();
    let claim_all = async || {
        let lanes = lanes.iter().map(|lane| LaneDemand { lane: lane.clone(), free: 1 }).collect();
        broker.claim(ClaimRequest { lanes, max: 10 }).await.expect("answered")
    };
    assert!(claim_all().await.is_empty());
    for name in ["l99", "l3", "l50"] {
        broker.append(appends(name, 1)).await.expect("accepted");
        broker.wait_for_work(&lanes).await.expect("the wait ends");
        assert_eq!(claim_all().await.len(), 1, "{name}");
        assert!(claim_all().await.is_empty());
    }
    broker.append(appends("l70", 1)).await.expect("accepted");
    eventually("it is found", || async {
        broker.append(appends("l1", 1)).await.expect("accepted");
        claim_all().await.into_iter().find(|delivery| delivery.receipt.lane == lane("l70"))
    })
    .await;
}

/// G5: no retry before its pause is over. The event keeps its attempts and counts.
pub async fn a_retry_waits_until_it_is_due_and_keeps_its_story(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let delivery = deliver_one(&*broker, "a").await;
    let id = delivery.record.event.id;
    let began = now();
    let mut settle = settle(&delivery, retry(400), Vec::new());
    settle.lane = lane("b");
    assert_eq!(broker.settle(vec![settle]).await, Ok(vec![SettleOutcome::Done]));
    let found = broker.find_event(id).await.expect("looked up").expect("known");
    assert_eq!(found.state, EventState::Retrying);
    assert!(found.due.is_some_and(|due| due >= began.plus_ms(400)));
    let moved = promote_all(&*broker).await;
    let early = claim(&*broker, "b", 1).await.pop();
    assert!((moved == 0 && early.is_none()) || now().plus_ms(1) >= began.plus_ms(400), "it is not due yet");
    assert!(claim(&*broker, "a", 1).await.is_empty());

    let second = match early {
        Some(delivery) => delivery,
        None => {
            eventually("the retry is delivered", || async {
                promote_all(&*broker).await;
                claim(&*broker, "b", 1).await.pop()
            })
            .await
        }
    };
    assert!(now().plus_ms(1) >= began.plus_ms(400), "it came before its time");
    assert_eq!(second.record.event, delivery.record.event);
    assert_eq!((second.attempt(), second.deliveries, second.record.failures), (2, 1, 1));
    assert_eq!(second.record.attempts.len(), 1);
    assert_eq!(second.record.attempts[0].retry_in_ms, Some(400));
    assert!(claim(&*broker, "a", 1).await.is_empty(), "it went to the lane that was named");
    assert_eq!(broker.stats().await.expect("totals").counters.retried, 1);
}

/// G5: schedules survive the process.
pub async fn due_times_survive_a_crash(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let delivery = deliver_one(&*broker, "a").await;
    assert_eq!(settle_one(&*broker, &delivery, retry(60_000)).await, SettleOutcome::Done);
    let due = broker.find_event(delivery.record.event.id).await.expect("looked up").expect("known").due;
    let soon = deliver_one(&*broker, "a").await;
    assert_eq!(settle_one(&*broker, &soon, retry(10)).await, SettleOutcome::Done);
    rig.kill(broker).await;

    let broker = rig.open(options()).await;
    let again = eventually("the retry is delivered", || async {
        promote_all(&*broker).await;
        claim(&*broker, "a", 9).await.pop()
    })
    .await;
    assert_eq!(again.record.event.id, soon.record.event.id);
    let found = broker.find_event(delivery.record.event.id).await.expect("looked up").expect("known");
    assert_eq!((found.state, found.due), (EventState::Retrying, due));
}

/// An event that is due later is `retrying` if an attempt failed, else `scheduled`.
pub async fn what_is_due_later_retries_once_an_attempt_failed(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let due = Some(now().plus_ms(60_000));
    let waits = |record: EventRecord| {
        let broker = broker.clone();
        async move {
            let id = record.event.id;
            let event = ExportedEvent { record, lane: lane("a"), due };
            broker.restore(vec![SnapshotItem::Waiting(event)]).await.expect("taken over");
            state(&*broker, id).await
        }
    };
    let new = || EventRecord::new(event("order.paid"));
    assert_eq!(waits(new()).await, Some(EventState::Scheduled));
    assert_eq!(waits(EventRecord { attempts_made: 1, ..new() }).await, Some(EventState::Scheduled), "its host died");
    assert_eq!(waits(EventRecord { attempts_made: 1, failures: 1, ..new() }).await, Some(EventState::Retrying));

    let delivery = deliver_one(&*broker, "b").await;
    let failed_once = settle(&delivery, retry(60_000), Vec::new()).record;
    assert_eq!(
        waits(EventRecord { event: event("order.paid").into(), ..failed_once.clone() }).await,
        Some(EventState::Retrying)
    );
    let replayed = EventRecord { event: event("order.paid").into(), ..failed_once.replayed() };
    assert!(!replayed.attempts.is_empty());
    assert_eq!(waits(replayed).await, Some(EventState::Scheduled), "it begins anew");
}

/// G10: a returned event goes to the end of its lane, and its attempt does not count.
pub async fn a_returned_delivery_goes_back_uncounted(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let delivery = deliver_one(&*broker, "a").await;
    broker.append(appends("a", 1)).await.expect("accepted");
    let before = broker.stats().await.expect("totals").counters;
    let back = SettleRequest {
        receipt: delivery.receipt.clone(),
        record: delivery.record.clone(),
        settlement: Settlement::Returned,
        lane: lane("a"),
        publish: Vec::new(),
        state: None,
    };
    assert_eq!(broker.settle(vec![back.clone(), back]).await, Ok(vec![SettleOutcome::Done, SettleOutcome::Done]));
    assert_eq!(state(&*broker, delivery.record.event.id).await, Some(EventState::Queued));
    let deliveries = claim(&*broker, "a", 9).await;
    assert_eq!(deliveries.len(), 2);
    assert_eq!(deliveries[1].record, delivery.record);
    assert_eq!(deliveries[1].attempt(), 1);
    assert_eq!(broker.stats().await.expect("totals").counters, before);
}
