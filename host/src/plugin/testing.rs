//! Components for the tests of plugins, written as WAT so that the tests need no toolchain for guests.
//!
//! A guest is a core module with the component type of the world `plugin`. The host makes a component of it, so the tests
//! cover that step as well.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{
    AttemptInput, AttemptLimits, CompletedAttempt, CpuMeter, MemoryState, Plugin, PluginRegistry, RegistryOptions,
};
use crate::event::{AttemptEffects, AttemptFailure, AttemptOutcome, Event, EventData, EventId, Timestamp};

/// Returns ok without a result.
pub(super) const OK: &str = "(call $ok)";
/// Returns `retry` with the message `child` and, as `after-ms`, the number of calls of the instance.
pub(super) const RETRY: &str = "(call $retry)";
/// Returns `reject` with the message `child`.
pub(super) const REJECT: &str = "(call $reject)";

/// The memory of a guest and its answers. `$result` is the address of the result of `handle`, and the offsets are those of
/// the canonical ABI.
pub(super) const ANSWERS: &str = r#"
    (global $result i32 (i32.const 1024))
    (global $text i32 (i32.const 2048))
    (global $text_length i32 (i32.const 5))
    (data (i32.const 2048) "child")
    (global $heap (mut i32) (i32.const 32768))
    (global $calls (mut i64) (i64.const 0))
    (func $ok (result i32) (global.get $result))
    (func $ok_text (param $length i32) (result i32)
        (; some result ;) (i32.store8 offset=8 (global.get $result) (i32.const 1))
        (; its address ;) (i32.store offset=16 (global.get $result) (global.get $text))
        (; its length ;) (i32.store offset=20 (global.get $result) (local.get $length))
        (global.get $result))
    (func $failed (param $kind i32) (result i32)
        (; an error ;) (i32.store8 (global.get $result) (i32.const 1))
        (; retry or reject ;) (i32.store8 offset=8 (global.get $result) (local.get $kind))
        (; the message ;) (i32.store offset=16 (global.get $result) (global.get $text))
        (; its length ;) (i32.store offset=20 (global.get $result) (global.get $text_length))
        (global.get $result))
    (func $retry (result i32)
        (; some after-ms ;) (i32.store8 offset=24 (global.get $result) (i32.const 1))
        (; its value ;) (i64.store offset=32 (global.get $result) (global.get $calls))
        (call $failed (i32.const 0)))
    (func $reject (result i32) (call $failed (i32.const 1)))
    (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
        (global.set $heap (i32.add (local.get $at) (local.get $size)))
        (local.get $at))"#;

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
        accepted_at: Timestamp::from_unix_ms(1_795_446_245_007),
        cause: None,
        depth: 0,
        data: Some(EventData::text(payload)),
    }
}

/// A core module with a component type, whose handler has this body. Beside [`ANSWERS`] the body may call:
/// - `$log`, and `$line` with the length of a message;
/// - `$publish`, and `$child`, which publishes an event of the type `child`;
/// - `$recurse`, which never ends.
pub(super) fn guest(body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "eventstream:plugin/log@0.1.0" "log" (func $log
                (param $level i32) (param $message i32) (param $length i32) (param $fields i32) (param $count i32)))
            (import "eventstream:plugin/publisher@0.1.0" "publish" (func $publish
                (param $type i32) (param $type_length i32)
                (param $has_subject i32) (param $subject i32) (param $subject_length i32)
                (param $has_content_type i32) (param $content_type i32) (param $content_type_length i32)
                (param $extensions i32) (param $extension_count i32)
                (param $has_data i32) (param $data_kind i32) (param $data i32) (param $data_length i32)
                (param $has_delay i32) (param $delay_ms i64) (param $answer i32)))
            (memory (export "memory") 1)
            (table $table 1 funcref)
            (global $info i32 (i32.const 2))
            (global $publish_answer i32 (i32.const 512))
            {ANSWERS}
            (func $child
                (call $publish (global.get $text) (global.get $text_length)
                    (; no subject ;) (i32.const 0) (i32.const 0) (i32.const 0)
                    (; no content type ;) (i32.const 0) (i32.const 0) (i32.const 0)
                    (; no extensions ;) (i32.const 0) (i32.const 0)
                    (; no data ;) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                    (; no delay ;) (i32.const 0) (i64.const 0)
                    (global.get $publish_answer)))
            (func $line (param $length i32)
                (call $log (global.get $info) (global.get $text) (local.get $length) (i32.const 0) (i32.const 0)))
            (func $recurse (param $depth i32) (result i32)
                (i32.add (call $recurse (i32.add (local.get $depth) (i32.const 1))) (i32.const 1)))
            (func $handle (export "eventstream:plugin/handler@0.1.0#handle") (param $event i32) (result i32)
                (local $n i32)
                (global.set $calls (i64.add (global.get $calls) (i64.const 1)))
                {body}))"#
    );
    typed(&text, "plugin")
}

