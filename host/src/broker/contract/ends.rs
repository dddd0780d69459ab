//! Promises about ended events: kept with their attempts, listed, replayed, and deleted in order.
//!
//! Covers G2, the atomic step of G3 and the retention of G12.

use super::*;
use crate::broker::{EventCounters, FailedEventChange, MAX_PAGE_BYTES, RetentionLimits};

/// G3: end, result, children and counters change in one step, and all are visible.
pub async fn a_processed_event_is_kept_with_its_result_and_its_children(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let delivery = deliver_one(&*broker, "a").await;
    let id = delivery.record.event.id;
    assert_eq!(state(&*broker, id).await, Some(EventState::Running));
    let child = append_to("b", Event { cause: Some(id), ..event("order.shipped") });
    let mut late_child = append_to("c", Event { cause: Some(id), ..event("order.reminded") });
    late_child.start = DeliveryStart::InMs(60_000);
    let [child_id, late_id] = [&child, &late_child].map(|child| child.record.event.id);
    let settle = settle(&delivery, Settlement::Processed, vec![child.clone(), late_child]);
    let record = settle.record.clone();
    assert_eq!(broker.settle(vec![settle]).await, Ok(vec![SettleOutcome::Done]));

    let found = broker.find_event(id).await.expect("looked up").expect("known");
    assert_eq!((found.state, found.due), (EventState::Processed, None));
    assert_eq!(found.record, record);
    assert_eq!(record.end.expect("it ended").children, [child_id, late_id]);
    assert_eq!(claim(&*broker, "b", 9).await[0].record, child.record);
    assert_eq!(state(&*broker, late_id).await, Some(EventState::Scheduled));
    let stats = broker.stats().await.expect("totals");
    assert_eq!(stats.counters, EventCounters { accepted: 1, published: 2, processed: 1, ..EventCounters::default() });
    let depth = stats.depth;
    assert_eq!((depth.running, depth.scheduled, depth.processed_kept, depth.waiting()), (1, 1, 1, 2));
}

/// A failed event keeps its reason and attempts. A replay begins anew and keeps the earlier attempts.
pub async fn a_failed_event_is_kept_and_can_be_replayed(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let delivery = deliver_one(&*broker, "a").await;
    let id = delivery.record.event.id;
    assert_eq!(settle_one(&*broker, &delivery, failed(FailureClass::Trap)).await, SettleOutcome::Done);
    rig.kill(broker).await;
    let broker = rig.open(options()).await;
    let kept = all_ended(&*broker, EndKind::Failed).await;
    let end = kept[0].end.clone().expect("it ended");
    assert_eq!(end.failure, Some((FailureClass::Trap, "as the case wants it".into())));

    assert_eq!(broker.replay(id, &lane("b"), None).await, Ok(FailedEventChange::Done));
    assert_eq!(state(&*broker, id).await, Some(EventState::Queued));
    assert!(all_ended(&*broker, EndKind::Failed).await.is_empty(), "an event is in one place at a time");
    let again = claim(&*broker, "b", 9).await.pop().expect("it is back at work");
    assert_eq!(again.record.event, delivery.record.event);
    assert_eq!((again.attempt(), again.record.replays, again.record.attempts.len()), (1, 1, 1));
    assert_eq!(settle_one(&*broker, &again, failed(FailureClass::Reject)).await, SettleOutcome::Done);
    let counters = broker.stats().await.expect("totals").counters;
    assert_eq!((counters.failed, counters.replayed), (2, 1));
    assert_eq!(counters.failed_by_class, BTreeMap::from([(FailureClass::Trap, 1), (FailureClass::Reject, 1)]));
}

/// A replay of an event that has not failed changes nothing.
pub async fn only_failed_events_are_replayed(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    assert_eq!(broker.replay(EventId::new(), &lane("a"), None).await, Ok(FailedEventChange::Unknown));
    let delivery = deliver_one(&*broker, "a").await;
    let id = delivery.record.event.id;
    assert_eq!(broker.replay(id, &lane("a"), None).await, Ok(FailedEventChange::NotFailed(EventState::Running)));
    assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Done);
    assert_eq!(broker.replay(id, &lane("a"), None).await, Ok(FailedEventChange::NotFailed(EventState::Processed)));
    let failing = deliver_one(&*broker, "a").await;
    assert_eq!(settle_one(&*broker, &failing, failed(FailureClass::Reject)).await, SettleOutcome::Done);
    let id = failing.record.event.id;
    assert_eq!(broker.replay(id, &lane("a"), None).await, Ok(FailedEventChange::Done));
    assert_eq!(broker.replay(id, &lane("a"), None).await, Ok(FailedEventChange::NotFailed(EventState::Queued)));
    assert_eq!(claim(&*broker, "a", 9).await.len(), 1);
}

