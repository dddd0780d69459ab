//! Hosts of several versions on one Redis: records are written as every host reads them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use eventstream::broker::contract::*;
use eventstream::broker::{BrokerOptions, EndKind, EndedQuery, SettleOutcome};
use eventstream::event::{EventId, EventState, FailureClass, Settlement};

use crate::rig::RedisRig;

/// The first bytes of records that every host reads, and of those that only later hosts read.
const JSON: u8 = 1;
const BINARY: u8 = 3;

/// What a host announces that reads no binary records.
const EARLIER: &str = r#"{"lanes":{}}"#;

/// The fields of an entry: `id`, the id, `b` and the blob.
type Fields = (String, String, String, Vec<u8>);

/// A Redis on which a host of an earlier version is always alive.
struct EarlierRig(RedisRig);

#[async_trait]
impl BrokerRig for EarlierRig {
    async fn open(&self, options: BrokerOptions) -> Arc<dyn Broker> {
        earlier_host_beats(&self.0);
        self.0.direct(options).await
    }

    async fn kill(&self, broker: Arc<dyn Broker>) {
        drop(broker);
    }

    async fn damage(&self, id: EventId) {
        self.0.damage(id).await;
    }
}

/// Beats as `beat.lua` of an earlier host does.
fn earlier_host_beats(rig: &RedisRig) {
    let hb = RedisRig::key("hb");
    let _: i64 = rig.admin(&["HINCRBY", &hb, "c:earlier", "1"]);
    if rig.admin::<i64>(&["HSET", &hb, "s:earlier", EARLIER]) == 1 {
        let _: i64 = rig.admin(&["HINCRBY", &hb, "served", "1"]);
    }
}

/// Leaves as `reap.lua` of an earlier host does.
fn earlier_host_leaves(rig: &RedisRig) {
    let _: i64 = rig.admin(&["HDEL", &RedisRig::key("hb"), "c:earlier", "s:earlier"]);
}

/// The versions of the records in a stream, oldest first.
fn versions_in(rig: &RedisRig, name: &str) -> Vec<u8> {
    let entries: Vec<(String, Fields)> = rig.admin(&["XRANGE", &RedisRig::key(name), "-", "+"]);
    entries.into_iter().map(|(_, (_, _, _, blob))| blob[0]).collect()
}

#[tokio::test]
async fn records_are_written_as_the_earliest_living_host_reads_them() {
    let rig = RedisRig::new();
    let broker = rig.direct(short_lease()).await;
    broker.append(appends("a", 1)).await.unwrap();
    assert_eq!(versions_in(&rig, "q:a"), [BINARY], "no other host serves");

    earlier_host_beats(&rig);
    broker.refresh_peer_coverage().await.unwrap();
    broker.append(appends("a", 1)).await.unwrap();
    assert_eq!(versions_in(&rig, "q:a"), [BINARY, JSON]);
    let held = claim(&*broker, "a", 2).await;
    assert_eq!(settle_one(&*broker, &held[0], failed(FailureClass::Reject)).await, SettleOutcome::Done);
    let parents = vec![settle(&held[1], Settlement::Processed, appends("children", 1))];
    assert_eq!(broker.settle(parents).await, Ok(vec![SettleOutcome::Done]));
    assert_eq!((versions_in(&rig, "failed"), versions_in(&rig, "done")), (vec![JSON], vec![JSON]));
    assert_eq!(versions_in(&rig, "q:children"), [JSON]);
    let failed_id = held[0].record.event.id;

    let second = rig.direct(short_lease()).await;
    second.append(appends("b", 1)).await.unwrap();
    assert_eq!(versions_in(&rig, "q:b"), [JSON], "a host that starts beside it");

    earlier_host_leaves(&rig);
    eventually("the earlier host is known to be gone", || async {
        broker.refresh_peer_coverage().await.unwrap();
        broker.append(appends("c", 1)).await.unwrap();
        (versions_in(&rig, "q:c").last() == Some(&BINARY)).then_some(())
    })
    .await;
    broker.replay(failed_id, &lane("d"), None).await.unwrap();
    assert_eq!(versions_in(&rig, "q:d"), [BINARY], "a record changes its format when it is written again");
    assert_eq!(state(&*broker, failed_id).await, Some(EventState::Queued));
}

#[tokio::test]
async fn lists_and_leases_keep_the_contract_beside_an_earlier_host() {
    let rig = || EarlierRig(RedisRig::new());
    ends::ended_events_are_filtered(&rig()).await;
    ends::what_is_rare_is_found_page_by_page(&rig()).await;
    ends::what_cannot_be_read_fails_and_looks_the_same_everywhere(&rig()).await;
    leases::a_settle_is_repeatable_and_takes_effect_once(&rig()).await;
    let last = rig();
    ends::heads_are_listed_with_what_routes_them(&last).await;
    assert_eq!(versions_in(&last.0, "failed"), [JSON; 4]);
}

#[tokio::test]
async fn one_list_shows_records_of_both_versions() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let mut ids = Vec::new();
    for class in [FailureClass::Trap, FailureClass::Reject, FailureClass::Trap, FailureClass::Reject] {
        if ids.len() == 2 {
            earlier_host_beats(&rig);
            broker.refresh_peer_coverage().await.unwrap();
        }
        let delivery = deliver_one(&*broker, "a").await;
        settle_one(&*broker, &delivery, failed(class)).await;
        ids.insert(0, delivery.record.event.id);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(versions_in(&rig, "failed"), [BINARY, BINARY, JSON, JSON]);
    let all = all_ended(&*broker, EndKind::Failed).await;
    assert_eq!(all.iter().map(|record| record.event.id).collect::<Vec<_>>(), ids);
    let end_of = |place: usize| all[place].end.as_ref().map(|end| end.at);
    let query = EndedQuery { limit: 1_000, ..ended(EndKind::Failed) };
    let trap = Some(FailureClass::Trap);
    for (query, expected) in [
        (EndedQuery { class: trap, ..query.clone() }, vec![ids[1], ids[3]]),
        (EndedQuery { since: end_of(2), ..query.clone() }, ids[..3].to_vec()),
        (EndedQuery { until: end_of(1), ..query.clone() }, ids[2..].to_vec()),
        (EndedQuery { until: end_of(0), since: end_of(2), ..query.clone() }, ids[1..3].to_vec()),
        (EndedQuery { event_type: "order.paid".parse().ok(), class: trap, ..query.clone() }, vec![ids[1], ids[3]]),
        (EndedQuery { event_type: "other".parse().ok(), ..query.clone() }, Vec::new()),
        (EndedQuery { only_heads: true, class: trap, ..query.clone() }, vec![ids[1], ids[3]]),
    ] {
        let page = broker.list_ended(query.clone()).await.expect("a page");
        assert_eq!(page.records.iter().map(|record| record.event.id).collect::<Vec<_>>(), expected, "{query:?}");
        assert!(page.records.iter().all(|record| record.event.data.is_none() == query.only_heads), "{query:?}");
    }
}
