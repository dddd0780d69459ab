//! Moves to another store with faults: exports that are cut off, wrong lines, and stores that are in use or damaged.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use eventstream::broker::contract::{append_to, claim, event, failed, idempotency, settle_one};
use eventstream::broker::embedded::{EmbeddedBroker, snapshot};
use eventstream::broker::{AppendRequest, Broker, EventLog, SnapshotItem, SnapshotReader, StoreTransfer};
use eventstream::event::{DeliveryStart, EventData, EventId, FailureClass};
use eventstream::transfer::{Error, ExportNotice, TransferCounts, export, import};
use rusqlite::Connection;

use super::audit::{self, open};
use super::load;

/// A store with some events of each kind.
async fn fill(broker: &EmbeddedBroker, n: u8) -> Vec<EventId> {
    let mut ids = Vec::new();
    for key in 0..n {
        let mut data = event("order.paid");
        data.data = Some(EventData::text(format!("{{\"n\":\"{}\"}}", "ä".repeat(usize::from(key)))));
        let waiting = AppendRequest { idempotency: idempotency(key, 1), ..append_to("a", data) };
        let later = AppendRequest { start: DeliveryStart::InMs(3_600_000), ..append_to("b", event("order.due")) };
        let failing = append_to("c", event("order.failed"));
        ids.extend(broker.append(vec![waiting, later, failing]).await.unwrap().iter().map(|accepted| accepted.id));
        let delivery = claim(broker, "c", 1).await.pop().unwrap();
        settle_one(broker, &delivery, failed(FailureClass::Reject)).await;
    }
    ids
}

async fn exported(mut snapshot: Box<dyn SnapshotReader>) -> (Vec<u8>, TransferCounts, Vec<String>) {
    let (mut text, mut moved, mut left_out) = (Vec::new(), TransferCounts::default(), Vec::new());
    let mut tell = |told: ExportNotice<'_>| {
        if let ExportNotice::LeftOut(why) = told {
            left_out.push(why.to_owned());
        }
    };
    export(&mut *snapshot, &mut text, &mut moved, &mut tell).await.unwrap();
    (text, moved, left_out)
}

async fn imported(broker: &EmbeddedBroker, mut text: &[u8]) -> (Result<(), Error>, TransferCounts) {
    let mut moved = TransferCounts::default();
    let done = import(broker, broker, &mut text, &mut moved, &mut |_| ()).await;
    (done, moved)
}

/// The lines of an export in order, without the first one, which has the time of the export.
fn lines(text: &[u8]) -> Vec<&str> {
    let mut lines: Vec<&str> = std::str::from_utf8(text).unwrap().lines().skip(1).collect();
    lines.sort_unstable();
    lines
}

#[tokio::test]
async fn an_export_that_is_cut_off_anywhere_is_noticed_and_finished_by_the_whole_one() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(&dir.path().join("source"));
    fill(&source, 2).await;
    let (text, moved, _) = exported(source.snapshot().await.unwrap()).await;
    assert_eq!((moved.keys, moved.events, moved.failed), (2, 4, 2));
    let broker = open(&dir.path().join("other"));
    let header_bytes = text.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for cut in 0..text.len() {
        let (done, _) = imported(&broker, &text[..cut]).await;
        match done {
            Err(Error::NotAnExport) => assert!(cut < header_bytes, "{cut} bytes"),
            Err(Error::CutShort) => assert!(cut >= header_bytes - 1, "{cut} bytes"),
            other => panic!("{cut} bytes: {other:?}"),
        }
    }
    // Every line but the last was whole in one of them.
    let (done, moved) = imported(&broker, &text).await;
    assert!(done.is_ok() && moved == TransferCounts { known: 8, ..TransferCounts::default() }, "{done:?} {moved:?}");
    assert_eq!(broker.stats().await.unwrap().counters.accepted, 6);
    let (again, _, _) = exported(broker.snapshot().await.unwrap()).await;
    assert_eq!(lines(&again), lines(&text));
}

