//! API keys: what a host wrote, every later one reads, and of two changes at once one is told of the other.

use super::transfer::snapshot;
use super::*;
use crate::api_key::{ApiKey, KeyId, KeyRights, KeyToken};
use crate::broker::{KeySet, KeyWrite, KeyWriteOutcome, MAX_STORED_KEYS, StoredKey};

fn new_key(number: u16) -> ApiKey {
    let id = KeyId::from_random(u128::from(number).to_le_bytes());
    let token = KeyToken::from_random(&id, [7; 32]);
    ApiKey::new(&token, format!("key-{number}"), KeyRights::all(), Timestamp::from_unix_ms(5), "local".into())
}

async fn read(broker: &dyn Broker) -> KeySet {
    broker.read_keys(None).await.expect("the keys are read").expect("no version is known")
}

async fn write(broker: &dyn Broker, key: ApiKey, replaces: Option<u64>) -> KeyWriteOutcome {
    broker.write_key(KeyWrite { key, replaces, deletes: None }, None).await.expect("the write is answered")
}

fn keys_of(set: &KeySet) -> Vec<&ApiKey> {
    set.keys.iter().map(|stored| &stored.key).collect()
}

/// A key outlives the host that wrote it, and a host that knows all keys reads nothing.
pub async fn keys_survive_a_crash(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let empty = read(&*broker).await;
    assert!(empty.is_empty());
    assert_eq!(broker.read_keys(Some(&empty.version)).await, Ok(None));
    let (one, two) = (new_key(1), new_key(2));
    assert_eq!(write(&*broker, one.clone(), None).await, KeyWriteOutcome::Done);
    let first = broker.read_keys(Some(&empty.version)).await.expect("read").expect("there is a new key");
    assert_eq!(keys_of(&first), [&one]);
    assert_eq!(write(&*broker, two.clone(), None).await, KeyWriteOutcome::Done);
    rig.kill(broker).await;
    let broker = rig.open(options()).await;
    let both = broker.read_keys(Some(&first.version)).await.expect("read").expect("there is a new key");
    assert_eq!(keys_of(&both), [&one, &two]);
    assert_eq!(broker.read_keys(Some(&both.version)).await, Ok(None));
    let revoked = one.revoked(now());
    let revision = both.keys[0].revision;
    assert_eq!(write(&*broker, revoked.clone(), Some(revision)).await, KeyWriteOutcome::Done);
    rig.kill(broker).await;
    let broker = rig.open(options()).await;
    let after = broker.read_keys(Some(&both.version)).await.expect("read").expect("a key was revoked");
    assert_eq!(keys_of(&after), [&revoked, &two]);
    assert_eq!(after.keys[1], both.keys[1]);
    assert!(after.keys[0].revision > revision);
}

/// Whoever has not read the last change of a key changes nothing.
pub async fn of_two_changes_of_a_key_one_wins(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let key = new_key(1);
    assert_eq!(write(&*broker, key.clone(), Some(3)).await, KeyWriteOutcome::Changed);
    assert_eq!(write(&*broker, key.clone(), None).await, KeyWriteOutcome::Done);
    assert_eq!(write(&*broker, key.clone(), None).await, KeyWriteOutcome::Changed);
    let seen = read(&*broker).await.keys[0].revision;
    let (one, other) =
        (key.clone().revoked(Timestamp::from_unix_ms(8)), key.clone().revoked(Timestamp::from_unix_ms(9)));
    let writes = tokio::join!(write(&*broker, one, Some(seen)), write(&*broker, other, Some(seen)));
    assert!(
        matches!(
            writes,
            (KeyWriteOutcome::Done, KeyWriteOutcome::Changed) | (KeyWriteOutcome::Changed, KeyWriteOutcome::Done)
        ),
        "{writes:?}"
    );
    let found = read(&*broker).await;
    assert!(found.keys.len() == 1 && found.keys[0].key.revoked_at.is_some(), "{found:?}");
    // A key that is deleted for another one must be as it was read, too.
    let stale = KeyWrite { key: new_key(2), replaces: None, deletes: Some((key.id.clone(), seen)) };
    assert_eq!(broker.write_key(stale.clone(), None).await, Ok(KeyWriteOutcome::Changed));
    assert_eq!(read(&*broker).await, found);
    let fresh = KeyWrite { deletes: Some((key.id, found.keys[0].revision)), ..stale };
    assert_eq!(broker.write_key(fresh, None).await, Ok(KeyWriteOutcome::Done));
    assert_eq!(keys_of(&read(&*broker).await), [&new_key(2)]);
}

/// G12: a store that holds as many keys as it may takes a new one only in place of another.
pub async fn the_number_of_keys_is_bounded(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let most = u16::try_from(MAX_STORED_KEYS).expect("the limit is small");
    let writes = (0..most).map(|number| write(&*broker, new_key(number), None));
    let written = futures_util::future::join_all(writes).await;
    assert!(written.iter().all(|outcome| *outcome == KeyWriteOutcome::Done), "{written:?}");
    assert_eq!(write(&*broker, new_key(most), None).await, KeyWriteOutcome::Full);
    let StoredKey { key, revision, .. } = read(&*broker).await.keys.remove(17);
    assert_eq!(write(&*broker, key.clone().revoked(now()), Some(revision)).await, KeyWriteOutcome::Done);
    let revision = read(&*broker).await.keys[17].revision;
    let write = KeyWrite { key: new_key(most), replaces: None, deletes: Some((key.id.clone(), revision)) };
    assert_eq!(broker.write_key(write, None).await, Ok(KeyWriteOutcome::Done));
    let found = read(&*broker).await;
    assert_eq!(found.keys.len(), MAX_STORED_KEYS);
    assert!(!keys_of(&found).iter().any(|found| found.id == key.id));
}

/// The last use of a key goes forward, and does not make every host read all keys again.
pub async fn the_last_use_of_a_key_is_kept(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let (key, stranger) = (new_key(1), new_key(2));
    write(&*broker, key.clone(), None).await;
    let before = read(&*broker).await;
    let note = |key: &ApiKey, ms| vec![(key.id.clone(), Timestamp::from_unix_ms(ms))];
    for (noted, expected) in [(50, 50), (40, 50), (60, 60)] {
        let uses = [note(&key, noted), note(&stranger, 1)].concat();
        broker.note_key_uses(uses).await.expect("the use is noted");
        let found = read(&*broker).await;
        assert_eq!(found.keys[0].last_used_at, Some(Timestamp::from_unix_ms(expected)));
        assert_eq!((found.version.as_str(), found.keys.len()), (before.version.as_str(), 1));
    }
    rig.kill(broker).await;
    let broker = rig.open(options()).await;
    let found = read(&*broker).await;
    assert_eq!(found.keys[0].last_used_at, Some(Timestamp::from_unix_ms(60)));
    write(&*broker, found.keys[0].key.clone().revoked(now()), Some(found.keys[0].revision)).await;
    assert_eq!(read(&*broker).await.keys[0].last_used_at, Some(Timestamp::from_unix_ms(60)));
}

/// A file from elsewhere must not open the door: an export brings no key along, and an import changes none.
pub async fn keys_stay_behind_when_events_move(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    write(&*broker, new_key(1), None).await;
    broker.append(appends("a", 1)).await.expect("the event is accepted");
    let before = read(&*broker).await;
    let items = snapshot(&*broker).await;
    assert!(matches!(items[..], [crate::broker::SnapshotItem::Waiting(_)]), "{items:?}");
    broker.restore(items).await.expect("what is known is skipped");
    assert_eq!(read(&*broker).await, before);
}
