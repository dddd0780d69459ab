//! Damaged files: truncated, with flipped bits, removed, replaced, or of another version. The broker refuses them.

use std::fs;
use std::os::unix::fs::FileExt;

use rusqlite::Connection;

use super::*;

/// Makes a store with events and closes it, so that everything is in one file.
async fn closed_store(dir: &Path, events: usize) -> Vec<EventId> {
    let broker = open(dir);
    let ids = broker.append((0..events).map(|_| new_append("a")).collect()).await.unwrap();
    broker.close().await.unwrap();
    drop(broker);
    ids.into_iter().map(|accepted| accepted.id).collect()
}

fn refusal(dir: &Path) -> String {
    let refused = EmbeddedBroker::open(dir, options(), &TaskGroup::new()).map(drop).unwrap_err();
    assert!(matches!(refused, EmbeddedOpenError::Database { .. }), "{refused}");
    refused.to_string()
}

#[tokio::test]
async fn a_file_that_was_cut_short_is_refused_wherever_it_was_cut() {
    let dir = tempfile::tempdir().unwrap();
    closed_store(dir.path(), 200).await;
    let file = dir.path().join("eventstream.db");
    let whole = fs::read(&file).unwrap();
    assert!(!dir.path().join("eventstream.db-wal").exists());
    for kept in [0, 1, 50, 100, 511, 4_096, 4_097, whole.len() / 2, whole.len() - 4_096, whole.len() - 1] {
        fs::write(&file, &whole[..kept]).unwrap();
        let said = refusal(dir.path());
        assert!(said.contains("restore a backup"), "{kept} bytes: {said}");
        assert_eq!(fs::read(&file).unwrap(), whole[..kept], "left as it was");
    }
    fs::write(&file, &whole).unwrap();
    assert_eq!(open(dir.path()).claim(want("a", 500)).await.unwrap().len(), 200);
}

#[tokio::test]
async fn flipped_bytes_are_said_and_never_handed_to_a_handler() {
    let dir = tempfile::tempdir().unwrap();
    let ids = closed_store(dir.path(), 60).await;
    let file = dir.path().join("eventstream.db");
    let whole = fs::read(&file).unwrap();
    let expected = new_event("t").data;
    let payload = &expected.as_ref().unwrap().bytes;
    let payloads: Vec<usize> = (0..whole.len()).filter(|place| whole[*place..].starts_with(payload)).collect();
    assert!(payloads.len() >= ids.len());
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut refused, mut noticed) = (0, 0);
    for round in 0..150 {
        // Most of a small file is unused, so every third byte is one of a payload.
        let in_payload = payloads[random.usize(..payloads.len())] + random.usize(..payload.len());
        let place = if round % 3 == 0 { in_payload } else { random.usize(..whole.len()) };
        fs::write(&file, &whole).unwrap();
        fs::remove_file(dir.path().join("eventstream.db-wal")).unwrap_or_default();
        let out = fs::File::options().write(true).open(&file).unwrap();
        out.write_all_at(&[whole[place] ^ (1 << random.u8(..8))], place as u64).unwrap();
        drop(out);
        let Ok(broker) = EmbeddedBroker::open(dir.path(), options(), &TaskGroup::new()) else {
            refused += 1;
            continue;
        };
        let claimed = broker.claim(want("a", 100)).await;
        let Ok(deliveries) = claimed else {
            assert!(broker.health().trouble.is_some(), "seed {seed}, round {round}, byte {place}: {claimed:?}");
            noticed += 1;
            continue;
        };
        for delivery in &deliveries {
            assert!(ids.contains(&delivery.record.event.id), "seed {seed}, round {round}, byte {place}");
            assert_eq!(delivery.record.event.data, expected, "seed {seed}, round {round}, byte {place}");
        }
        let bad = broker.list_ended(all(EndKind::Failed)).await.map_or(0, |page| page.records.len());
        noticed += usize::from(bad > 0);
    }
    assert!(refused > 0 && noticed > 0, "seed {seed}: {refused} refused, {noticed} noticed later");
}

