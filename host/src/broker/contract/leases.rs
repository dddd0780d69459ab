//! Promises about consumers that die, return or repeat a call: fencing, recovery, and one effect of a settle.
//!
//! Covers G3, G4 and G7.

use std::collections::HashMap;

use super::*;
use crate::broker::Receipt;

async fn recover_one(broker: &dyn Broker, id: EventId) -> Delivery {
    eventually("the delivery is recovered", || async {
        let mut recovered = broker.recover(10).await.expect("answered");
        recovered.retain(|delivery| delivery.record.event.id == id);
        recovered.pop()
    })
    .await
}

/// G3: a repeated settle returns the first outcome.
pub async fn a_settle_is_repeatable_and_takes_effect_once(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    for settlement in [Settlement::Processed, retry(60_000), failed(FailureClass::Trap), Settlement::Returned] {
        let delivery = deliver_one(&*broker, "a").await;
        let publish = if settlement == Settlement::Processed { appends("children", 3) } else { Vec::new() };
        let settle = settle(&delivery, settlement.clone(), publish);
        assert_eq!(broker.settle(vec![settle.clone()]).await, Ok(vec![SettleOutcome::Done]));
        let after = (broker.stats().await, broker.find_event(delivery.record.event.id).await);
        let again = broker.settle(vec![settle.clone(), settle]).await;
        assert_eq!(again, Ok(vec![SettleOutcome::Done, SettleOutcome::Done]), "{settlement:?}");
        assert_eq!((broker.stats().await, broker.find_event(delivery.record.event.id).await), after, "{settlement:?}");
    }
    assert_eq!(claim(&*broker, "children", 9).await.len(), 3);
}

/// G4: a consumer that lost a delivery learns it. Its settle, its events and its renewal change nothing.
pub async fn a_stale_receipt_changes_nothing(rig: &dyn BrokerRig) {
    let first = rig.open(short_lease()).await;
    let stale = deliver_one(&*first, "a").await;
    let id = stale.record.event.id;
    rig.kill(first).await;
    let broker = rig.open(short_lease()).await;
    let held = recover_one(&*broker, id).await;
    assert_ne!(held.receipt, stale.receipt);

    let before = broker.stats().await.expect("totals").counters;
    let forged = Receipt { deliveries: held.deliveries + 1, ..held.receipt.clone() };
    let elsewhere = Receipt { entry: "1-1".into(), ..held.receipt.clone() };
    for receipt in [stale.receipt.clone(), forged, elsewhere] {
        let lost = settle(
            &Delivery { receipt: receipt.clone(), ..stale.clone() },
            Settlement::Processed,
            appends("children", 2),
        );
        assert_eq!(broker.settle(vec![lost]).await, Ok(vec![SettleOutcome::Lost]), "{receipt:?}");
        assert_eq!(broker.lease_renewal().renew(std::slice::from_ref(&receipt)).await, Ok(vec![receipt]));
    }
    assert_eq!(broker.stats().await.expect("totals").counters, before);
    assert!(claim(&*broker, "children", 9).await.is_empty());
    assert_eq!(broker.lease_renewal().renew(std::slice::from_ref(&held.receipt)).await, Ok(Vec::new()));
    assert_eq!(settle_one(&*broker, &held, failed(FailureClass::Reject)).await, SettleOutcome::Done);
    assert_eq!(settle_one(&*broker, &stale, Settlement::Processed).await, SettleOutcome::Lost);
    assert_eq!(state(&*broker, id).await, Some(EventState::Failed));
}

