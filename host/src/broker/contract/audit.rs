//! The audit: a change and its entry are one step, entries are kept, listed and filtered, and their number is bounded.

use super::transfer::snapshot;
use super::*;
use crate::api_key::{ApiKey, KeyId, KeyRights, KeyToken};
use crate::broker::{
    AuditAction, AuditEntry, AuditNote, AuditPage, AuditQuery, FailedEventChange, KeyWrite, KeyWriteOutcome, PauseNote,
    PauseOutcome, PluginPause, RetentionLimits, WaitingEventChange,
};
use crate::event::{StateChanges, StateWrite};

const HOUR_MS: u64 = 3_600_000;

fn note(action: AuditAction, target: impl ToString) -> AuditNote {
    AuditNote::new(action, "key:ops", target.to_string()).because(Some("because of \"a\nb\"".into()))
}

async fn page(broker: &dyn Broker, query: AuditQuery) -> AuditPage {
    broker.list_audit(query).await.expect("the audit is read")
}

/// All entries that match, newest first.
async fn entries(broker: &dyn Broker, query: AuditQuery) -> Vec<AuditEntry> {
    let mut query = AuditQuery { limit: 7, ..query };
    let mut all = Vec::new();
    loop {
        let AuditPage { entries, next_cursor } = page(broker, query.clone()).await;
        assert!(entries.len() <= 7);
        all.extend(entries);
        match next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => return all,
        }
    }
}

async fn notes(broker: &dyn Broker) -> Vec<AuditNote> {
    entries(broker, AuditQuery::default()).await.into_iter().map(|entry| entry.note).collect()
}

async fn schedule_one(broker: &dyn Broker) -> EventId {
    let request = AppendRequest { start: DeliveryStart::InMs(HOUR_MS), ..append_to("a", event("order.paid")) };
    broker.append(vec![request]).await.expect("accepted")[0].id
}

async fn fail_one(broker: &dyn Broker) -> EventId {
    let delivery = deliver_one(broker, "a").await;
    assert_eq!(settle_one(broker, &delivery, failed(FailureClass::Reject)).await, SettleOutcome::Done);
    delivery.record.event.id
}

