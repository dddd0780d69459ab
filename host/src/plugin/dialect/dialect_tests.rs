//! A component with several dialects is called by the first.

use std::sync::Arc;

use super::Dialect;
use crate::event::AttemptOutcome;
use crate::plugin::testing::{self, options};
use crate::plugin::{AttemptInput, MemoryState, PluginRegistry};

/// A core module with the component type of a world that consists of `lines`.
fn typed(text: &str, lines: &str) -> Vec<u8> {
    let mut resolve = wit_parser::Resolve::default();
    for file in ["spin", "wasmcloud-messaging"] {
        let path = format!("{}/src/plugin/dialect/wit/{file}.wit", env!("CARGO_MANIFEST_DIR"));
        resolve.push_file(path).unwrap();
    }
    let package =
        resolve.push_str("world.wit", &format!("package tests:speaker; world speaking {{ {lines} }}")).unwrap();
    let world = resolve.select_world(&[package], Some("speaking")).unwrap();
    let mut module = wat::parse_str(text).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, wit_component::StringEncoding::UTF8).unwrap();
    module
}

#[tokio::test]
async fn a_component_with_several_dialects_is_called_by_the_first() {
    let text = r#"(module
        (memory (export "memory") 1)
        (func (export "fermyon:spin/inbound-redis#handle-message") (param i32 i32) (result i32) unreachable)
        (func (export "wasmcloud:messaging/handler@0.2.0#handle-message")
            (param i32 i32 i32 i32 i32 i32 i32) (result i32) i32.const 1024)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 2048))"#;
    let lines = "export fermyon:spin/inbound-redis; export wasmcloud:messaging/handler@0.2.0;";
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("test.wasm"), typed(text, lines)).unwrap();
    let registry = PluginRegistry::open(options(dir.path())).await.unwrap();
    assert_eq!(registry.statuses()[0].dialect.as_deref(), Some("wasmcloud:messaging/handler@0.2.0"));
    let plugin: Arc<_> = registry.route(&"test".parse().unwrap()).unwrap();
    assert_eq!(plugin.other_dialects(), [Dialect::SpinRedis]);
    let completed = plugin
        .handle(AttemptInput { event: testing::event("{}").into(), attempt: 1 }, Arc::new(MemoryState::default()))
        .await;
    assert!(matches!(completed.outcome, AttemptOutcome::Ok(_)), "{completed:?}");
}