/// G7: all are recovered, with a higher delivery count and attempt number.
pub async fn deliveries_of_the_dead_are_recovered(rig: &dyn BrokerRig) {
    let first = rig.open(short_lease()).await;
    first.append(appends("a", 30)).await.expect("accepted");
    first.append(appends("b", 5)).await.expect("accepted");
    assert_eq!(claim(&*first, "a", 25).await.len(), 25);
    assert_eq!(claim(&*first, "b", 5).await.len(), 5);
    rig.kill(first).await;

    let broker = rig.open(short_lease()).await;
    let mut recovered: HashMap<EventId, Delivery> = HashMap::new();
    let leases = broker.lease_renewal();
    let (began, mut was_late) = (Instant::now(), false);
    while recovered.len() < 30 {
        assert!(began.elapsed() < LIMIT, "{} of 30 were recovered", recovered.len());
        let receipts: Vec<_> = recovered.values().map(|delivery| delivery.receipt.clone()).collect();
        let renewed = Instant::now();
        assert_eq!(leases.renew(&receipts).await, Ok(Vec::new()));
        let some = broker.recover(7).await.expect("answered");
        assert!(some.len() <= 7);
        // On a slow machine the case may lose its own leases and recover its own deliveries.
        was_late |= renewed.elapsed() >= Duration::from_millis(SHORT_LEASE_MS);
        recovered.extend(some.into_iter().map(|delivery| (delivery.record.event.id, delivery)));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(recovered.values().all(|it| it.deliveries == it.attempt() && (it.deliveries == 2 || was_late)));
    assert_eq!(claim(&*broker, "a", 50).await.len(), 5, "what nobody held is not recovered but claimed");
    for delivery in recovered.values() {
        assert_eq!(settle_one(&*broker, delivery, Settlement::Processed).await, SettleOutcome::Done);
    }
    let stats = broker.stats().await.expect("totals");
    assert_eq!((stats.counters.processed, stats.depth.running), (30, 5));
}

/// G7: the count shows the worker which event takes hosts down. The broker itself gives up on no event.
pub async fn every_crash_raises_the_delivery_count(rig: &dyn BrokerRig) {
    let first = rig.open(short_lease()).await;
    let id = deliver_one(&*first, "a").await.record.event.id;
    rig.kill(first).await;
    for deliveries in 2..=6 {
        let broker = rig.open(short_lease()).await;
        let delivery = recover_one(&*broker, id).await;
        assert_eq!((delivery.deliveries, delivery.attempt()), (deliveries, deliveries));
        if deliveries == 6 {
            assert_eq!(settle_one(&*broker, &delivery, failed(FailureClass::Crash)).await, SettleOutcome::Done);
            assert_eq!(state(&*broker, id).await, Some(EventState::Failed));
        }
        rig.kill(broker).await;
    }
}

/// G7: the event that was under way in every crash is recovered last, so that it takes no others down.
pub async fn who_was_delivered_the_most_often_is_recovered_last(rig: &dyn BrokerRig) {
    let first = rig.open(short_lease()).await;
    first.append(appends("a", 3)).await.expect("accepted");
    assert_eq!(claim(&*first, "a", 3).await.len(), 3);
    rig.kill(first).await;

    let mut counts = Vec::new();
    for _ in 0..6 {
        let broker = rig.open(short_lease()).await;
        // Wait for all leases to end, so that the order depends on nothing else.
        tokio::time::sleep(Duration::from_millis(2 * SHORT_LEASE_MS)).await;
        let one = eventually("one is recovered", || async { broker.recover(1).await.expect("answered").pop() }).await;
        counts.push(one.deliveries);
        rig.kill(broker).await;
    }
    assert_eq!(counts, [2, 2, 2, 3, 3, 3]);
}

/// G8: deliveries that one plugin left do not delay those of others.
pub async fn suspects_of_different_lanes_are_recovered_in_turn(rig: &dyn BrokerRig) {
    let first = rig.open(short_lease()).await;
    first.append(appends("a", 20)).await.expect("accepted");
    first.append(appends("b", 3)).await.expect("accepted");
    assert_eq!(claim(&*first, "a", 20).await.len(), 20);
    assert_eq!(claim(&*first, "b", 3).await.len(), 3);
    rig.kill(first).await;

    let broker = rig.open(short_lease()).await;
    // Wait for all leases to end, so that the order depends on nothing else.
    tokio::time::sleep(Duration::from_millis(2 * SHORT_LEASE_MS)).await;
    let mut lanes = Vec::new();
    while lanes.len() < 8 {
        let one = eventually("one is recovered", || async { broker.recover(1).await.expect("answered").pop() }).await;
        assert_eq!(one.deliveries, 2, "those whose lease is over again come later");
        lanes.push(one.receipt.lane);
    }
    let of_b: Vec<bool> = lanes[..6].iter().map(|it| *it == lane("b")).collect();
    assert!(
        of_b == [true, false, true, false, true, false] || of_b == [false, true, false, true, false, true],
        "{lanes:?}"
    );
    assert!(lanes[6..].iter().all(|it| *it == lane("a")), "{lanes:?}");
}

/// Renewals keep a delivery for much longer than a lease. Without them the lease ends.
pub async fn renewed_leases_are_not_taken_over(rig: &dyn BrokerRig) {
    let broker = rig.open(short_lease()).await;
    let mut delivery = deliver_one(&*broker, "a").await;
    let leases = broker.lease_renewal();
    let lease = Duration::from_millis(SHORT_LEASE_MS);
    let (limit, mut began) = (Instant::now() + LIMIT, Instant::now());
    while began.elapsed() < lease * 4 {
        assert!(
            Instant::now() < limit,
            "this case never got through {:?} without being held up for {lease:?}",
            lease * 4
        );
        let renewed = Instant::now();
        assert_eq!(leases.renew(std::slice::from_ref(&delivery.receipt)).await, Ok(Vec::new()));
        if let Some(again) = broker.recover(9).await.expect("answered").pop() {
            let held = renewed.elapsed();
            assert!(held >= lease, "it was taken over {held:?} after it was renewed");
            (delivery, began) = (again, Instant::now());
        }
        broker.maintain().await.expect("maintained");
        tokio::time::sleep(Duration::from_millis(SHORT_LEASE_MS / 10)).await;
    }
    let again = recover_one(&*broker, delivery.record.event.id).await;
    assert_eq!(again.deliveries, delivery.deliveries + 1);
    assert_eq!(leases.renew(std::slice::from_ref(&delivery.receipt)).await, Ok(vec![delivery.receipt.clone()]));
    assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Lost);
    assert_eq!(settle_one(&*broker, &again, Settlement::Processed).await, SettleOutcome::Done);
}

/// G10: after a close the store forgets the consumer, unless it still holds a delivery.
pub async fn a_closed_consumer_leaves_nothing_behind(rig: &dyn BrokerRig) {
    let broker = rig.open(short_lease()).await;
    let delivery = deliver_one(&*broker, "a").await;
    assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Done);
    broker.close().await.expect("closed");
    rig.kill(broker).await;
    let broker = rig.open(short_lease()).await;
    broker.maintain().await.expect("maintained");
    assert_eq!(broker.stats().await.expect("totals").depth.consumers, 1, "only the one that asks");
    let held = deliver_one(&*broker, "a").await;
    broker.close().await.expect("closed");
    rig.kill(broker).await;
    let broker = rig.open(short_lease()).await;
    assert_eq!(recover_one(&*broker, held.record.event.id).await.deliveries, 2);
}
