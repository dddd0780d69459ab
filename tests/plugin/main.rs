//! Real components through `Plugin::handle`, without a broker and without HTTP.
//!
//! Each kind of misbehavior ends in its class, leaves nothing behind in the host, and does not delay other plugins. The
//! example plugins do what their READMEs say.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what goes wrong in a test is for the person who reads it")]

mod examples;
mod misbehavior;
mod reload;
mod standards;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use eventstream::event::{AttemptEffects, AttemptFailure, AttemptOutcome, Event, EventData, EventId, Timestamp};
use eventstream::plugin::{AttemptInput, CompletedAttempt, MemoryState, Plugin, PluginRegistry, RegistryOptions};
use eventstream_tests::layout;
use serde_json::{Value, json};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Tests that measure the whole process hold this lock alone.
static TURNS: RwLock<()> = RwLock::const_new(());

/// Runs beside other tests until the guard is dropped.
async fn together() -> RwLockReadGuard<'static, ()> {
    TURNS.read().await
}

/// Runs without other tests until the guard is dropped.
async fn alone() -> RwLockWriteGuard<'static, ()> {
    TURNS.write().await
}

/// An event with a JSON payload.
fn event(event_type: &str, payload: &Value) -> Event {
    Event {
        id: EventId::new(),
        event_type: event_type.parse().unwrap(),
        source: "/tests".into(),
        subject: Some("subject".into()),
        time: Some("2026-11-23T16:04:05+01:00".into()),
        data_content_type: Some("application/json".into()),
        data_schema: None,
        extensions: BTreeMap::from([("traceparent".to_owned(), "00-1-2-01".to_owned())]),
        accepted_at: Timestamp::from_unix_ms(1_795_446_245_007),
        cause: Some(EventId::new()),
        depth: 0,
        data: Some(EventData::text(payload.to_string())),
    }
}

/// A registry of copies of one guest under these names, each with these settings.
async fn scripted(names: &[&str], settings: &str) -> (tempfile::TempDir, Arc<PluginRegistry>) {
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        fs::copy(layout::guest("scripted"), dir.path().join(format!("{name}.wasm"))).unwrap();
        fs::write(dir.path().join(format!("{name}.toml")), settings).unwrap();
    }
    let registry = open(dir.path()).await;
    (dir, registry)
}

async fn open(dir: &Path) -> Arc<PluginRegistry> {
    let options =
        RegistryOptions { dir: dir.to_owned(), concurrency: 16, reserve: 8, quiet_ms: 0, ..RegistryOptions::default() };
    let registry = PluginRegistry::open(options).await.unwrap();
    for status in registry.statuses() {
        assert_eq!(status.error, None, "{}", status.name);
    }
    registry
}

fn route(registry: &PluginRegistry, event_type: &str) -> Arc<Plugin> {
    registry.route(&event_type.parse().unwrap()).unwrap_or_else(|| panic!("{event_type} is handled"))
}

async fn attempt(plugin: &Arc<Plugin>, attempt: u32, payload: Value) -> CompletedAttempt {
    plugin
        .handle(
            AttemptInput { event: event(plugin.name(), &payload).into(), attempt },
            Arc::new(MemoryState::default()),
        )
        .await
}

fn success(completed: CompletedAttempt) -> AttemptEffects {
    match completed.outcome {
        AttemptOutcome::Ok(success) => success,
        AttemptOutcome::Failed(failure) => panic!("{failure:?}"),
    }
}

fn failure(completed: CompletedAttempt) -> AttemptFailure {
    match completed.outcome {
        AttemptOutcome::Ok(success) => panic!("{success:?}"),
        AttemptOutcome::Failed(failure) => failure,
    }
}

/// What the handler returned, as JSON; null if it returned nothing.
fn result(completed: CompletedAttempt) -> Value {
    success(completed).result.map_or(json!(null), |data| serde_json::from_slice(&data.bytes).unwrap())
}
