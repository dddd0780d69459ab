//! A broker and plugins in memory, for tests of the API. They fail when a test says so.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::fake_keys::FakeKeyStore;
use crate::api::{ApiState, KeyRing, MemoryBudget, PluginAdmin, PluginChangeError, RemovedPlugin, ServerOptions};
use crate::broker::{
    AcceptedEvent, AppendRequest, AuditEntry, AuditNote, AuditPage, AuditQuery, AuditStore, BrokerStats,
    ConsumerDirectory, Durability, EndKind, EndedPage, EndedQuery, Error, EventLog, FailedEventChange, FoundEvent,
    Lane, MAX_STORED_PAUSES, PauseBoard, PauseOutcome, PauseStore, PluginPause, PluginStateRemover, StoreHealth,
    WaitingEventChange,
};
use crate::event::{DeliveryStart, EventId, EventState, EventType, Timestamp};
use crate::plugin_report::{PluginReport, PluginStatus};

/// The broker.
#[derive(Default)]
pub(in crate::api) struct FakeBroker {
    pub(super) state: Mutex<FakeBrokerState>,
}

#[derive(Default)]
pub(in crate::api) struct FakeBrokerState {
    pub(super) events: BTreeMap<EventId, FoundEvent>,
    pub(super) lanes: HashMap<EventId, Lane>,
    known: HashMap<[u8; 32], (EventId, [u8; 32])>,
    /// What every call is answered with.
    pub(super) failure: Option<Error>,
    /// Set to have every call panic.
    pub(super) panics: bool,
    /// Events are not stored before it is closed.
    pub(super) hold: Option<Arc<Semaphore>>,
    /// Events are not shown before it is closed.
    pub(super) hold_reads: Option<Arc<Semaphore>>,
    pub(super) trouble: Option<String>,
    pub(super) stats: BrokerStats,
    pub(super) pauses: BTreeMap<Lane, PluginPause>,
    pub(super) audit: Vec<AuditNote>,
    /// Calls that reached the broker.
    pub(super) calls: usize,
}

impl FakeBroker {
    fn enter(&self) -> Result<parking_lot::MutexGuard<'_, FakeBrokerState>, Error> {
        let mut inner = self.state.lock();
        inner.calls += 1;
        assert!(!inner.panics, "told to");
        match inner.failure.clone() {
            Some(error) => Err(error),
            None => Ok(inner),
        }
    }

    /// The only event.
    pub(super) fn only(&self) -> FoundEvent {
        let inner = self.state.lock();
        assert_eq!(inner.events.len(), 1);
        inner.events.values().next().unwrap().clone()
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().events.len()
    }

    /// Changes an event.
    pub(super) fn change(&self, id: EventId, change: impl FnOnce(&mut FoundEvent)) {
        change(self.state.lock().events.get_mut(&id).unwrap());
    }
}