#[tokio::test]
async fn an_event_that_cannot_be_read_fails_with_its_bytes_kept_and_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let ids = closed_store(dir.path(), 3).await;
    let db = Connection::open(dir.path().join("eventstream.db")).unwrap();
    db.execute("UPDATE body SET head = '[' || substr(head, 2) WHERE number = 1", []).unwrap();
    db.execute("UPDATE event SET story = 'x', checksum = 0 WHERE number = 2", []).unwrap();
    // Damage on a disk changes no size, and the second event had no story.
    db.execute("UPDATE lane SET waiting_bytes = waiting_bytes + 1 WHERE name = 'a'", []).unwrap();
    db.close().unwrap();
    let broker = open(dir.path());
    let deliveries = broker.claim(want("a", 9)).await.unwrap();
    assert_eq!(deliveries.iter().map(|it| it.record.event.id).collect::<Vec<_>>(), ids[2..]);
    for id in &ids[..2] {
        let found = broker.find_event(*id).await.unwrap().unwrap();
        assert_eq!(found.state, EventState::Failed);
        let data = found.record.event.data.clone().unwrap();
        assert!(String::from_utf8_lossy(&data.bytes).contains("12345678901234567890.10"));
        assert!(matches!(found.record.end.unwrap().failure, Some((FailureClass::BadEntry, _))));
    }
    let stats = broker.stats().await.unwrap();
    assert_eq!((stats.counters.failed, stats.depth.failed_kept, stats.depth.running), (2, 2, 1));
    recount(&broker).await;
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    closed_store(dir.path(), 1).await;
    let db = Connection::open(dir.path().join("eventstream.db")).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    db.close().unwrap();
    assert!(refusal(dir.path()).contains("newer version (format 99"));
}

#[tokio::test]
async fn a_database_that_is_gone_or_older_is_counted_as_a_loss_and_what_is_there_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("eventstream.db");
    closed_store(dir.path(), 1).await;
    let older = fs::read(&file).unwrap();
    closed_store(dir.path(), 1).await;
    fs::write(&file, &older).unwrap();
    let broker = open(dir.path());
    assert_eq!(broker.stats().await.unwrap().counters.data_losses, 1);
    assert_eq!(broker.claim(want("a", 9)).await.unwrap().len(), 1);
    drop(broker);
    assert_eq!(open(dir.path()).stats().await.unwrap().counters.data_losses, 1, "once per loss");
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(dir.path().join(format!("eventstream.db{suffix}"))).unwrap();
    }
    let broker = open(dir.path());
    assert_eq!(broker.stats().await.unwrap().counters.data_losses, 1);
    assert_eq!(broker.claim(want("a", 9)).await.unwrap().len(), 0);
}

async fn losses(dir: &Path) -> u64 {
    open(dir).stats().await.unwrap().counters.data_losses
}

/// A store that was killed after a part of the log was moved and the rest was synced.
async fn killed_store(dir: &Path) -> std::path::PathBuf {
    let broker = open(dir);
    broker.append(vec![new_append("a")]).await.unwrap();
    let other = Connection::open(dir.join("eventstream.db")).unwrap();
    other.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
    other.close().unwrap();
    broker.append(vec![new_append("a")]).await.unwrap();
    broker.append(vec![new_append("a")]).await.unwrap();
    broker.maintain().await.unwrap();
    drop(broker);
    dir.join("eventstream.db-wal")
}

#[tokio::test]
async fn a_log_that_is_removed_or_damaged_after_a_crash_is_counted_as_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let log = killed_store(dir.path()).await;
    fs::remove_file(&log).unwrap();
    assert_eq!(losses(dir.path()).await, 1);
    let log = killed_store(dir.path()).await;
    let whole = fs::read(&log).unwrap();
    let out = fs::File::options().write(true).open(&log).unwrap();
    out.write_all_at(&[whole[whole.len() - 1] ^ 1], whole.len() as u64 - 1).unwrap();
    assert_eq!(losses(dir.path()).await, 2);
    assert_eq!(losses(dir.path()).await, 2, "once per loss");
}

#[tokio::test]
async fn a_crash_is_no_loss_whoever_moves_the_log_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let log = killed_store(dir.path()).await;
    assert_eq!(losses(dir.path()).await, 0);
    killed_store(dir.path()).await;
    let looking = Connection::open(dir.path().join("eventstream.db")).unwrap();
    looking.query_row("SELECT count(*) FROM event", [], |row| row.get::<_, i64>(0)).unwrap();
    looking.close().unwrap();
    assert!(!log.exists(), "who looks last moves the log and removes it");
    assert_eq!(losses(dir.path()).await, 0);
}

