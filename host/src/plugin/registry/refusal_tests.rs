//! Files that are no plugin: each is refused with a reason and a remedy.

use std::fs;

use super::registry_rig::status;
use crate::plugin::testing::{OK, component, guest, options, typed};
use crate::plugin::{PluginRegistry, RegistryOptions};
use crate::plugin_report::PluginStatus;

#[tokio::test]
async fn a_file_that_is_no_plugin_is_refused_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let engine = wasmtime::Engine::default();
    let precompiled = engine.precompile_component(&component(&guest(OK))).unwrap();
    let other_types = r#"(component
        (core module $m (func (export "f") (param i32) (result i32) (local.get 0)))
        (core instance $i (instantiate $m))
        (func $f (param "event" u32) (result u32) (canon lift (core func $i "f")))
        (instance $handler (export "handle" (func $f)))
        (export "eventstream:plugin/handler@0.1.0" (instance $handler)))"#;
    let misfit = r#"(component
        (import "acme:things/shop@1.2.3" (instance (export "buy" (func))))
        (import "eventstream:plugin/log@0.2.0" (instance (export "log" (func))))
        (import "eventstream:plugin/delivery@0.1.4" (instance (export "attempt" (func (result u32))) (export "age" (func)))))"#;
    let other_import = r#"(component
        (import "eventstream:plugin/config@0.1.0" (instance (export "get" (func (param "key" u32)))))
        (import "eventstream:plugin/delivery@0.1.0" (instance (export "attempt" (func (result string))))))"#;
    let foreign_imports = r#"(component
        (import "wasi:cli/environment@0.3.0" (instance))
        (import "wasi:io/poll@0.3.0" (instance))
        (import "wasi:http/incoming-handler@0.2.0" (instance))
        (import "wasi:keyvalue/store@0.2.0-draft9" (instance))
        (import "fermyon:spin/llm@2.0.0" (instance))
        (import "wasmcloud:messaging/consumer@0.2.0" (instance (export "ask" (func)))))"#;
    let newer = r#"(component (instance $i) (export "wasmcloud:messaging/handler@0.3.0" (instance $i)))"#;
    let command = r#"(component (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#;
    let unfinished = r#"(component (instance $i) (export "fermyon:spin/inbound-redis" (instance $i)))"#;
    let greedy = r#"(component
        (core module $m (memory 1) (memory 1) (memory 1))
        (core instance (instantiate $m))
        (core instance (instantiate $m)))"#;
    let tables =
        format!("(component (core module $m {}) (core instance (instantiate $m)))", "(table 1 funcref)".repeat(1_000));
    let hungry = typed(
        r#"(module (memory (export "memory") 2000)
            (func (export "eventstream:plugin/handler@0.1.0#handle") (param i32) (result i32) (i32.const 0))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable))"#,
        "pure",
    );
    for (name, bytes, words) in [
        ("precompiled", precompiled, vec!["precompiled"]),
        ("text", b"hello".to_vec(), vec!["not WebAssembly: the file does not begin"]),
        ("empty", Vec::new(), vec!["not WebAssembly"]),
        ("half", component(&guest(OK))[..500].to_vec(), vec!["cut short or damaged"]),
        ("module", wat::parse_str("(module)").unwrap(), vec!["component type", "wasm32-wasip2"]),
        ("nothing", wat::parse_str("(component)").unwrap(), vec!["does not export eventstream:plugin/handler@0.1.0"]),
        (
            "other-types",
            wat::parse_str(other_types).unwrap(),
            vec!["\"handle\" of", "`func(event: u32) -> u32`", "`func(event: record { id: string, source"],
        ),
        (
            "misfit",
            wat::parse_str(misfit).unwrap(),
            vec!["acme:things/shop@1.2.3", "eventstream:plugin/log@0.1.0: rebuild", "\"age\"", "does not export"],
        ),
        (
            "other-import",
            wat::parse_str(other_import).unwrap(),
            vec![
                "\"get\" of eventstream:plugin/config@0.1.0 as `func(key: u32)`",
                "`func(key: string) -> option<string>`",
                "`func() -> string`, which for this host is `func() -> u32`",
                "does not export",
            ],
        ),
        (
            "foreign-imports",
            wat::parse_str(foreign_imports).unwrap(),
            vec![
                "imports wasi:cli/environment@0.3.0, wasi:io/poll@0.3.0, but the WASI that is offered is 0.2",
                "wasm32-wasip2",
                "--stub-wasi",
                "--disable http",
                "keyvalue/store",
                "wit/README.md",
                "\"ask\" of wasmcloud",
            ],
        ),
        (
            "asynchronous",
            wat::parse_str("(component (type (stream u8)))").unwrap(),
            vec!["it is made for WASI 0.3", "a version of the SDK"],
        ),
        ("newer", wat::parse_str(newer).unwrap(), vec!["this host speaks wasmcloud:messaging/handler@0.2.0: rebuild"]),
        ("command", wat::parse_str(command).unwrap(), vec!["it is a command", "cdylib"]),
        (
            "unfinished",
            wat::parse_str(unfinished).unwrap(),
            vec!["without its function \"handle-message\"", "list<u8>"],
        ),
        ("greedy", wat::parse_str(greedy).unwrap(), vec!["memories"]),
        ("tables", wat::parse_str(tables).unwrap(), vec!["table"]),
        ("hungry", hungry, vec!["starts with 131072000 bytes of memory", "67108864", "raise limits.memory_bytes"]),
        ("a b", guest(OK), vec!["rename"]),
    ] {
        fs::write(dir.path().join(format!("{name}.wasm")), bytes).unwrap();
        let registry = PluginRegistry::open(options(dir.path())).await.unwrap();
        let status = status(&registry, name);
        let error = status.error.unwrap_or_else(|| panic!("{name} is refused"));
        assert_eq!(status.status, PluginStatus::Failed);
        for word in words {
            assert!(error.contains(word), "{name}: {error:?} says {word:?}");
        }
        fs::remove_file(dir.path().join(format!("{name}.wasm"))).unwrap();
    }
}