#[tokio::test]
async fn a_line_that_is_wrong_is_named_and_what_stands_before_it_is_imported() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(&dir.path().join("source"));
    fill(&source, 3).await;
    let (text, _, _) = exported(source.snapshot().await.unwrap()).await;
    let text = String::from_utf8(text).unwrap();
    let broker = open(&dir.path().join("other"));
    // Three keys and a first event stand before it.
    let wrong =
        text.replacen("\"lane\":\"a\"", "\"lane\":\"a b\"", 2).replacen("\"lane\":\"a b\"", "\"lane\":\"a\"", 1);
    let (done, moved) = imported(&broker, wrong.as_bytes()).await;
    assert!(matches!(&done, Err(Error::Line { number: 6, reason }) if reason.contains("lane")), "{done:?}");
    assert_eq!(moved, TransferCounts { keys: 3, events: 1, ..TransferCounts::default() });
    // The last line reveals a line that is missing or there twice.
    let fewer: Vec<&str> = text.lines().enumerate().filter(|(place, _)| *place != 5).map(|(_, line)| line).collect();
    let (done, _) = imported(&broker, (fewer.join("\n") + "\n").as_bytes()).await;
    assert!(matches!(done, Err(Error::CutShort)), "{done:?}");
    for twice in [text.clone() + &text, text.clone() + "\n"] {
        let (done, _) = imported(&broker, twice.as_bytes()).await;
        assert!(matches!(done, Err(Error::Line { number: 15, .. })), "{done:?}");
    }
    assert_eq!(broker.stats().await.unwrap().counters.accepted, 9);
}

#[tokio::test]
async fn a_snapshot_is_of_the_moment_at_which_it_began_and_needs_no_free_directory() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    let ids = fill(&broker, 200).await;
    let (before, _, _) = exported(broker.snapshot().await.unwrap()).await;
    let mut beside = snapshot(dir.path()).unwrap();
    let mut parts = vec![beside.next().await.unwrap().unwrap()];
    // Events move between states while they are read.
    for delivery in claim(&*broker, "a", 300).await {
        settle_one(&*broker, &delivery, eventstream::event::Settlement::Processed).await;
    }
    for id in &ids {
        broker.replay(*id, &"b".parse().unwrap(), None).await.unwrap();
    }
    fill(&broker, 100).await;
    while let Some(part) = beside.next().await.unwrap() {
        parts.push(part);
    }
    let read: Vec<SnapshotItem> = parts.into_iter().flat_map(|part| part.items).collect();
    assert_eq!(read.len(), lines(&before).len() - 1);
    let other = open(&dir.path().join("other"));
    other.restore(read).await.unwrap();
    let (after, _, _) = exported(other.snapshot().await.unwrap()).await;
    assert_eq!(lines(&after), lines(&before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_under_load_hold_what_adds_up_and_can_be_worked_off_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(&dir.path().join("source"));
    let (stop, path) = (Arc::new(AtomicBool::new(false)), dir.path().join("source"));
    let loading = load::run(broker.clone(), stop.clone(), |_| ());
    let exporting = async {
        for round in 0..5 {
            let (text, moved, left_out) = exported(snapshot(&path).unwrap()).await;
            assert_eq!(left_out, [""; 0]);
            let copy = dir.path().join(format!("copy-{round}"));
            let other = open(&copy);
            let (done, imported) = imported(&other, &text).await;
            done.unwrap();
            assert_eq!((imported.events, imported.failed, imported.known), (moved.events, moved.failed, 0));
            drop(other);
            audit::audit(&copy, &[]).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(loading, exporting);
}

#[tokio::test]
async fn what_is_damaged_is_left_out_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    let ids = fill(&broker, 3).await;
    broker.close().await.unwrap();
    drop(broker);
    damage(dir.path(), "UPDATE body SET data = 'x' WHERE number = (SELECT number FROM event WHERE type = 'order.due')");
    damage(dir.path(), "UPDATE event SET story = 'x' WHERE number = (SELECT min(number) FROM event WHERE state = 4)");
    let (_, moved, left_out) = exported(snapshot(dir.path()).unwrap()).await;
    assert_eq!((moved.keys, moved.events, moved.failed, moved.unreadable), (3, 5, 2, 2));
    assert!(left_out[0].contains(&ids[1].to_string()) && left_out[1].contains(&ids[2].to_string()), "{left_out:?}");
    damage(dir.path(), "PRAGMA user_version = 99");
    let refused = snapshot(dir.path()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("newer"), "{refused}");
    assert!(snapshot(&dir.path().join("nothing")).is_err());
}

fn damage(dir: &Path, sql: &str) {
    Connection::open(dir.join("eventstream.db")).unwrap().execute_batch(sql).unwrap();
}
