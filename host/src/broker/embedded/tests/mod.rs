//! Tests of the embedded broker beyond the suite for all brokers: restarts, faults, disk space, damage.
//!
//! Each test has its own directory. Faults that need another file system beneath SQLite are tested from outside.

mod damage;
mod model;
mod room;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use super::broker::MAX_WAIT;
use super::step::CommitMode;
use super::{BackupError, EmbeddedBroker, EmbeddedOpenError, history};
use crate::broker::{
    AcceptedEvent, AppendRequest, Broker, BrokerOptions, ClaimRequest, Delivery, EndKind, EndedQuery, Error, EventLog,
    FailedEventChange, Lane, LaneDemand, Receipt, SettleOutcome, SettleRequest, WorkQueue, contract, contract::lane,
};
use crate::clock;
use crate::event::{
    AttemptRecord, DEFAULT_SOURCE, DeliveryStart, Event, EventData, EventId, EventRecord, EventState, EventType,
    FailureClass, Idempotency, Settlement, Timestamp,
};
use crate::shutdown::TaskGroup;

pub(super) fn options() -> BrokerOptions {
    BrokerOptions { consumer_name: "test".into(), ..BrokerOptions::default() }
}

pub(super) fn open_with(dir: &Path, options: BrokerOptions) -> Arc<EmbeddedBroker> {
    EmbeddedBroker::open(dir, options, &TaskGroup::new()).unwrap()
}

pub(super) fn open(dir: &Path) -> Arc<EmbeddedBroker> {
    open_with(dir, options())
}