/// A component that imports a function whose parameter is `depth` nested tuples of two equal types. The innermost type is a
/// record with a field of this name.
fn nested(depth: u32, field: &str, is_import: bool) -> Vec<u8> {
    let tuples: String =
        (1..=depth).map(|n| format!("(type $t{n} (tuple $t{before} $t{before}))", before = n - 1)).collect();
    let (interface, function) = match is_import {
        true => ("eventstream:plugin/log@0.1.0", "log"),
        false => ("acme:things/shop@1.2.3", "buy"),
    };
    wat::parse_str(format!(
        r#"(component (import "{interface}" (instance
            (type $r (record (field "{field}" u8)))
            (export "r" (type $t0 (eq $r)))
            {tuples}
            (export "{function}" (func (param "level" $t{depth}))))))"#
    ))
    .unwrap()
}

#[tokio::test]
async fn types_that_would_fill_the_memory_when_written_out_are_refused_in_a_short_message() {
    let dir = tempfile::tempdir().unwrap();
    // The compiler refuses more than 2^19 of them.
    for (name, depth, length, is_import) in
        [("few", 2, 5, true), ("many", 18, 20_000, true), ("most", 40, 20_000, true), ("other", 18, 20_000, false)]
    {
        let bytes = nested(depth, &"b".repeat(length), is_import);
        fs::write(dir.path().join(format!("{name}.wasm")), bytes).unwrap();
        let registry = PluginRegistry::open(options(dir.path())).await.unwrap();
        let error = status(&registry, name).error.unwrap_or_else(|| panic!("{name} is refused"));
        assert!(error.len() < 10_000, "{name}: {} bytes", error.len());
        let is_cut = error.contains('…');
        assert_eq!(is_cut, name == "many", "{name}: {error}");
        fs::remove_file(dir.path().join(format!("{name}.wasm"))).unwrap();
    }
}

#[tokio::test]
async fn a_file_over_the_limit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.wasm"), vec![0; 101]).unwrap();
    let registry = PluginRegistry::open(RegistryOptions { max_file_bytes: 100, ..options(dir.path()) }).await.unwrap();
    assert!(status(&registry, "a").error.unwrap().contains("more than 100 bytes"));
}