/// What was done is in the audit once, also after a crash. What was refused, or what nobody asked for, is not.
pub async fn changes_of_events_are_noted_in_their_step(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    assert_eq!(notes(&*broker).await, []);
    let (scheduled, cancelled) = (schedule_one(&*broker).await, schedule_one(&*broker).await);
    let (replayed, discarded) = (fail_one(&*broker).await, fail_one(&*broker).await);
    let began = now();
    let run = note(AuditAction::RunEvent, scheduled);
    assert_eq!(broker.run_now(scheduled, Some(&run)).await, Ok(WaitingEventChange::Done));
    let cancel = note(AuditAction::CancelEvent, cancelled);
    assert_eq!(broker.cancel(cancelled, "no", Some(&cancel)).await, Ok(WaitingEventChange::Done));
    let replay = note(AuditAction::ReplayEvent, replayed);
    assert_eq!(broker.replay(replayed, &lane("a"), Some(&replay)).await, Ok(FailedEventChange::Done));
    let discard = note(AuditAction::DiscardEvent, discarded);
    assert_eq!(broker.discard(discarded, "no", Some(&discard)).await, Ok(FailedEventChange::Done));

    for id in [cancelled, discarded, EventId::new()] {
        assert_ne!(broker.run_now(id, Some(&run)).await, Ok(WaitingEventChange::Done));
        assert_ne!(broker.cancel(id, "no", Some(&cancel)).await, Ok(WaitingEventChange::Done));
        assert_ne!(broker.replay(id, &lane("a"), Some(&replay)).await, Ok(FailedEventChange::Done));
        assert_ne!(broker.discard(id, "no", Some(&discard)).await, Ok(FailedEventChange::Done));
    }
    let other = fail_one(&*broker).await;
    assert_eq!(broker.discard(other, "no", None).await, Ok(FailedEventChange::Done));
    let expected = [discard, replay, cancel, run];
    assert_eq!(notes(&*broker).await, expected);
    rig.kill(broker).await;
    let broker = rig.open(options()).await;
    let found = entries(&*broker, AuditQuery::default()).await;
    assert_eq!(found.iter().map(|entry| &entry.note).collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
    for entry in found {
        assert!(entry.at >= began && entry.at <= now(), "{entry:?}");
    }
}

/// The same for plugins and keys, and for a change that the store does not make.
pub async fn changes_of_plugins_and_keys_are_noted_in_their_step(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let about = PauseNote { since: now(), by: "key:ops".into(), reason: None, until: None };
    let pause = PluginPause { plugin: lane("a"), note: about };
    let (paused, resumed) = (note(AuditAction::PausePlugin, "a"), note(AuditAction::ResumePlugin, "a"));
    assert_eq!(broker.write_pause(pause, Some(&paused)).await, Ok(PauseOutcome::Done));
    assert_eq!(broker.end_pause(&lane("a"), Some(&resumed)).await, Ok(true));
    assert_eq!(broker.end_pause(&lane("a"), Some(&resumed)).await, Ok(false));

    let token = KeyToken::from_random(&KeyId::from_random([1; 16]), [7; 32]);
    let key = ApiKey::new(&token, "shop".into(), KeyRights::all(), now(), "local".into());
    let write = KeyWrite { key, replaces: None, deletes: None };
    let created = note(AuditAction::CreateKey, token.id());
    assert_eq!(broker.write_key(write.clone(), Some(&created)).await, Ok(KeyWriteOutcome::Done));
    assert_eq!(broker.write_key(write, Some(&created)).await, Ok(KeyWriteOutcome::Changed));

    let removed = note(AuditAction::RemoveState, "p");
    assert_eq!(broker.remove_plugin_state("p", Some(&removed)).await, Ok(0));
    let delivery = deliver_one(&*broker, "a").await;
    let value = |n: usize| (format!("k{n}"), StateWrite::Set { value: vec![1].into(), ttl_ms: None });
    let state = StateChanges { plugin: "p".into(), writes: (0..700).map(value).collect(), ..StateChanges::default() };
    let request = SettleRequest { state: Some(state), ..settle(&delivery, Settlement::Processed, Vec::new()) };
    assert_eq!(broker.settle(vec![request]).await, Ok(vec![SettleOutcome::Done]));
    assert_eq!(broker.remove_plugin_state("p", Some(&removed)).await, Ok(700));

    let approved =
        AuditNote { detail: Some("sha256:ab".into()), count: Some(3), ..note(AuditAction::ApprovePlugin, "a") };
    assert_eq!(broker.write_audit(&approved).await, Ok(()));
    rig.kill(broker).await;
    let broker = rig.open(options()).await;
    assert_eq!(notes(&*broker).await, [approved, removed, created, resumed, paused]);
}

/// Pages hold what matches, newest first, without gaps or repetitions, also while more is noted.
pub async fn the_audit_is_listed_page_by_page(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    for n in 0..40 {
        let action = if n % 2 == 0 { AuditAction::PausePlugin } else { AuditAction::CreateKey };
        let by = if n % 4 == 0 { "key:ada" } else { "local" };
        let note = AuditNote { count: Some(n), ..AuditNote::new(action, by, if n == 8 { "rare" } else { "a" }) };
        broker.write_audit(&note).await.expect("noted");
    }
    let numbers = |entries: &[AuditEntry]| entries.iter().filter_map(|entry| entry.note.count).collect::<Vec<_>>();
    let first = page(&*broker, AuditQuery { limit: 15, ..AuditQuery::default() }).await;
    assert_eq!(numbers(&first.entries), (25..40).rev().collect::<Vec<_>>());
    broker.write_audit(&AuditNote::new(AuditAction::CreateKey, "local", "later")).await.expect("noted");
    let second = AuditQuery { limit: 1_000, cursor: first.next_cursor, ..AuditQuery::default() };
    let second = page(&*broker, second).await;
    assert_eq!(numbers(&second.entries), (0..25).rev().collect::<Vec<_>>());
    assert_eq!(second.next_cursor, None);

    let found = |query: AuditQuery| async { numbers(&entries(&*broker, query).await) };
    let action = |action: &str| AuditQuery { action: Some(action.into()), ..AuditQuery::default() };
    assert_eq!(found(action("plugin.pause")).await, (0..40).rev().filter(|n| n % 2 == 0).collect::<Vec<_>>());
    assert_eq!(found(action("plugin")).await.len(), 20);
    assert_eq!(found(AuditQuery { by: Some("key:ada".into()), ..action("plugin") }).await.len(), 10);
    assert_eq!(found(AuditQuery { target: Some("rare".into()), ..AuditQuery::default() }).await, [8]);
    let middle = first.entries[7].at;
    let newer = entries(&*broker, AuditQuery { since: Some(middle), ..AuditQuery::default() }).await;
    let older = entries(&*broker, AuditQuery { until: Some(middle), ..AuditQuery::default() }).await;
    assert!(newer.iter().all(|entry| entry.at >= middle) && older.iter().all(|entry| entry.at < middle));
    assert!(newer.len() >= 9 && newer.len() + older.len() == 41, "{} and {}", newer.len(), older.len());
    let wrong = AuditQuery { cursor: Some("x".into()), ..AuditQuery::default() };
    assert_eq!(broker.list_audit(wrong).await, Err(crate::broker::Error::BadCursor));
}

/// G12: the oldest entries go beyond the limit of their number, and all of them past the limit of their age.
pub async fn the_audit_is_bounded(rig: &dyn BrokerRig) {
    let retention = RetentionLimits { audit_max: 5, ..BrokerOptions::default().retention };
    let broker = rig.open(BrokerOptions { retention, ..options() }).await;
    let write = async |broker: &dyn Broker, n: u64| {
        let note = AuditNote { count: Some(n), ..note(AuditAction::CreateKey, "a") };
        broker.write_audit(&note).await.expect("noted");
    };
    for n in 0..1_100 {
        write(&*broker, n).await;
    }
    while broker.maintain().await.expect("maintained") {}
    let kept: Vec<_> = notes(&*broker).await.iter().filter_map(|note| note.count).collect();
    assert_eq!(kept, [1_099, 1_098, 1_097, 1_096, 1_095]);
    rig.kill(broker).await;
    let retention = RetentionLimits { audit_ms: 0, ..retention };
    let broker = rig.open(BrokerOptions { retention, ..options() }).await;
    eventually("all entries are too old", || async {
        broker.maintain().await.expect("maintained");
        notes(&*broker).await.is_empty().then_some(())
    })
    .await;
    write(&*broker, 1).await;
    assert!(notes(&*broker).await.len() <= 1);
}

/// The audit tells of one store. An export takes no entry along, and an import makes none by itself.
pub async fn the_audit_stays_behind_when_events_move(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    broker.append(appends("a", 1)).await.expect("accepted");
    broker.write_audit(&note(AuditAction::CreateKey, "a")).await.expect("noted");
    let items = snapshot(&*broker).await;
    assert!(matches!(items[..], [crate::broker::SnapshotItem::Waiting(_)]), "{items:?}");
    broker.restore(items).await.expect("what is known is skipped");
    assert_eq!(notes(&*broker).await.len(), 1);
}
