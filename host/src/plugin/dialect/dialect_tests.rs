//! Tests of the dialects: the lists equal the WIT files, and a component with several dialects is called by the first.

use std::sync::Arc;

use super::Dialect;
use crate::event::AttemptOutcome;
use crate::plugin::testing::{self, options};
use crate::plugin::{AttemptInput, MemoryState, PluginRegistry};

const FILES: [&str; 4] = ["wasi-messaging", "wasmcloud-messaging", "spin", "spin-variables"];

fn resolve() -> wit_parser::Resolve {
    let mut resolve = wit_parser::Resolve::default();
    for file in FILES {
        let path = format!("{}/src/plugin/dialect/wit/{file}.wit", env!("CARGO_MANIFEST_DIR"));
        resolve.push_file(path).unwrap();
    }
    resolve
}

/// A core module with the component type of a world that consists of `lines`.
fn typed(text: &str, lines: &str) -> Vec<u8> {
    let mut resolve = resolve();
    let package =
        resolve.push_str("world.wit", &format!("package tests:speaker; world speaking {{ {lines} }}")).unwrap();
    let world = resolve.select_world(&[package], Some("speaking")).unwrap();
    let mut module = wat::parse_str(text).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, wit_component::StringEncoding::UTF8).unwrap();
    module
}

#[test]
fn the_lists_equal_the_wit_files() {
    let resolve = resolve();
    let mut known = 0;
    for (_, interface) in &resolve.interfaces {
        let package = &resolve.packages[interface.package.unwrap()].name;
        let version = package.version.as_ref().map(ToString::to_string).unwrap_or_default();
        let name = format!("{}:{}/{}", package.namespace, package.name, interface.name.as_ref().unwrap());
        if Dialect::ALL.iter().any(|dialect| dialect.export() == (name.as_str(), version.as_str())) {
            continue;
        }
        let (_, offered, functions) =
            super::IMPORTS.iter().find(|(known, ..)| *known == name).unwrap_or_else(|| panic!("{name} is known"));
        assert_eq!(*offered, version, "{name}");
        let named: Vec<&str> = interface.functions.keys().map(String::as_str).collect();
        assert_eq!(functions.to_vec(), named, "{name}");
        known += 1;
    }
    assert_eq!(known, super::IMPORTS.len());
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
