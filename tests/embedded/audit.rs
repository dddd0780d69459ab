//! Opens a store again and compares it with what was acknowledged.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use eventstream::broker::embedded::EmbeddedBroker;
use eventstream::broker::{BrokerOptions, EndKind, EndedQuery, EventLog, WorkQueue};
use eventstream::event::{EventId, EventRecord, EventState};
use eventstream::shutdown::TaskGroup;
use rusqlite::Connection;

use super::load::Ack;

/// The options of all tests: a lease ends only with its process.
pub fn options() -> BrokerOptions {
    BrokerOptions {
        consumer_name: "audit".into(),
        lease_ms: 3_600_000,
        max_waiting: u64::MAX,
        ..BrokerOptions::default()
    }
}

/// Opens a store as it is.
pub fn open(dir: &Path) -> Arc<EmbeddedBroker> {
    EmbeddedBroker::open(dir, options(), &TaskGroup::new()).unwrap()
}

/// Opens a store, checks it against the acknowledgements and closes it again.
pub async fn audit(dir: &Path, acks: &[Ack]) {
    let broker = open(dir);
    let ended = [ended(&broker, EndKind::Processed).await, ended(&broker, EndKind::Failed).await];
    let state = async |id: EventId| broker.find_event(id).await.unwrap().map(|found| found.state);
    for ack in acks {
        match ack {
            Ack::Accepted(ids) => {
                for id in ids {
                    assert!(state(*id).await.is_some(), "{id} was accepted and is gone");
                }
            }
            Ack::Processed(id, children) => {
                let record = ended[0].get(id).unwrap_or_else(|| panic!("{id} was processed and is not"));
                assert_eq!(record.end.as_ref().map(|end| &end.children), Some(children));
            }
            Ack::Failed(id) => assert!(ended[1].contains_key(id), "{id} failed and has not"),
        }
    }
    // Children are there with their parent's end and never without it, acknowledged or not.
    let published: HashSet<EventId> =
        ended[0].values().flat_map(|record| record.end.iter().flat_map(|end| end.children.clone())).collect();
    for id in &published {
        assert!(state(*id).await.is_some(), "{id} was published by a processed event and is not there");
    }
    let stats = broker.stats().await.unwrap();
    assert_eq!(stats.counters.published, published.len() as u64);
    assert_eq!(stats.counters.processed, ended[0].len() as u64);
    assert_eq!(stats.counters.failed, ended[1].len() as u64);
    assert_eq!(stats.counters.data_losses, 0);
    drop(broker);
    count(dir, &stats);
}

/// Compares the totals with what counting gives, and has SQLite check every page.
fn count(dir: &Path, stats: &eventstream::broker::BrokerStats) {
    let db = Connection::open(dir.join("eventstream.db")).unwrap();
    let verdict: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    let count = |wanted: &str| -> u64 {
        db.query_row(&format!("SELECT count(*) FROM {wanted}"), [], |row| row.get::<_, i64>(0)).unwrap().unsigned_abs()
    };
    let depth = &stats.depth;
    assert_eq!(count("event"), count("body"));
    assert_eq!(count("event"), stats.counters.accepted + stats.counters.published);
    assert_eq!(count("event WHERE state = 1"), depth.running);
    assert_eq!(count("event WHERE state = 2"), depth.scheduled);
    assert_eq!(count("event WHERE state = 3"), depth.processed_kept);
    assert_eq!(count("event WHERE state = 4"), depth.failed_kept);
    for (lane, queued) in &depth.queued {
        let wanted = format!("event JOIN lane ON lane.number = event.lane WHERE state = 0 AND name = '{lane}'");
        assert_eq!(count(&wanted), *queued, "lane {lane}");
    }
}

async fn ended(broker: &EmbeddedBroker, ending: EndKind) -> HashMap<EventId, EventRecord> {
    let mut query = EndedQuery::all(ending, 1_000);
    let mut records = HashMap::new();
    loop {
        let page = broker.list_ended(query.clone()).await.unwrap();
        records.extend(page.records.into_iter().map(|record| (record.event.id, record)));
        match page.next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => return records,
        }
    }
}

/// Processes everything. Returns how many deliveries had to be taken over from dead consumers.
pub async fn recovered(broker: &EmbeddedBroker) -> u64 {
    let before = broker.stats().await.unwrap();
    let left = broker.recover(usize::MAX).await.unwrap();
    assert_eq!(left.len() as u64, before.depth.running, "whoever held them is gone");
    for delivery in &left {
        assert!(delivery.deliveries > 1);
        let found = broker.find_event(delivery.record.event.id).await.unwrap();
        assert_eq!(found.map(|found| found.state), Some(EventState::Running));
    }
    left.len() as u64
}
