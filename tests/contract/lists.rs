//! Lists on a Redis with large events: a page reads a bounded amount, and only the events that are asked for are
//! transferred.

use eventstream::broker::contract::*;
use eventstream::broker::{EndKind, EndedQuery, SnapshotItem};
use eventstream::event::{Event, EventData, EventEnd, EventRecord, FailureClass};

use crate::rig::RedisRig;

const LARGE_BYTES: usize = 256 * 1024;
const EVENTS: usize = 160;

/// A server with 40 MiB of failed events.
async fn filled() -> (RedisRig, std::sync::Arc<dyn Broker>) {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let data = Some(EventData::text(format!("\"{}\"", "x".repeat(LARGE_BYTES))));
    for _ in 0..EVENTS {
        let failure = Some((FailureClass::NoHandler, "nobody".to_owned()));
        let end = EventEnd { at: now(), failure, result: None, children: Vec::new(), discarded: None };
        let large = Event { data: data.clone(), ..event("large") };
        let record = EventRecord { end: Some(end), ..EventRecord::new(large) };
        broker.restore(vec![SnapshotItem::Failed(record)]).await.expect("taken over");
    }
    (rig, broker)
}

fn sent_bytes(rig: &RedisRig) -> u64 {
    let stats: String = rig.admin(&["INFO", "stats"]);
    let sent = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:"));
    sent.and_then(|bytes| bytes.trim().parse().ok()).expect("the server counts what it sends")
}

/// A page, and the bytes that were transferred for it, including the broker's own checks.
async fn page(rig: &RedisRig, broker: &dyn Broker, query: EndedQuery) -> (usize, Option<String>, u64) {
    let before = sent_bytes(rig);
    let page = broker.list_ended(query).await.expect("a page");
    (page.records.len(), page.next_cursor, sent_bytes(rig) - before)
}

#[tokio::test]
async fn a_filter_that_nothing_matches_moves_nothing_and_ends_early() {
    let (rig, broker) = filled().await;
    let query = EndedQuery { limit: 1_000, ..ended(EndKind::Failed) };
    for query in [
        EndedQuery { event_type: "nothing".parse().ok(), ..query.clone() },
        EndedQuery { class: Some(FailureClass::Trap), ..query.clone() },
        EndedQuery { until: Some(eventstream::event::Timestamp::from_unix_ms(0)), ..query.clone() },
        EndedQuery { since: Some(now().plus_ms(60_000)), ..query.clone() },
    ] {
        let (mut query, mut pages) = (query, 0);
        loop {
            let (found, cursor, moved) = page(&rig, &*broker, query.clone()).await;
            assert_eq!(found, 0);
            assert!(moved < LARGE_BYTES as u64, "{moved} bytes moved for {query:?}");
            pages += 1;
            match cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => break,
            }
        }
        // The page that the store's clock cuts short may end at once.
        assert!(pages > 1 || query.until.is_some(), "a page looks at less than everything: {query:?}");
    }
}

#[tokio::test]
async fn heads_move_without_their_payloads() {
    let (rig, broker) = filled().await;
    let query = EndedQuery { limit: 1_000, only_heads: true, ..ended(EndKind::Failed) };
    let (found, _, moved) = page(&rig, &*broker, query).await;
    assert!(found > 0 && moved < LARGE_BYTES as u64, "{moved} bytes for {found} heads");
}

#[tokio::test]
async fn what_is_not_understood_is_no_reason_to_leave_anything_out() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let delivery = deliver_one(&*broker, "a").await;
    settle_one(&*broker, &delivery, failed(FailureClass::Trap)).await;
    for fields in
        [&["hello", "world"][..], &["id", "x", "b", ""], &["id", "x", "b", "\u{1}"], &["id", "x", "b", "\u{2}x"]]
    {
        let _: String = rig.admin(&[&["XADD", &RedisRig::key("failed"), "*"], fields].concat());
    }
    let query =
        EndedQuery { class: Some(FailureClass::Trap), event_type: "order.paid".parse().ok(), ..ended(EndKind::Failed) };
    let page = broker.list_ended(query).await.expect("a page");
    assert_eq!(page.records.iter().map(|record| record.event.id).collect::<Vec<_>>(), [delivery.record.event.id]);
}