/// A core module with the component type of a world of the package, or of `described`, which exports `describe` as well.
pub(super) fn typed(text: &str, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap();
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_file(concat!(env!("CARGO_MANIFEST_DIR"), "/../wit/plugin.wit")).unwrap();
    let described = "package eventstream:tests; world described {
        export eventstream:plugin/handler@0.1.0; export eventstream:plugin/describe@0.1.0; }";
    let package = match world {
        "described" => resolve.push_str("described.wit", described).unwrap(),
        _ => package,
    };
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, wit_component::StringEncoding::UTF8).unwrap();
    module
}

/// The component that the host makes of a guest.
pub(super) fn component(guest: &[u8]) -> Vec<u8> {
    wit_component::ComponentEncoder::default().module(guest).unwrap().encode().unwrap()
}

/// Options for a directory whose files are loaded without delay.
pub(super) fn options(dir: &Path) -> RegistryOptions {
    RegistryOptions { dir: dir.to_owned(), concurrency: 4, reserve: 4, quiet_ms: 0, ..RegistryOptions::default() }
}

/// The only plugin of a registry.
pub(super) struct SolePlugin {
    plugin: Arc<Plugin>,
}

/// A registry with the plugin `test`, whose handler has this body.
pub(super) async fn sole(body: &str, limits: AttemptLimits) -> SolePlugin {
    sole_with(body, limits, "").await
}

/// Like [`sole`], with settings.
pub(super) async fn sole_with(body: &str, limits: AttemptLimits, settings: &str) -> SolePlugin {
    sole_of(&guest(body), limits, settings).await
}

/// Like [`sole`], for any component.
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
    pub(super) async fn attempt(&self) -> CompletedAttempt {
        self.plugin
            .handle(AttemptInput { event: event("{}").into(), attempt: 1 }, Arc::new(MemoryState::default()))
            .await
    }

    /// A first attempt of a delivery whose meter shows CPU time from before the attempt.
    pub(super) async fn attempt_after(&self, spent_ns: u64) -> CompletedAttempt {
        let plugin = self.plugin.clone();
        let run = move |meter: Arc<CpuMeter>| async move {
            meter.add(spent_ns);
            let attempt = AttemptInput { event: event("{}").into(), attempt: 1 };
            plugin.handle_here(plugin.acquire_permit().await, attempt, Arc::new(MemoryState::default()), meter).await
        };
        self.plugin.runtime.executor.run(run).await.unwrap()
    }

    /// The number of idle instances.
    pub(super) fn idle_count(&self) -> usize {
        self.plugin.prepared.pool.len()
    }

    /// A first attempt that must succeed.
    pub(super) async fn success(&self) -> AttemptEffects {
        match self.attempt().await.outcome {
            AttemptOutcome::Ok(success) => success,
            AttemptOutcome::Failed(failure) => panic!("{failure:?}"),
        }
    }

    /// A first attempt that must fail.
    pub(super) async fn failure(&self) -> AttemptFailure {
        match self.attempt().await.outcome {
            AttemptOutcome::Ok(success) => panic!("{success:?}"),
            AttemptOutcome::Failed(failure) => failure,
        }
    }
}
