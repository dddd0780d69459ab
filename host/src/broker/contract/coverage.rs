//! Coverage of consumers, on any store, also on one with a single consumer.

use super::*;
use crate::broker::ConsumerCoverage;

/// G7 and G8: a consumer is not its own peer, and takes over deliveries in its own lanes.
pub async fn a_consumer_recovers_in_its_own_lanes(rig: &dyn BrokerRig) {
    let served = || ConsumerCoverage::new([(lane("a"), vec!["order.*".parse().expect("a pattern")])], false);
    let first = rig.open(short_lease()).await;
    first.announce_coverage(served()).await.expect("announced");
    let elsewhere = first.refresh_peer_coverage().await.expect("answered");
    assert_eq!(elsewhere.lane_of(&"order.paid".parse().expect("a type")), None);
    assert!(!elsewhere.some_are_silent());
    let id = deliver_one(&*first, "a").await.record.event.id;
    rig.kill(first).await;

    let heir = rig.open(short_lease()).await;
    heir.announce_coverage(served()).await.expect("announced");
    let taken = eventually("it is taken over", || async { heir.recover(9).await.expect("answered").pop() }).await;
    assert_eq!((taken.record.event.id, taken.deliveries), (id, 2));
}

/// G7: a returned event keeps the count of deliveries that ended with their consumer, whatever lane it goes to.
pub async fn a_suspect_that_is_handed_back_stays_one(rig: &dyn BrokerRig) {
    let first = rig.open(short_lease()).await;
    deliver_one(&*first, "a").await;
    rig.kill(first).await;
    let broker = rig.open(short_lease()).await;
    let suspect = eventually("it is taken over", || async { broker.recover(9).await.expect("answered").pop() }).await;
    let back = SettleRequest {
        receipt: suspect.receipt.clone(),
        record: suspect.record.clone().with_lost_deliveries(suspect.deliveries),
        settlement: Settlement::Returned,
        lane: lane("b"),
        publish: Vec::new(),
        state: None,
    };
    assert_eq!(broker.settle(vec![back]).await, Ok(vec![SettleOutcome::Done]));
    let again = claim(&*broker, "b", 1).await.pop().expect("it waits in the other lane");
    assert_eq!(
        (again.deliveries, again.deliveries_in_a_row(), again.attempt()),
        (1, suspect.deliveries, suspect.attempt())
    );
    assert_eq!(settle_one(&*broker, &again, retry(1)).await, SettleOutcome::Done);
    let retried = eventually("the retry is delivered", || async {
        promote_all(&*broker).await;
        claim(&*broker, "b", 1).await.pop()
    })
    .await;
    assert_eq!(retried.deliveries_in_a_row(), 1, "an attempt has ended since");
}
