//! Promises to senders: durability, idempotency, whole requests, limits, and no early delivery.
//!
//! Covers G1, G5, G6 and the depth limit of G12.

use std::collections::HashSet;

use bytes::Bytes;
use futures_util::future::join_all;

use super::*;
use crate::broker::Error;

/// G1: an accepted event is unchanged after a crash.
pub async fn an_accepted_event_survives_a_crash(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let events = appends("a", 3);
    let accepted = broker.append(events.clone()).await.expect("the events are accepted");
    assert!(accepted.iter().zip(&events).all(|(accepted, event)| accepted.id == event.record.event.id));
    rig.kill(broker).await;

    let broker = rig.open(options()).await;
    let deliveries = claim(&*broker, "a", 10).await;
    assert_eq!(deliveries.len(), 3);
    for (delivery, event) in deliveries.iter().zip(&events) {
        assert_eq!(delivery.record, event.record);
        assert_eq!((delivery.deliveries, delivery.attempt()), (1, 1));
    }
}

/// If one event cannot be accepted, nothing of its request is appended.
pub async fn a_request_is_appended_whole_or_not_at_all(rig: &dyn BrokerRig) {
    let broker = rig.open(BrokerOptions { max_waiting: 5, ..options() }).await;
    without_lane_limits(&*broker, &["a"]);
    let mut known = appends("a", 1);
    known[0].idempotency = idempotency(1, 1);
    broker.append(known).await.expect("the first is accepted");

    let mut events = appends("a", 3);
    events[2].idempotency = idempotency(1, 2);
    assert_eq!(broker.append(events).await, Err(Error::Conflict(vec![2])));
    let too_many = broker.append(appends("a", 5)).await;
    assert_eq!(too_many, Err(Error::Full { waiting: 1, limit: 5 }));
    assert_eq!(claim(&*broker, "a", 10).await.len(), 1, "nothing of a refused request is there");
    assert_eq!(broker.stats().await.expect("totals").counters.accepted, 1);
}

/// G6: the answer is the first id, also within one request, and also when the first event has ended.
pub async fn the_same_key_gives_the_first_id(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let mut first = appends("a", 2);
    first[0].idempotency = idempotency(1, 1);
    first[1].idempotency = idempotency(1, 1);
    let accepted = broker.append(first.clone()).await.expect("accepted");
    let id = first[0].record.event.id;
    assert_eq!((accepted[0].id, accepted[0].duplicate), (id, false));
    assert_eq!((accepted[1].id, accepted[1].duplicate), (id, true));

    let delivery = claim(&*broker, "a", 10).await.pop().expect("one is there");
    assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Done);
    rig.kill(broker).await;
    let broker = rig.open(options()).await;
    let mut again = appends("a", 2);
    again[1].idempotency = idempotency(1, 1);
    let accepted = broker.append(again.clone()).await.expect("accepted");
    assert_eq!((accepted[0].id, accepted[0].duplicate), (again[0].record.event.id, false));
    assert_eq!((accepted[1].id, accepted[1].duplicate), (id, true));
    assert_eq!(claim(&*broker, "a", 10).await.len(), 1, "a duplicate is not appended");
    let counters = broker.stats().await.expect("totals").counters;
    assert_eq!((counters.accepted, counters.duplicates), (2, 2));
}

/// G6: the error names every conflict by its place, also conflicts within one request.
pub async fn the_same_key_with_another_body_is_a_conflict(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let mut events = appends("a", 4);
    events[0].idempotency = idempotency(1, 1);
    events[1].idempotency = idempotency(1, 2);
    events[2].idempotency = idempotency(2, 1);
    events[3].idempotency = idempotency(1, 3);
    assert_eq!(broker.append(events).await, Err(Error::Conflict(vec![1, 3])));
    let mut events = appends("a", 1);
    events[0].idempotency = idempotency(2, 9);
    let accepted = broker.append(events).await.expect("a refused request leaves no key behind");
    assert!(!accepted[0].duplicate);
}

/// G12: waiting, due and running events count towards the limit; ended events and duplicates do not.
pub async fn past_the_limit_nothing_is_accepted_until_something_ended(rig: &dyn BrokerRig) {
    let broker = rig.open(BrokerOptions { max_waiting: 3, ..options() }).await;
    broker.limit_lanes(BTreeMap::from(["a", "b", "c"].map(|name| (lane(name), 3))));
    let mut events = appends("a", 3);
    events[0].idempotency = idempotency(1, 1);
    events[1].lane = lane("b");
    events[2].start = DeliveryStart::InMs(60_000);
    broker.append(events).await.expect("there is room for three");
    assert_eq!(broker.append(appends("c", 1)).await, Err(Error::Full { waiting: 3, limit: 3 }));
    let mut known = appends("a", 1);
    known[0].idempotency = idempotency(1, 1);
    assert!(broker.append(known).await.expect("it is there already")[0].duplicate);

    let delivery = claim(&*broker, "a", 1).await.pop().expect("one waits");
    assert!(matches!(broker.append(appends("a", 1)).await, Err(Error::Full { .. })), "it is still being handled");
    assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Done);
    broker.append(appends("a", 1)).await.expect("there is room again");
}