#[tokio::test]
async fn a_file_of_the_same_opening_that_is_older_is_counted_as_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("eventstream.db");
    let broker = open(dir.path());
    broker.append(vec![new_append("a")]).await.unwrap();
    let other = Connection::open(&file).unwrap();
    other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    other.close().unwrap();
    let older = fs::read(&file).unwrap();
    broker.append(vec![new_append("a")]).await.unwrap();
    broker.close().await.unwrap();
    drop(broker);
    fs::write(&file, &older).unwrap();
    assert_eq!(losses(dir.path()).await, 1);
    assert_eq!(losses(dir.path()).await, 1, "once per loss");
}

/// A power cut may undo the commit, and a mark ahead of the database would report a loss that did not happen.
#[tokio::test]
async fn what_was_not_synced_is_not_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    let memory = async || {
        broker.maintain().await.unwrap();
        fs::read(dir.path().join("lock")).unwrap()
    };
    broker.append(vec![AppendRequest { start: DeliveryStart::InMs(1), ..new_append("a") }]).await.unwrap();
    let synced = memory().await;
    let promoted = async { while broker.promote().await.unwrap().moved == 0 {} };
    tokio::time::timeout(Duration::from_secs(60), promoted).await.unwrap();
    assert_eq!(memory().await, synced);
    // Nothing was written, so nothing is synced.
    broker.writer.run(CommitMode::Synced, |_| Ok(Ok(()))).await.unwrap();
    assert_eq!(memory().await, synced);
    broker.append(vec![new_append("a")]).await.unwrap();
    assert_ne!(memory().await, synced);
}

#[tokio::test]
async fn a_backup_that_is_restored_is_counted_as_a_loss_wherever_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let broker = open(&store);
    broker.append(vec![new_append("a")]).await.unwrap();
    broker.backup(&copy, |_, _| ()).await.unwrap();
    broker.append(vec![new_append("a")]).await.unwrap();
    broker.close().await.unwrap();
    drop(broker);
    assert_eq!(losses(&store).await, 0, "the store itself lost nothing");
    // In place of the store, with the same opening, and in a directory of its own.
    fs::remove_file(store.join("eventstream.db-wal")).unwrap();
    fs::copy(copy.join("eventstream.db"), store.join("eventstream.db")).unwrap();
    for restored in [&store, &copy] {
        assert_eq!(losses(restored).await, 1);
        assert_eq!(losses(restored).await, 1, "once");
    }
}

#[tokio::test]
async fn a_database_that_is_removed_in_use_stops_the_broker() {
    for file in ["eventstream.db", "eventstream.db-wal"] {
        let dir = tempfile::tempdir().unwrap();
        let broker = open(dir.path());
        broker.append(vec![new_append("a")]).await.unwrap();
        broker.maintain().await.unwrap();
        fs::remove_file(dir.path().join(file)).unwrap();
        assert!(broker.maintain().await.is_err());
        assert!(broker.append(vec![new_append("a")]).await.is_err());
        assert!(broker.health().trouble.unwrap().contains("removed or replaced"));
    }
}

#[tokio::test]
async fn what_a_log_holds_that_is_removed_in_use_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    let mut accepted = broker.append(vec![new_append("a")]).await.unwrap();
    fs::remove_file(dir.path().join("eventstream.db-wal")).unwrap();
    accepted.extend(broker.append(vec![new_append("a")]).await.unwrap());
    assert!(broker.maintain().await.is_err());
    assert!(broker.append(vec![new_append("a")]).await.is_err());
    drop(broker);
    let broker = open(dir.path());
    assert_eq!(broker.stats().await.unwrap().counters.data_losses, 0);
    for accepted in accepted {
        assert_eq!(state_of(&broker, accepted.id).await, Some(EventState::Queued));
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_said() {
    // Not even the superuser can create directories there.
    let refused =
        EmbeddedBroker::open(Path::new("/proc/self/store"), options(), &TaskGroup::new()).map(drop).unwrap_err();
    assert!(matches!(refused, EmbeddedOpenError::Directory { .. }), "{refused}");
    assert!(refused.to_string().contains("/proc/self/store"));
}