async fn end_some(broker: &dyn Broker, n: usize, settlement: impl Fn(usize) -> Settlement) -> Vec<EventId> {
    let events = (0..n).map(|n| append_to("a", event(["even", "odd"][n % 2]))).collect();
    let ids = broker.append(events).await.expect("accepted").iter().map(|accepted| accepted.id).collect();
    for (n, delivery) in claim(broker, "a", n).await.iter().enumerate() {
        assert_eq!(settle_one(broker, delivery, settlement(n)).await, SettleOutcome::Done);
    }
    ids
}

/// Pages neither overlap nor omit an event.
pub async fn ended_events_are_listed_newest_first_page_by_page(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    assert!(all_ended(&*broker, EndKind::Processed).await.is_empty());
    let mut ids = end_some(&*broker, 23, |_| Settlement::Processed).await;
    ids.reverse();
    let listed: Vec<_> = all_ended(&*broker, EndKind::Processed).await.iter().map(|record| record.event.id).collect();
    assert_eq!(listed, ids);
    let first = broker.list_ended(ended(EndKind::Processed)).await.expect("a page");
    assert_eq!(first.records.len(), 7);
    assert!(all_ended(&*broker, EndKind::Failed).await.is_empty());
}

/// G12: a page of large events ends early, and the next page continues behind it.
pub async fn a_page_of_large_events_is_cut_short(rig: &dyn BrokerRig) {
    const LARGE_BYTES: usize = 256 * 1024;
    let broker = rig.open(options()).await;
    let n = MAX_PAGE_BYTES / LARGE_BYTES + 8;
    let data = EventData::text(format!("\"{}\"", "x".repeat(LARGE_BYTES)));
    for _ in 0..n {
        let large = Event { data: Some(data.clone()), ..event("large") };
        broker.append(vec![append_to("a", large)]).await.expect("accepted");
        let delivery = claim(&*broker, "a", 1).await.remove(0);
        assert_eq!(settle_one(&*broker, &delivery, Settlement::Processed).await, SettleOutcome::Done);
    }
    let whole = EndedQuery { limit: 1_000, ..ended(EndKind::Processed) };
    let first = broker.list_ended(whole.clone()).await.expect("a page");
    let size_bytes: usize = first.records.iter().map(EventRecord::size_bytes).sum();
    assert!(size_bytes <= MAX_PAGE_BYTES + 2 * LARGE_BYTES, "{size_bytes} bytes on a page");
    let rest = broker.list_ended(EndedQuery { cursor: first.next_cursor, ..whole }).await.expect("a page");
    assert_eq!((first.records.len() + rest.records.len(), rest.next_cursor), (n, None));
}

/// By type, class and time of the end, also all at once.
pub async fn ended_events_are_filtered(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    end_some(&*broker, 12, |n| failed(if n < 6 { FailureClass::Trap } else { FailureClass::Reject })).await;
    let all = all_ended(&*broker, EndKind::Failed).await;
    let end_of = |place: usize| all[place].end.as_ref().expect("it ended").at;
    let count = |query: EndedQuery| {
        let broker = broker.clone();
        async move {
            let page = broker.list_ended(EndedQuery { limit: 1_000, ..query }).await.expect("a page");
            page.records.len()
        }
    };
    let query = ended(EndKind::Failed);
    let odd = Some("odd".parse().expect("a type"));
    assert_eq!(count(EndedQuery { event_type: odd.clone(), ..query.clone() }).await, 6);
    assert_eq!(count(EndedQuery { class: Some(FailureClass::Trap), ..query.clone() }).await, 6);
    assert_eq!(count(EndedQuery { class: Some(FailureClass::Trap), event_type: odd, ..query.clone() }).await, 3);
    assert_eq!(count(EndedQuery { class: Some(FailureClass::Crash), ..query.clone() }).await, 0);
    for place in [0, 5, 11] {
        let at = end_of(place);
        let since = all.iter().filter(|record| record.end.as_ref().is_some_and(|end| end.at >= at)).count();
        assert_eq!(count(EndedQuery { since: Some(at), ..query.clone() }).await, since);
        assert_eq!(count(EndedQuery { until: Some(at), ..query.clone() }).await, 12 - since);
    }
    let far = Some(now().plus_ms(86_400_000));
    assert_eq!(count(EndedQuery { since: far, ..query.clone() }).await, 0);
    assert_eq!(count(EndedQuery { until: far, ..query }).await, 12);
}