/// G5: by the store's clock and never early. A time in the past is no delay.
pub async fn a_delayed_event_is_not_delivered_before_its_time(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let mut events = appends("a", 4);
    events[0].start = DeliveryStart::InMs(400);
    events[1].start = DeliveryStart::At(now().plus_ms(60_000));
    events[2].start = DeliveryStart::At(Timestamp::from_unix_ms(1_000));
    let [soon, later, past, at_once] = [0, 1, 2, 3].map(|place| events[place].record.event.id);
    let began = now();
    broker.append(events).await.expect("accepted");
    let ids = |deliveries: Vec<Delivery>| deliveries.iter().map(|d| d.record.event.id).collect::<Vec<_>>();
    assert_eq!(ids(claim(&*broker, "a", 10).await), [past, at_once]);
    let found = broker.find_event(soon).await.expect("looked up").expect("known");
    assert_eq!(found.state, EventState::Scheduled);
    assert!(found.due.is_some_and(|due| due >= began.plus_ms(400)));

    let delivered = eventually("the delayed event is delivered", || async {
        promote_all(&*broker).await;
        claim(&*broker, "a", 10).await.pop()
    })
    .await;
    assert_eq!(delivered.record.event.id, soon);
    // The store and this process both round their times down to milliseconds, which may lose one.
    assert!(now().plus_ms(1) >= began.plus_ms(400), "it came before its time");
    assert_eq!(state(&*broker, later).await, Some(EventState::Scheduled));
    let promoted = broker.promote().await.expect("answered");
    assert!(promoted.next_due_in_ms.is_some_and(|ms| ms > 10_000 && ms <= 60_000), "{promoted:?}");
}

/// Payload and media type are unchanged in every state of an event.
pub async fn payloads_come_back_byte_for_byte(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let all_bytes: Vec<u8> = (0..=255).cycle().take(1_000).collect();
    for data in [
        None,
        Some(EventData::text("")),
        Some(EventData::text("{ \"n\": 12345678901234567890.10,\r\n \"n\":1e400}")),
        Some(EventData::binary(all_bytes)),
        Some(EventData::binary(Bytes::from(vec![b'\n'; 256 * 1024]))),
    ] {
        let mut append = append_to("a", Event { data, ..event("x/y:z-1_2.3") });
        append.start = DeliveryStart::InMs(1);
        let event = append.record.event.clone();
        broker.append(vec![append]).await.expect("accepted");
        let delivery = eventually("the event is delivered", || async {
            promote_all(&*broker).await;
            claim(&*broker, "a", 1).await.pop()
        })
        .await;
        assert_eq!(delivery.record.event, event);
        assert_eq!(settle_one(&*broker, &delivery, failed(FailureClass::Reject)).await, SettleOutcome::Done);
        assert_eq!(broker.find_event(event.id).await.expect("looked up").expect("known").record.event, event);
    }
}

/// Requests that the store takes together each get their own answer.
pub async fn many_requests_at_once_are_all_accepted(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let requests: Vec<Vec<AppendRequest>> = (0..120)
        .map(|n: u8| {
            let mut events = appends(["a", "b"][usize::from(n % 2)], 1 + usize::from(n % 3));
            // Every third request is a duplicate of the one before, every tenth is in conflict with itself.
            events[0].idempotency = idempotency(n / 3, 1);
            if n % 10 == 9 {
                let mut twin = events[0].clone();
                Arc::make_mut(&mut twin.record.event).id = EventId::new();
                twin.idempotency = idempotency(n / 3, 2);
                events.push(twin);
            }
            events
        })
        .collect();
    let answers = join_all(requests.iter().map(|events| broker.append(events.clone()))).await;
    let mut accepted = HashSet::new();
    for (n, (events, answer)) in requests.iter().zip(answers).enumerate() {
        match answer {
            Ok(answers) => {
                assert_eq!(answers.len(), events.len(), "request {n}");
                accepted.extend(answers.iter().filter(|a| !a.duplicate).map(|a| a.id));
            }
            Err(Error::Conflict(_)) => assert_eq!(n % 10, 9, "request {n}"),
            Err(error) => panic!("request {n}: {error}"),
        }
    }
    let delivered: HashSet<_> = join_all(["a", "b"].map(|name| claim(&*broker, name, 500)))
        .await
        .into_iter()
        .flatten()
        .map(|delivery| delivery.record.event.id)
        .collect();
    assert_eq!(delivered, accepted);
}
