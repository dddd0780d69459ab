//! Disk space: a full disk, and the room that ended events give back.

use super::*;
use crate::broker::RetentionLimits;
use crate::event::AttemptDetail;

/// Lets the database grow by so many pages at most, as a full disk would.
async fn limit_pages(broker: &EmbeddedBroker, more: Option<i64>) {
    let limited = broker.writer.run(CommitMode::Written, move |step| {
        let pages: i64 = step.db.pragma_query_value(None, "page_count", |row| row.get(0))?;
        let limit = more.map_or(i64::from(u32::MAX) - 1, |more| pages + more);
        step.db.pragma_update_and_check(None, "max_page_count", limit, |row| row.get::<_, i64>(0))?;
        Ok(Ok(()))
    });
    limited.await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_what_comes_in_and_heals_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    limit_pages(&broker, Some(40)).await;
    let mut accepted = Vec::new();
    let refused = loop {
        match broker.append((0..20).map(|_| new_append("a")).collect()).await {
            Ok(answers) => accepted.extend(answers),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::NoRoom(_)), "{refused}");
    assert!(broker.health().trouble.unwrap().contains("no room"));
    // Accepted events are stored, refused ones are not, and the totals agree.
    let depth = broker.stats().await.unwrap().depth;
    assert_eq!(depth.queued["a"] as usize, accepted.len());
    assert_eq!(broker.claim(want("a", 3)).await.unwrap().len(), 3, "waiting events are handled");
    assert!(broker.maintain().await.is_err());
    limit_pages(&broker, None).await;
    broker.maintain().await.unwrap();
    assert_eq!(broker.health().trouble, None);
    accepted.extend(broker.append(vec![new_append("a")]).await.unwrap());
    drop(broker);
    let broker = open(dir.path());
    for accepted in accepted {
        assert!(state_of(&broker, accepted.id).await.is_some());
    }
}

#[tokio::test]
async fn an_input_or_output_error_is_final_until_the_store_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    let kept = broker.append(vec![new_append("a")]).await.unwrap()[0].id;
    let failing = broker.writer.run(CommitMode::Synced, |_| -> rusqlite::Result<Result<(), Error>> {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
        Err(rusqlite::Error::SqliteFailure(code, None))
    });
    let append = new_append("a");
    let caught = append.record.event.id;
    let (failed, neighbor) = tokio::join!(failing, broker.append(vec![append]));
    assert!(matches!(failed, Err(Error::Unavailable { outcome_known: false, .. })), "{failed:?}");
    let later = broker.append(vec![new_append("a")]).await.unwrap_err();
    assert!(matches!(later, Error::Unavailable { outcome_known: true, .. }), "{later:?}");
    assert!(broker.claim(want("a", 1)).await.is_err());
    assert!(broker.wait_for_work(&[lane("a")]).await.is_err());
    assert!(broker.health().trouble.unwrap().contains("started again"));
    drop(broker);
    let broker = open(dir.path());
    assert_eq!(broker.health().trouble, None);
    assert_eq!(state_of(&broker, kept).await, Some(EventState::Queued));
    assert_eq!(state_of(&broker, caught).await.is_some(), neighbor.is_ok());
}