/// G12: a page may end before it found anything; all pages together find every event.
pub async fn what_is_rare_is_found_page_by_page(rig: &dyn BrokerRig) {
    const LARGE_BYTES: usize = 256 * 1024;
    let broker = rig.open(options()).await;
    let data = Some(EventData::text(format!("\"{}\"", "x".repeat(LARGE_BYTES))));
    let mut rare = Vec::new();
    for n in 0..80 {
        let event_type = if n % 40 == 0 { "rare" } else { "usual" };
        let large = Event { data: data.clone(), ..event(event_type) };
        if event_type == "rare" {
            rare.push(large.id);
        }
        broker.append(vec![append_to("a", large)]).await.expect("accepted");
        let delivery = claim(&*broker, "a", 1).await.remove(0);
        let settlement = failed(if event_type == "rare" { FailureClass::Trap } else { FailureClass::Reject });
        assert_eq!(settle_one(&*broker, &delivery, settlement).await, SettleOutcome::Done);
    }
    rare.reverse();
    let rare_type = Some("rare".parse().expect("a type"));
    let none = Some("none".parse().expect("a type"));
    let query = EndedQuery { limit: 1_000, ..ended(EndKind::Failed) };
    let early = Some(Timestamp::from_unix_ms(0));
    for (query, expected) in [
        (EndedQuery { event_type: rare_type, ..query.clone() }, &rare[..]),
        (EndedQuery { class: Some(FailureClass::Trap), since: early, until: None, ..query.clone() }, &rare[..]),
        (EndedQuery { event_type: none, ..query.clone() }, &[]),
        (EndedQuery { until: early, ..query.clone() }, &[]),
        (EndedQuery { class: Some(FailureClass::Crash), ..query }, &[]),
    ] {
        assert_eq!(ids_of(&*broker, query.clone()).await, expected, "{query:?}");
    }
}

/// The ids of all pages.
pub(super) async fn ids_of(broker: &dyn Broker, mut query: EndedQuery) -> Vec<EventId> {
    let mut ids = Vec::new();
    loop {
        let page = broker.list_ended(query.clone()).await.expect("a page");
        ids.extend(page.records.iter().map(|record| record.event.id));
        match page.next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => return ids,
        }
    }
}

/// A list of heads may lack payloads, and has everything that routing needs.
pub async fn heads_are_listed_with_what_routes_them(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let ids = end_some(&*broker, 4, |_| failed(FailureClass::NoHandler)).await;
    let query = EndedQuery { class: Some(FailureClass::NoHandler), only_heads: true, ..ended(EndKind::Failed) };
    let page = broker.list_ended(query).await.expect("a page");
    let listed: Vec<_> = page.records.iter().map(|record| record.event.id).collect();
    assert_eq!(listed, ids.into_iter().rev().collect::<Vec<_>>());
    let types: Vec<_> = page.records.iter().map(|record| record.event.event_type.as_str().to_owned()).collect();
    assert_eq!(types, ["odd", "even", "odd", "even"]);
}

/// An unreadable event is never handed out, delays no other event, and its bytes are kept.
pub async fn what_cannot_be_read_fails_and_looks_the_same_everywhere(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let id = broker.append(appends("a", 1)).await.expect("accepted")[0].id;
    rig.damage(id).await;
    let next = broker.append(appends("a", 1)).await.expect("accepted")[0].id;
    let delivered: Vec<_> = claim(&*broker, "a", 9).await.iter().map(|delivery| delivery.record.event.id).collect();
    assert_eq!(delivered, [next]);

    let found = broker.find_event(id).await.expect("looked up").expect("it keeps its id");
    let EventRecord { event, end, attempts, .. } = found.record;
    assert_eq!(
        (found.state, event.event_type.as_str(), event.source.as_str()),
        (EventState::Failed, "bad-entry", "/lanes/a")
    );
    assert!(event.subject.as_ref().is_some_and(|entry| !entry.is_empty()), "the name of the entry");
    assert_eq!(event.data_content_type.as_deref(), Some("application/json"));
    let fields = event.data.as_ref().and_then(|data| data.as_text()).expect("its fields are kept as text");
    let fields: Vec<[String; 2]> = serde_json::from_str(fields).expect("an array of pairs");
    assert!(fields.contains(&["id".to_owned(), id.to_string()]), "{fields:?}");
    assert!(attempts.is_empty(), "nobody tried");
    let (class, why) = end.and_then(|end| end.failure).expect("it failed");
    assert!(class == FailureClass::BadEntry && !why.is_empty(), "{why}");
    let counters = broker.stats().await.expect("totals").counters;
    assert_eq!((counters.failed, &counters.failed_by_class), (1, &BTreeMap::from([(FailureClass::BadEntry, 1)])));
}

