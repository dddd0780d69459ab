//! Components for the tests of this module, written as text so that no toolchain for guests is needed.
//!
//! A guest is a core module with the component type of the world `plugin`: the host makes a component of it, so the
//! tests go through that step as well. `handle` gets the address of the event and gives the address of its result:
//!
//! - byte 0: 0 ok, 1 failed; byte 8: of ok, whether there is a result; of failed, 0 retry, 1 reject
//! - a result: 0 text or 1 binary at 12, address at 16, length at 20
//! - a failure: address and length of the message at 16 and 20; `after-ms`: whether at 24, how many at 32

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{
    AttemptInput, AttemptLimits, AttemptResult, CpuMeter, MemoryState, Plugin, PluginRegistry, RegistryOptions,
};
use crate::event::{AttemptEffects, AttemptFailure, AttemptOutcome, Event, EventData, EventId, Timestamp};

/// A handler that returns ok without a result: memory is 0 where nothing was written.
pub(super) const OK: &str = "i32.const 1024";

/// An event with a payload, for the plugin `test`.
pub(super) fn event(payload: &str) -> Event {
    Event {
        id: EventId::new(),
        event_type: "test".parse().unwrap(),
        source: "/tests".into(),
        subject: None,
        time: None,
        data_content_type: Some("application/json".into()),
        data_schema: None,
        extensions: BTreeMap::from([("traceparent".to_owned(), "00-1-2-01".to_owned())]),
        accepted: Timestamp::from_unix_ms(1_795_446_245_007),
        cause: None,
        depth: 0,
        data: Some(EventData::text(payload)),
    }
}

/// Stores a failure with the message `child` and `$calls` as `after-ms`: 0 retry, 1 reject.
pub(super) fn fail(kind: u32) -> String {
    format!(
        "(i32.store8 (i32.const 1024) (i32.const 1))
         (i32.store8 (i32.const 1032) (i32.const {kind}))
         (i32.store (i32.const 1040) (i32.const 2048))
         (i32.store (i32.const 1044) (i32.const 5))
         (i32.store8 (i32.const 1048) (i32.const 1))
         (i64.store (i32.const 1056) (global.get $calls))
         {OK}"
    )
}

/// A core module with a component type whose handler has this body. `$log` and `$publish` may be called, `$calls` counts
/// the calls of the instance, and the text at 2048 is `child`.
pub(super) fn guest(body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "eventstream:plugin/log@0.1.0" "log" (func $log (param i32 i32 i32 i32 i32)))
            (import "eventstream:plugin/publisher@0.1.0" "publish" (func $publish
                (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32)))
            (memory (export "memory") 1)
            (table $table 1 funcref)
            (data (i32.const 2048) "child")
            (global $heap (mut i32) (i32.const 32768))
            (global $calls (mut i64) (i64.const 0))
            (func $child
                (call $publish (i32.const 2048) (i32.const 5) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                    (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 512)))
            (func $line (param $length i32)
                (call $log (i32.const 2) (i32.const 2048) (local.get $length) (i32.const 0) (i32.const 0)))
            (func $recurse (param i32) (result i32)
                (i32.add (call $recurse (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
            (func $handle (export "eventstream:plugin/handler@0.1.0#handle") (param $event i32) (result i32)
                (local $n i32)
                (global.set $calls (i64.add (global.get $calls) (i64.const 1)))
                {body})
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
                (global.set $heap (i32.add (local.get $at) (local.get 3)))
                (local.get $at)))"#
    );
    typed(&text, "plugin")
}

/// A core module with the component type of a world of the package.
pub(super) fn typed(text: &str, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap();
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_file(concat!(env!("CARGO_MANIFEST_DIR"), "/../wit/plugin.wit")).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, wit_component::StringEncoding::UTF8).unwrap();
    module
}

/// The component that the host makes of a guest.
pub(super) fn component(guest: &[u8]) -> Vec<u8> {
    wit_component::ComponentEncoder::default().module(guest).unwrap().encode().unwrap()
}

/// Options for a directory whose files are loaded at once.
pub(super) fn options(dir: &Path) -> RegistryOptions {
    RegistryOptions { dir: dir.to_owned(), concurrency: 4, reserve: 4, settle_ms: 0, ..RegistryOptions::default() }
}

/// One plugin.
pub(super) struct SolePlugin {
    plugin: Arc<Plugin>,
}

/// A registry with the plugin `test`, whose handler has this body.
pub(super) async fn sole(body: &str, limits: AttemptLimits) -> SolePlugin {
    sole_with(body, limits, "").await
}

/// The same with settings of its own.
pub(super) async fn sole_with(body: &str, limits: AttemptLimits, settings: &str) -> SolePlugin {
    sole_of(&guest(body), limits, settings).await
}

/// The same for any component.
pub(super) async fn sole_of(bytes: &[u8], limits: AttemptLimits, settings: &str) -> SolePlugin {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("test.toml"), settings).unwrap();
    std::fs::write(dir.path().join("test.wasm"), bytes).unwrap();
    let registry = PluginRegistry::open(RegistryOptions { limits, ..options(dir.path()) }).await.unwrap();
    let plugin = registry.route(&"test".parse().unwrap());
    SolePlugin { plugin: plugin.unwrap_or_else(|| panic!("{:?}", registry.statuses())) }
}

impl SolePlugin {
    /// A first attempt at an event.
    pub(super) async fn attempt(&self) -> AttemptResult {
        self.plugin
            .handle(AttemptInput { event: event("{}").into(), attempt: 1 }, Arc::new(MemoryState::default()))
            .await
    }

    /// The same for a delivery that has used so much CPU time before, without an attempt having come of it.
    pub(super) async fn attempt_after(&self, spent_ns: u64) -> AttemptResult {
        let plugin = self.plugin.clone();
        let run = move |meter: Arc<CpuMeter>| async move {
            meter.add(spent_ns);
            let attempt = AttemptInput { event: event("{}").into(), attempt: 1 };
            plugin.handle_here(plugin.acquire_permit().await, attempt, Arc::new(MemoryState::default()), meter).await
        };
        self.plugin.machine.executor.run(run).await.unwrap()
    }

    /// How many instances wait to be used again.
    pub(super) fn waiting(&self) -> usize {
        self.plugin.prepared.idle.len()
    }

    /// A first attempt that is to end well.
    pub(super) async fn success(&self) -> AttemptEffects {
        match self.attempt().await.outcome {
            AttemptOutcome::Ok(success) => success,
            AttemptOutcome::Failed(failure) => panic!("{failure:?}"),
        }
    }

    /// A first attempt that is to fail.
    pub(super) async fn failure(&self) -> AttemptFailure {
        match self.attempt().await.outcome {
            AttemptOutcome::Ok(success) => panic!("{success:?}"),
            AttemptOutcome::Failed(failure) => failure,
        }
    }
}