#[tokio::test]
async fn processed_events_are_trimmed_by_number_and_age_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let retention = RetentionLimits {
        processed_ms: u64::MAX,
        processed_max: 4,
        processed_max_bytes: u64::MAX,
        discarded_ms: u64::MAX,
        idempotency_ms: u64::MAX,
        idempotency_max_bytes: u64::MAX,
        ..BrokerOptions::default().retention
    };
    let broker = open_with(dir.path(), BrokerOptions { retention, ..options() });
    let mut ids = Vec::new();
    for index in 0..12_u8 {
        let key = Some(Idempotency { key: [index; 32], fingerprint: [0; 32] });
        ids.push(broker.append(vec![AppendRequest { idempotency: key, ..new_append("a") }]).await.unwrap()[0].id);
        let delivery = broker.claim(want("a", 1)).await.unwrap().remove(0);
        let settlement = if index < 4 { failed() } else { Settlement::Processed };
        broker.settle(vec![settle_as(&delivery, settlement)]).await.unwrap();
    }
    broker.maintain().await.unwrap();
    let kept = async |broker: &EmbeddedBroker| {
        let mut kept = Vec::new();
        for (index, id) in ids.iter().enumerate() {
            if state_of(broker, *id).await.is_some() {
                kept.push(index);
            }
        }
        kept
    };
    assert_eq!(kept(&broker).await, [0, 1, 2, 3, 8, 9, 10, 11]);
    assert_eq!(broker.stats().await.unwrap().depth.processed_kept, 4);
    drop(broker);
    let retention = RetentionLimits {
        processed_ms: 0,
        processed_max: 4,
        processed_max_bytes: u64::MAX,
        discarded_ms: 0,
        idempotency_ms: 0,
        idempotency_max_bytes: u64::MAX,
        ..BrokerOptions::default().retention
    };
    let broker = open_with(dir.path(), BrokerOptions { retention, ..options() });
    let trimmed = async {
        while broker.stats().await.unwrap().depth.processed_kept > 0 {
            broker.maintain().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), trimmed).await.unwrap();
    assert_eq!(kept(&broker).await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn the_space_of_ended_events_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let retention = RetentionLimits {
        processed_ms: 0,
        processed_max: 0,
        processed_max_bytes: u64::MAX,
        discarded_ms: 0,
        idempotency_ms: 0,
        idempotency_max_bytes: u64::MAX,
        ..BrokerOptions::default().retention
    };
    let broker = open_with(dir.path(), BrokerOptions { retention, ..options() });
    let large = |_| {
        let mut append = new_append("a");
        Arc::make_mut(&mut append.record.event).data = Some(EventData::binary(vec![7; 20_000]));
        append
    };
    for _ in 0..10 {
        broker.append((0..50).map(large).collect()).await.unwrap();
    }
    broker.close().await.unwrap();
    drop(broker);
    let file = dir.path().join("eventstream.db");
    let full = std::fs::metadata(&file).unwrap().len();
    assert!(full > 500 * 20_000);
    let broker = open_with(dir.path(), BrokerOptions { retention, ..options() });
    loop {
        let deliveries = broker.claim(want("a", 100)).await.unwrap();
        if deliveries.is_empty() {
            break;
        }
        let settles = deliveries.iter().map(|delivery| settle_as(delivery, Settlement::Processed)).collect();
        broker.settle(settles).await.unwrap();
        broker.maintain().await.unwrap();
    }
    broker.maintain().await.unwrap();
    // While the broker runs, not only when it closes.
    let left = || std::fs::metadata(&file).unwrap().len();
    let shrinks = async {
        while left() >= full / 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let shrunk = tokio::time::timeout(Duration::from_secs(60), shrinks).await;
    assert!(shrunk.is_ok(), "{} of {full} bytes are left", left());
}

#[tokio::test]
async fn discarded_events_are_trimmed_by_age_and_by_bytes_apart_from_processed_ones() {
    let dir = tempfile::tempdir().unwrap();
    let day = BrokerOptions::default().retention;
    let serve = |retention| open_with(dir.path(), BrokerOptions { retention, ..options() });
    let counts = async |broker: &EmbeddedBroker| {
        while broker.maintain().await.unwrap() {}
        recount(broker).await;
        let lane = broker.totals.borrow().lanes[0].clone();
        (lane.processed.events, lane.discarded.events)
    };
    let broker = serve(RetentionLimits { processed_max: 3, ..day });
    let mut ids = Vec::new();
    for _ in 0..6 {
        broker.append(vec![new_append("a"), new_append("a")]).await.unwrap();
        let deliveries = broker.claim(want("a", 2)).await.unwrap();
        let settles = vec![settle_as(&deliveries[0], Settlement::Processed), settle_as(&deliveries[1], failed())];
        broker.settle(settles).await.unwrap();
        ids.push(deliveries[1].record.event.id);
        assert_eq!(broker.discard(ids[ids.len() - 1], "old", None).await, Ok(FailedEventChange::Done));
    }
    assert_eq!(counts(&broker).await, (3, 6), "the number is one of processed events");
    let bytes: u64 = broker.stats().await.unwrap().depth.kept_bytes_by_lane.values().sum();
    drop(broker);

    let broker = serve(RetentionLimits { processed_max_bytes: bytes - 1, ..day });
    assert_eq!(counts(&broker).await, (3, 5), "the larger part of the history gives way");
    assert_eq!(broker.find_event(ids[0]).await, Ok(None), "the oldest first");
    drop(broker);

    let broker = serve(RetentionLimits { discarded_ms: 0, ..day });
    contract::eventually("they are older than that", || async { (counts(&broker).await == (3, 0)).then_some(()) })
        .await;
}

#[tokio::test]
async fn a_lane_full_of_small_events_has_room_for_their_attempts() {
    const LIMIT_BYTES: u64 = 200_000;
    let dir = tempfile::tempdir().unwrap();
    let broker = open_with(dir.path(), BrokerOptions { max_waiting_bytes: LIMIT_BYTES, ..options() });
    let refused = loop {
        if let Err(refused) = broker.append(vec![new_append("a")]).await {
            break refused;
        }
    };
    assert!(matches!(refused, Error::LaneHeavy { waiting_bytes: 150_000.., .. }), "{refused}");
    let deliveries = broker.claim(want("a", 1_000)).await.unwrap();
    assert!(deliveries.len() > 100, "{}", deliveries.len());
    for delivery in deliveries {
        let retry = Settlement::Retry { class: FailureClass::Trap, delay_ms: 1_000 };
        let mut settle = settle_as(&delivery, retry);
        settle.record.attempts[0].error = Some("e".repeat(4_000));
        settle.record = settle.record.with_detail(AttemptDetail::Compact);
        assert_eq!(broker.settle(vec![settle]).await.unwrap(), [SettleOutcome::Done]);
    }
    let depth = broker.stats().await.unwrap().depth;
    let held_bytes = depth.waiting_bytes_by_lane["a"];
    assert!((LIMIT_BYTES / 2..=LIMIT_BYTES).contains(&held_bytes), "{held_bytes}");
}