/// G2: processed events past their retention are deleted, oldest first. No other event ever is.
pub async fn retention_forgets_only_what_has_ended(rig: &dyn BrokerRig) {
    let retention = RetentionLimits { processed_max: 5, ..BrokerOptions::default().retention };
    let broker = rig.open(BrokerOptions { retention, ..options() }).await;
    let failing = end_some(&*broker, 4, |_| failed(FailureClass::Reject)).await;
    let processed = end_some(&*broker, 130, |_| Settlement::Processed).await;
    let waiting = broker.append(appends("b", 10)).await.expect("accepted");
    let running = deliver_one(&*broker, "c").await;
    broker.maintain().await.expect("maintained");
    for (n, id) in processed.iter().enumerate() {
        let expected = (n >= 125).then_some(EventState::Processed);
        assert_eq!(state(&*broker, *id).await, expected, "processed event {n}");
    }
    for id in failing {
        assert_eq!(state(&*broker, id).await, Some(EventState::Failed));
    }
    for accepted in waiting {
        assert_eq!(state(&*broker, accepted.id).await, Some(EventState::Queued));
    }
    assert_eq!(state(&*broker, running.record.event.id).await, Some(EventState::Running));
    let stats = broker.stats().await.expect("totals");
    assert_eq!((stats.depth.processed_kept, stats.depth.failed_kept), (5, 4));
    assert_eq!(stats.counters.processed, 130, "totals are not forgotten");
    rig.kill(broker).await;

    let retention = RetentionLimits { processed_ms: 0, ..retention };
    let broker = rig.open(BrokerOptions { retention, ..options() }).await;
    eventually("what is past its age is forgotten", || async {
        broker.maintain().await.expect("maintained");
        all_ended(&*broker, EndKind::Processed).await.is_empty().then_some(())
    })
    .await;
    assert_eq!(all_ended(&*broker, EndKind::Failed).await.len(), 4);
}

/// G12: `maintain` returns true until nothing is left to delete.
pub async fn maintenance_reports_that_more_is_left(rig: &dyn BrokerRig) {
    let retention = RetentionLimits { processed_max: 5, ..BrokerOptions::default().retention };
    let broker = rig.open(BrokerOptions { retention, ..options() }).await;
    broker.append(appends("a", 11_000)).await.expect("accepted");
    let mut ended = 0;
    while ended < 11_000 {
        let claimed = claim(&*broker, "a", 500).await;
        let settles = claimed.iter().map(|delivery| settle(delivery, Settlement::Processed, Vec::new())).collect();
        ended += broker.settle(settles).await.expect("settled").len();
    }
    let mut rounds = 0;
    while broker.maintain().await.expect("maintained") {
        rounds += 1;
        assert!(broker.stats().await.expect("totals").depth.processed_kept > 5, "there was no more");
    }
    assert!(rounds > 0, "one round forgets 10,000 events at most");
    assert_eq!(broker.stats().await.expect("totals").depth.processed_kept, 5);
    assert!(!broker.maintain().await.expect("maintained"));
}

/// Totals belong to the deployment and survive the process.
pub async fn totals_survive_a_crash(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    end_some(&*broker, 3, |_| Settlement::Processed).await;
    end_some(&*broker, 2, |_| failed(FailureClass::Limit)).await;
    let before = broker.stats().await.expect("totals").counters;
    assert_eq!((before.accepted, before.processed, before.failed), (5, 3, 2));
    rig.kill(broker).await;
    let broker = rig.open(options()).await;
    assert_eq!(broker.stats().await.expect("totals").counters, before);
}