#[async_trait]
impl EventLog for FakeBroker {
    fn name(&self) -> &'static str {
        "Fake"
    }

    fn health(&self) -> StoreHealth {
        let trouble = self.state.lock().trouble.clone();
        StoreHealth { accepting: trouble.is_none(), trouble, ..StoreHealth::good(Durability::Fsync) }
    }

    async fn append(&self, events: Vec<AppendRequest>) -> Result<Vec<AcceptedEvent>, Error> {
        let hold = self.state.lock().hold.clone();
        if let Some(hold) = hold {
            let _ = hold.acquire().await;
        }
        let mut inner = self.enter()?;
        let conflicts = |(index, append): (usize, &AppendRequest)| {
            let new = append.idempotency.as_ref()?;
            inner.known.get(&new.key).filter(|(_, known)| *known != new.fingerprint).map(|_| index)
        };
        let conflicts: Vec<usize> = events.iter().enumerate().filter_map(conflicts).collect();
        if !conflicts.is_empty() {
            return Err(Error::Conflict(conflicts));
        }
        let mut accepted = Vec::new();
        for append in events {
            let id = append.record.event.id;
            if let Some(new) = &append.idempotency {
                if let Some((id, _)) = inner.known.get(&new.key) {
                    accepted.push(AcceptedEvent { id: *id, duplicate: true });
                    continue;
                }
                inner.known.insert(new.key, (id, new.fingerprint));
            }
            let (state, due) = match append.start {
                DeliveryStart::Now => (EventState::Queued, None),
                DeliveryStart::InMs(ms) => (EventState::Scheduled, Some(append.record.event.accepted_at.plus_ms(ms))),
                DeliveryStart::At(at) => (EventState::Scheduled, Some(at)),
            };
            inner.events.insert(id, FoundEvent { record: append.record, state, due });
            inner.lanes.insert(id, append.lane);
            accepted.push(AcceptedEvent { id, duplicate: false });
        }
        Ok(accepted)
    }

    async fn find_event(&self, id: EventId) -> Result<Option<FoundEvent>, Error> {
        let hold = self.state.lock().hold_reads.clone();
        if let Some(hold) = hold {
            let _ = hold.acquire().await;
        }
        Ok(self.enter()?.events.get(&id).cloned())
    }

    async fn list_ended(&self, query: EndedQuery) -> Result<EndedPage, Error> {
        let inner = self.enter()?;
        let state = if query.ending == EndKind::Failed { EventState::Failed } else { EventState::Processed };
        let skip: usize = match query.cursor {
            Some(cursor) => cursor.parse().map_err(|_| Error::BadCursor)?,
            None => 0,
        };
        let fits = |found: &&FoundEvent| {
            found.state == state
                && query.lane.as_ref().is_none_or(|lane| inner.lanes.get(&found.record.event.id) == Some(lane))
                && query.event_type.as_ref().is_none_or(|it| *it == found.record.event.event_type)
        };
        let all: Vec<_> = inner.events.values().rev().filter(fits).map(|found| found.record.clone()).collect();
        let next = skip + query.limit;
        let next_cursor = (next < all.len()).then(|| next.to_string());
        Ok(EndedPage { records: all.into_iter().skip(skip).take(query.limit).collect(), next_cursor })
    }

    async fn replay(&self, id: EventId, lane: &Lane, audit: Option<&AuditNote>) -> Result<FailedEventChange, Error> {
        let mut inner = self.enter()?;
        let Some(found) = inner.events.get_mut(&id) else { return Ok(FailedEventChange::Unknown) };
        if found.state != EventState::Failed {
            return Ok(FailedEventChange::NotFailed(found.state));
        }
        *found = FoundEvent { record: found.record.clone().replayed(), state: EventState::Queued, due: None };
        inner.lanes.insert(id, lane.clone());
        inner.audit.extend(audit.cloned());
        Ok(FailedEventChange::Done)
    }

    async fn discard(&self, id: EventId, reason: &str, audit: Option<&AuditNote>) -> Result<FailedEventChange, Error> {
        let mut inner = self.enter()?;
        let Some(found) = inner.events.get_mut(&id) else { return Ok(FailedEventChange::Unknown) };
        if found.state != EventState::Failed {
            return Ok(FailedEventChange::NotFailed(found.state));
        }
        let record = found.record.clone().discarded(Timestamp::from_unix_ms(1), reason);
        *found = FoundEvent { record, state: EventState::Discarded, due: None };
        inner.audit.extend(audit.cloned());
        Ok(FailedEventChange::Done)
    }

    async fn run_now(&self, id: EventId, audit: Option<&AuditNote>) -> Result<WaitingEventChange, Error> {
        let mut inner = self.enter()?;
        let Some(found) = inner.events.get_mut(&id) else { return Ok(WaitingEventChange::Unknown) };
        if found.due.take().is_none() {
            return Ok(WaitingEventChange::NotWaiting(found.state));
        }
        found.state = EventState::Queued;
        inner.audit.extend(audit.cloned());
        Ok(WaitingEventChange::Done)
    }

    async fn cancel(&self, id: EventId, reason: &str, audit: Option<&AuditNote>) -> Result<WaitingEventChange, Error> {
        let mut inner = self.enter()?;
        let Some(found) = inner.events.get_mut(&id) else { return Ok(WaitingEventChange::Unknown) };
        if !found.state.is_waiting() {
            return Ok(WaitingEventChange::NotWaiting(found.state));
        }
        let record = found.record.clone().cancelled(Timestamp::from_unix_ms(1), reason);
        *found = FoundEvent { record, state: EventState::Discarded, due: None };
        inner.audit.extend(audit.cloned());
        Ok(WaitingEventChange::Done)
    }

    async fn stats(&self) -> Result<BrokerStats, Error> {
        Ok(self.enter()?.stats.clone())
    }
}

#[async_trait]
impl ConsumerDirectory for FakeBroker {
    fn consumer(&self) -> &str {
        "fake-1"
    }

    fn live_consumers(&self) -> u64 {
        self.state.lock().stats.depth.consumers.max(1)
    }
}

#[async_trait]
impl PluginStateRemover for FakeBroker {
    async fn remove_plugin_state(&self, plugin: &str, audit: Option<&AuditNote>) -> Result<u64, Error> {
        if plugin == "none" {
            return Ok(0);
        }
        self.enter()?.audit.extend(audit.cloned());
        Ok(3)
    }
}

#[async_trait]
impl PauseStore for FakeBroker {
    async fn read_pauses(&self) -> Result<Vec<PluginPause>, Error> {
        Ok(self.enter()?.pauses.values().cloned().collect())
    }

    async fn write_pause(&self, pause: PluginPause, audit: Option<&AuditNote>) -> Result<PauseOutcome, Error> {
        let mut inner = self.enter()?;
        if inner.pauses.len() >= MAX_STORED_PAUSES {
            return Ok(PauseOutcome::Full);
        }
        inner.pauses.insert(pause.plugin.clone(), pause);
        inner.audit.extend(audit.cloned());
        Ok(PauseOutcome::Done)
    }

    async fn end_pause(&self, plugin: &Lane, audit: Option<&AuditNote>) -> Result<bool, Error> {
        let mut inner = self.enter()?;
        let ended = inner.pauses.remove(plugin).is_some();
        inner.audit.extend(audit.filter(|_| ended).cloned());
        Ok(ended)
    }
}