pub(super) fn new_event(event_type: &str) -> Event {
    Event {
        data_content_type: Some("application/json".into()),
        data: Some(EventData::text(r#"{"n":12345678901234567890.10}"#)),
        ..Event::new(event_type.parse().unwrap(), DEFAULT_SOURCE, clock::now())
    }
}

pub(super) fn new_append(to: &str) -> AppendRequest {
    contract::append_to(to, new_event("t"))
}

/// Checks the tallies of every lane against what counting gives.
pub(super) async fn recount(broker: &EmbeddedBroker) {
    let count = |db: &rusqlite::Connection| {
        let mut rows = db.prepare(
            "SELECT l.name, iif(e.state < 3, 0, e.state) AS part, count(*), sum(200 + octet_length(b.head) + coalesce(octet_length(b.data), 0) \
             + coalesce(octet_length(e.story), 0) + coalesce(octet_length(e.result), 0)) FROM event AS e JOIN body AS b USING (number) JOIN lane AS l ON l.number = e.lane \
             GROUP BY l.name, part",
        )?;
        let rows = rows.query_map([], |row| {
            let [part, events, bytes] = [row.get::<_, i64>(1)?, row.get(2)?, row.get(3)?];
            Ok(((row.get::<_, String>(0)?, part), (events.unsigned_abs(), bytes.unsigned_abs())))
        })?;
        rows.collect::<rusqlite::Result<std::collections::BTreeMap<_, _>>>()
    };
    let counted = broker.readers.read(move |db| count(db)).await.unwrap();
    for total in &broker.totals.borrow().lanes {
        let parts = [(0, total.waiting), (3, total.processed), (4, total.failed), (5, total.discarded)];
        for (part, tally) in parts {
            let expected = counted.get(&(total.lane.to_string(), part)).copied().unwrap_or_default();
            assert_eq!((tally.events, tally.bytes), expected, "{} in part {part}", total.lane);
        }
    }
}

pub(super) fn want(to: &str, free: usize) -> ClaimRequest {
    ClaimRequest { lanes: vec![LaneDemand { lane: lane(to), free }], max: free }
}

/// The settle of a delivery, whose record has every kind of column.
pub(super) fn settle_as(delivery: &Delivery, settlement: Settlement) -> SettleRequest {
    let attempt = AttemptRecord { plugin: Some("p".into()), class: None, ..contract::attempt(delivery, &settlement) };
    let result = Some(EventData::binary(&b"\x00\xff"[..]));
    let record = delivery.record.clone().with_attempt(attempt, &settlement, clock::now(), result, Vec::new());
    SettleRequest { record, ..contract::settle(delivery, settlement, Vec::new()) }
}

pub(super) fn failed() -> Settlement {
    Settlement::Failed { class: FailureClass::Reject, reason: "no".into() }
}

async fn state_of(broker: &EmbeddedBroker, id: EventId) -> Option<EventState> {
    broker.find_event(id).await.unwrap().map(|found| found.state)
}

fn all(ending: EndKind) -> EndedQuery {
    EndedQuery::all(ending, 2)
}

#[tokio::test]
async fn a_record_comes_back_as_it_went_in_from_every_state() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    let event = Event {
        source: "/a".into(),
        subject: Some("s".into()),
        time: Some("2026-11-23T15:04:05Z".into()),
        data_content_type: None,
        data_schema: Some("x:y".into()),
        extensions: [("traceparent".to_owned(), "00-é".to_owned())].into(),
        cause: Some(EventId::new()),
        depth: 2,
        data: Some(EventData::binary(vec![0, 255, 10])),
        ..new_event("a.b/c:d")
    };
    for data in
        [None, Some(EventData::text("")), Some(EventData::binary(vec![])), event.data.clone(), new_event("t").data]
    {
        let event = Event { id: EventId::new(), data, ..event.clone() };
        let append = AppendRequest { record: EventRecord::new(event.clone()), ..new_append("a") };
        broker.append(vec![append]).await.unwrap();
        let found = broker.find_event(event.id).await.unwrap().unwrap();
        assert_eq!((found.record, found.state), (EventRecord::new(event.clone()), EventState::Queued));
        let delivery = broker.claim(want("a", 1)).await.unwrap().remove(0);
        assert_eq!(*delivery.record.event, event);
        let settle = settle_as(&delivery, Settlement::Processed);
        assert_eq!(broker.settle(vec![settle.clone()]).await, Ok(vec![SettleOutcome::Done]));
        let found = broker.find_event(event.id).await.unwrap().unwrap();
        assert_eq!((found.record, found.state), (settle.record, EventState::Processed));
    }
}

#[tokio::test]
async fn what_a_dead_process_held_is_taken_over_at_once_and_its_receipts_are_worth_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    let id = broker.append(vec![new_append("a")]).await.unwrap()[0].id;
    let held = broker.claim(want("a", 1)).await.unwrap().remove(0);
    let mut broker = broker;
    for deaths in 1..=6 {
        if deaths % 2 == 0 {
            broker.close().await.unwrap();
            assert!(broker.append(vec![new_append("a")]).await.is_err());
        } else {
            drop(broker);
        }
        broker = open(dir.path());
        assert_eq!(broker.claim(want("a", 9)).await, Ok(vec![]));
        assert_eq!(broker.settle(vec![settle_as(&held, Settlement::Processed)]).await, Ok(vec![SettleOutcome::Lost]));
        assert_eq!(broker.lease_renewal().renew(std::slice::from_ref(&held.receipt)).await.unwrap().len(), 1);
        let taken = broker.recover(9).await.unwrap();
        assert_eq!((taken.len(), taken[0].record.event.id, taken[0].deliveries), (1, id, deaths + 1));
        assert_eq!(broker.recover(9).await, Ok(vec![]));
    }
}

#[tokio::test]
async fn a_directory_has_one_broker() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    let refused = EmbeddedBroker::open(dir.path(), options(), &TaskGroup::new()).map(drop).unwrap_err();
    assert!(matches!(&refused, EmbeddedOpenError::InUse(path) if path == dir.path()), "{refused}");
    drop(broker);
    open(dir.path());
}

#[tokio::test]
async fn a_refused_request_costs_its_neighbors_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open_with(dir.path(), BrokerOptions { max_waiting: 20, ..options() });
    broker.limit_lanes([(lane("a"), 20)].into());
    let requests = (0..40).map(|index| {
        let broker = broker.clone();
        async move {
            let key = Some(Idempotency { key: [index % 10; 32], fingerprint: [index / 10; 32] });
            broker.append(vec![new_append("a"), AppendRequest { idempotency: key, ..new_append("a") }]).await
        }
    });
    let answers = futures_util::future::join_all(requests).await;
    let accepted = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(accepted, 10, "{answers:?}");
    assert!(answers.iter().any(|answer| matches!(answer, Err(Error::Conflict(at)) if at == &[1])));
    let stats = broker.stats().await.unwrap();
    assert_eq!((stats.counters.accepted, stats.depth.waiting()), (20, 20));
}