#[async_trait]
impl AuditStore for FakeBroker {
    /// Entries are a millisecond apart. The cursor is a number of entries.
    async fn list_audit(&self, query: AuditQuery) -> Result<AuditPage, Error> {
        let inner = self.enter()?;
        let skip: usize = query.cursor.as_ref().map_or(Ok(0), |cursor| cursor.parse()).map_err(|_| Error::BadCursor)?;
        let entry = |(ms, note): (i64, &AuditNote)| AuditEntry { at: Timestamp::from_unix_ms(ms), note: note.clone() };
        let all: Vec<AuditEntry> = (1..).zip(&inner.audit).map(entry).filter(|entry| query.matches(entry)).collect();
        let next = skip + query.limit;
        let next_cursor = (next < all.len()).then(|| next.to_string());
        Ok(AuditPage { entries: all.into_iter().rev().skip(skip).take(query.limit).collect(), next_cursor })
    }

    async fn write_audit(&self, note: &AuditNote) -> Result<(), Error> {
        self.enter()?.audit.push(note.clone());
        Ok(())
    }
}

/// One plugin, `signup`, for one type, `USER_SIGNUP`.
#[derive(Default)]
pub(super) struct FakePluginAdmin {
    pub(super) unready_reason: Option<String>,
}

#[async_trait]
impl PluginAdmin for FakePluginAdmin {
    fn lane(&self, event_type: &EventType) -> Lane {
        match event_type.as_str() {
            "USER_SIGNUP" => "signup".parse().unwrap(),
            _ => Lane::unrouted(),
        }
    }

    fn unready_reason(&self) -> Option<String> {
        self.unready_reason.clone()
    }

    fn plugins(&self) -> Vec<PluginReport> {
        vec![plugin("signup", &["USER_SIGNUP"])]
    }

    fn plugin(&self, name: &str) -> Option<PluginReport> {
        self.plugins().into_iter().find(|plugin| plugin.name == name)
    }

    fn overlooked(&self) -> Vec<String> {
        vec!["old.toml is for no plugin".into()]
    }

    /// The plugin `old` was removed and has no earlier version.
    async fn rollback(&self, name: &str) -> Result<PluginReport, PluginChangeError> {
        match name {
            "signup" => Ok(PluginReport { rolled_back_from: Some("abc".into()), ..plugin(name, &[]) }),
            "old" => Err(PluginChangeError::Refused("none before".into())),
            _ => Err(PluginChangeError::Unknown("none".into())),
        }
    }

    /// A build `abc` of `signup` is held.
    async fn approve(&self, name: &str, digest: Option<&str>) -> Result<PluginReport, PluginChangeError> {
        match (name, digest) {
            ("signup", None) => Err(PluginChangeError::DigestMissing("say ?digest=abc".into())),
            ("signup", Some("abc")) => Ok(PluginReport { digest: Some("abc".into()), ..plugin(name, &[]) }),
            ("signup", Some(_)) => Err(PluginChangeError::Refused("another".into())),
            _ => Err(PluginChangeError::Unknown("none".into())),
        }
    }

    async fn remove(&self, name: &str) -> Result<RemovedPlugin, PluginChangeError> {
        match name {
            "signup" => Ok(RemovedPlugin {
                plugin: PluginReport { status: PluginStatus::Removed, ..plugin(name, &[]) },
                file: Some("signup.wasm".into()),
                settings: None,
            }),
            "old" => Err(PluginChangeError::Refused("read-only".into())),
            _ => Err(PluginChangeError::Unknown("none".into())),
        }
    }
}

/// An active plugin.
pub(in crate::api) fn plugin(name: &str, types: &[&str]) -> PluginReport {
    PluginReport {
        name: name.to_owned(),
        status: PluginStatus::Active,
        error: None,
        rolled_back_from: None,
        needs_approval: None,
        removed_at: None,
        digest: None,
        version: None,
        description: None,
        dialect: None,
        types: types.iter().map(|pattern| pattern.parse().unwrap()).collect(),
        limits: None,
        concurrency: None,
        max_waiting: None,
        reuse: None,
        size_bytes: None,
        denied: BTreeMap::new(),
        loaded_at: None,
    }
}

/// An API over a broker in memory.
pub(super) fn fake_api(options: ServerOptions) -> (ApiState, Arc<FakeBroker>) {
    let broker = Arc::new(FakeBroker::default());
    let store = Arc::new(FakeKeyStore::default());
    let api = ApiState {
        keys: Arc::new(KeyRing::new(store, broker.clone(), Vec::new(), false)),
        pauses: Arc::new(PauseBoard::new(broker.clone())),
        event_log: broker.clone(),
        consumers: broker.clone(),
        plugin_state: broker.clone(),
        audit: broker.clone(),
        plugins: Arc::new(FakePluginAdmin::default()),
        memory: MemoryBudget::new(options.max_buffered_bytes),
        options,
        stopping: Default::default(),
        unwritten_lines: Default::default(),
    };
    (api, broker)
}