#[tokio::test]
async fn waiting_ends_when_an_event_comes_to_one_of_the_lanes() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    let lanes = [lane("a"), lane("b")];
    for to in ["b", "a"] {
        let mut tries = 0..10;
        // On a slow disk one try may take as long as a whole wait, but not every try.
        let is_woken = loop {
            let started = std::time::Instant::now();
            let (waited, appended) = tokio::join!(broker.wait_for_work(&lanes), broker.append(vec![new_append(to)]));
            waited.unwrap();
            appended.unwrap();
            let elapsed = started.elapsed();
            assert_eq!(broker.claim(want(to, 1)).await.unwrap().len(), 1);
            if elapsed < MAX_WAIT || tries.next().is_none() {
                break elapsed < MAX_WAIT;
            }
        };
        assert!(is_woken, "it was the time that ended it");
    }
    broker.append(vec![new_append("elsewhere")]).await.unwrap();
    assert!(broker.wait_for_work(&lanes).now_or_never().is_none(), "nothing waits in these lanes");
}

#[tokio::test]
async fn history_is_paged_from_the_newest_and_filtered() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    let mut processed = Vec::new();
    for index in 0..5 {
        let mut append = new_append("a");
        Arc::make_mut(&mut append.record.event).event_type =
            if index % 2 == 0 { "even" } else { "odd" }.parse().unwrap();
        processed.insert(0, append.record.event.id);
        broker.append(vec![append]).await.unwrap();
        let delivery = broker.claim(want("a", 1)).await.unwrap().remove(0);
        broker.settle(vec![settle_as(&delivery, Settlement::Processed)]).await.unwrap();
    }
    let pages = async |query: EndedQuery| {
        let (mut query, mut ids) = (query, Vec::new());
        loop {
            let page = broker.list_ended(query.clone()).await.unwrap();
            assert!(page.records.len() <= query.limit);
            ids.extend(page.records.iter().map(|record| record.event.id));
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return ids,
            }
        }
    };
    assert_eq!(pages(all(EndKind::Processed)).await, processed);
    assert_eq!(pages(all(EndKind::Failed)).await, []);
    let odd: EventType = "odd".parse().unwrap();
    assert_eq!(
        pages(EndedQuery { event_type: Some(odd), ..all(EndKind::Processed) }).await,
        [processed[1], processed[3]]
    );
    let future = Some(clock::now().plus_ms(10_000));
    assert_eq!(pages(EndedQuery { since: future, ..all(EndKind::Processed) }).await, []);
    assert_eq!(pages(EndedQuery { until: future, ..all(EndKind::Processed) }).await, processed);
    assert_eq!(pages(EndedQuery { until: Some(Timestamp::from_unix_ms(0)), ..all(EndKind::Processed) }).await, []);
    let nonsense = EndedQuery { cursor: Some("nonsense".into()), ..all(EndKind::Processed) };
    assert_eq!(broker.list_ended(nonsense).await, Err(Error::BadCursor));
}

#[tokio::test]
async fn a_copy_made_while_events_come_in_opens_and_holds_what_was_accepted_before() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    let broker = open(&dir.path().join("store"));
    let mut before = Vec::new();
    for _ in 0..50 {
        before.extend(broker.append(vec![new_append("a"); 1]).await.unwrap());
    }
    let (reports, reported) = std::sync::mpsc::channel();
    let load = async {
        for _ in 0..50 {
            broker.append(vec![new_append("b")]).await.unwrap();
        }
    };
    let progress = move |done, all| reports.send((done, all)).unwrap_or_default();
    let (copied, ()) = tokio::join!(broker.backup(&copy, progress), load);
    copied.unwrap();
    let last = reported.iter().last().unwrap();
    assert!(last.0 == last.1 && last.0 > 0);
    assert!(matches!(broker.backup(&copy, |_, _| ()).await, Err(BackupError::Taken(_))));
    assert_eq!(std::fs::read_dir(&copy).unwrap().count(), 1, "one file");
    let copy = open(&copy);
    for accepted in before {
        assert_eq!(state_of(&copy, accepted.id).await, Some(EventState::Queued));
    }
    let depth = copy.stats().await.unwrap().depth;
    assert_eq!(copy.claim(want("a", 100)).await.unwrap().len() as u64, depth.queued["a"]);
    assert_eq!(copy.claim(want("b", 100)).await.unwrap().len() as u64, depth.queued.get("b").copied().unwrap_or(0));
}
