//! The directory as people use it: files that come, change, break and go.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::event::AttemptOutcome;
use crate::plugin::testing::{OK, component, event, guest, options, typed};
use crate::plugin::{AttemptInput, MemoryState, PluginRegistry, PluginReport, PluginStatus, RegistryOptions};

async fn open(dir: &Path) -> Arc<PluginRegistry> {
    PluginRegistry::open(options(dir)).await.unwrap()
}

fn status(registry: &PluginRegistry, name: &str) -> PluginReport {
    registry.status(name).unwrap()
}

fn routed(registry: &PluginRegistry, event_type: &str) -> Option<String> {
    registry.route(&event_type.parse().unwrap()).map(|plugin| plugin.name().to_owned())
}

/// Two guests that differ in nothing but their digest.
fn versions() -> [Vec<u8>; 2] {
    [guest(OK), guest(&format!("(nop) {OK}"))]
}

#[tokio::test]
async fn a_plugin_handles_the_type_its_file_is_named_after_unless_settings_say_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("order.paid.wasm"), guest(OK)).unwrap();
    fs::write(dir.path().join("orders.wasm"), component(&guest(OK))).unwrap();
    fs::write(dir.path().join("orders.toml"), "types = ['order.*']\nlimits = { cpu_ms = 7 }").unwrap();
    let registry = open(dir.path()).await;
    assert_eq!(routed(&registry, "order.paid").as_deref(), Some("order.paid"));
    assert_eq!(routed(&registry, "order.sent").as_deref(), Some("orders"));
    assert_eq!(routed(&registry, "orders"), None);

    let status = serde_json::to_value(status(&registry, "orders")).unwrap();
    assert_eq!(status["state"], "active");
    assert_eq!(status["types"], serde_json::json!(["order.*"]));
    assert_eq!(status["limits"]["cpuMs"], 7);
    assert_eq!(status["digest"].as_str().unwrap().len(), 64);
}

#[tokio::test]
async fn what_is_no_plugin_is_refused_with_what_to_do() {
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
                "wasm32-wasip2",
                "--stub-wasi",
                "--disable http",
                "keyvalue/store",
                "wit/README.md",
                "\"ask\" of wasmcloud",
            ],
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
        let registry = open(dir.path()).await;
        let status = status(&registry, name);
        let error = status.error.unwrap_or_else(|| panic!("{name} is refused"));
        assert_eq!(status.state, PluginStatus::Failed);
        for word in words {
            assert!(error.contains(word), "{name}: {error:?} says {word:?}");
        }
        fs::remove_file(dir.path().join(format!("{name}.wasm"))).unwrap();
    }
}

/// A component that wants, or has, a function of ours that is given a tuple of a tuple of a tuple … of a record with a
/// field of this name, each of the one within it twice.
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
async fn types_that_would_fill_the_memory_if_they_were_written_out_are_refused_in_a_few_words() {
    let dir = tempfile::tempdir().unwrap();
    // More than 2^19 of them are refused by the compiler.
    for (name, depth, length, is_import) in
        [("few", 2, 5, true), ("many", 18, 20_000, true), ("most", 40, 20_000, true), ("other", 18, 20_000, false)]
    {
        let bytes = nested(depth, &"b".repeat(length), is_import);
        fs::write(dir.path().join(format!("{name}.wasm")), bytes).unwrap();
        let registry = open(dir.path()).await;
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

#[tokio::test]
async fn a_file_that_cannot_be_loaded_leaves_the_last_good_version_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.wasm");
    let [first, second] = versions();
    fs::write(&file, &first).unwrap();
    let registry = open(dir.path()).await;
    let mut changes = registry.changes();
    let digest = status(&registry, "a").digest;

    fs::write(&file, &first[..100]).unwrap();
    registry.refresh(&Default::default()).await;
    let broken = status(&registry, "a");
    assert_eq!((broken.state, &broken.digest), (PluginStatus::FailedKeptLastGood, &digest));
    assert!(broken.error.is_some());
    assert_eq!(routed(&registry, "a").as_deref(), Some("a"));

    fs::write(&file, &second).unwrap();
    registry.refresh(&Default::default()).await;
    let mended = status(&registry, "a");
    assert_eq!((mended.state, mended.error), (PluginStatus::Active, None));
    assert_ne!(mended.digest, digest);
    assert!(changes.has_changed().unwrap());

    // Settings are a part of what is loaded, and refused like it.
    fs::write(dir.path().join("a.toml"), "concurency = 2").unwrap();
    registry.refresh(&Default::default()).await;
    assert!(status(&registry, "a").error.unwrap().contains("did you mean \"concurrency\""));
    fs::write(dir.path().join("a.toml"), "concurrency = 2").unwrap();
    registry.refresh(&Default::default()).await;
    let settled = status(&registry, "a");
    assert_eq!((settled.state, settled.concurrency), (PluginStatus::Active, Some(2)));

    changes.mark_unchanged();
    fs::write(&file, &second).unwrap();
    registry.refresh(&Default::default()).await;
    assert!(!changes.has_changed().unwrap(), "the same bytes again are no change");

    fs::remove_file(&file).unwrap();
    registry.refresh(&Default::default()).await;
    assert!(routed(&registry, "a").is_none());
    assert_eq!(status(&registry, "a").state, PluginStatus::Removed);
}

#[tokio::test]
async fn what_failed_for_no_fault_of_the_files_is_tried_again_though_it_did_not_change() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("token");
    fs::write(dir.path().join("a.wasm"), guest(OK)).unwrap();
    fs::write(dir.path().join("a.toml"), format!("secrets = {{ token = {{ file = {secret:?} }} }}")).unwrap();
    let registry = open(dir.path()).await;
    for _ in 0..2 {
        let failed = status(&registry, "a");
        assert_eq!(failed.state, PluginStatus::Failed);
        assert!(failed.error.unwrap().contains("the secret \"token\" cannot be read"));
        registry.refresh(&Default::default()).await;
    }
    fs::write(&secret, "a long secret").unwrap();
    registry.refresh(&Default::default()).await;
    let passed = status(&registry, "a");
    assert_eq!((passed.state, passed.error), (PluginStatus::Active, None));
}

#[tokio::test]
async fn of_two_plugins_for_one_type_the_second_takes_over_when_the_first_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        fs::write(dir.path().join(format!("{name}.wasm")), guest(OK)).unwrap();
        fs::write(dir.path().join(format!("{name}.toml")), "types = ['x']").unwrap();
    }
    let registry = open(dir.path()).await;
    assert_eq!(routed(&registry, "x").as_deref(), Some("a"));
    let refused = status(&registry, "b");
    assert_eq!(refused.state, PluginStatus::Failed);
    assert!(refused.error.unwrap().contains("\"a\""));

    fs::remove_file(dir.path().join("a.wasm")).unwrap();
    registry.refresh(&Default::default()).await;
    assert_eq!(routed(&registry, "x").as_deref(), Some("b"));
    assert_eq!(status(&registry, "b").state, PluginStatus::Active);
}

#[tokio::test]
async fn a_plugin_that_comes_takes_no_type_from_one_that_serves_and_after_a_restart_neither() {
    let (dir, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let put = |name: &str, body: &str| {
        fs::write(dir.path().join(format!("{name}.toml")), "types = ['x']").unwrap();
        fs::write(dir.path().join(format!("{name}.wasm")), guest(body)).unwrap();
    };
    let options = || RegistryOptions { data_dir: Some(kept.path().join("ours")), ..options(dir.path()) };
    put("z", OK);
    let registry = PluginRegistry::open(options()).await.unwrap();
    put("aaa", OK);
    registry.refresh(&Default::default()).await;
    assert_eq!(routed(&registry, "x").as_deref(), Some("z"));
    assert!(status(&registry, "aaa").error.unwrap().contains("\"z\""));
    // A new build of the one that serves goes on with it.
    put("z", &format!("(nop) {OK}"));
    registry.refresh(&Default::default()).await;
    assert_eq!((routed(&registry, "x").as_deref(), status(&registry, "z").state), (Some("z"), PluginStatus::Active));
    drop(registry);
    let registry = PluginRegistry::open(options()).await.unwrap();
    assert_eq!(routed(&registry, "x").as_deref(), Some("z"));

    // What takes over from one that went has served since, whatever its name.
    fs::remove_file(dir.path().join("aaa.wasm")).unwrap();
    put("zz", OK);
    registry.refresh(&Default::default()).await;
    assert_eq!(status(&registry, "zz").state, PluginStatus::Failed);
    fs::remove_file(dir.path().join("z.wasm")).unwrap();
    for _ in 0..2 {
        registry.refresh(&Default::default()).await;
    }
    put("z", OK);
    registry.refresh(&Default::default()).await;
    assert_eq!(routed(&registry, "x").as_deref(), Some("zz"));
    drop(registry);
    let registry = PluginRegistry::open(options()).await.unwrap();
    assert_eq!(routed(&registry, "x").as_deref(), Some("zz"));
}

#[tokio::test]
async fn a_directory_that_is_watched_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let settled = RegistryOptions { settle_ms: 50, rescan_ms: 60_000, ..options(dir.path()) };
    let registry = PluginRegistry::open(settled).await.unwrap();
    let stop = CancellationToken::new();
    let mut changes = registry.changes();
    let watching = {
        let (registry, stop) = (registry.clone(), stop.clone());
        async move { registry.watch(stop).await }
    };
    let people = async {
        let [first, second] = versions();
        fs::write(dir.path().join("a.wasm"), first).unwrap();
        changes.changed().await.unwrap();
        let before = status(&registry, "a").digest.unwrap();
        fs::write(dir.path().join("a.wasm.tmp"), second).unwrap();
        fs::rename(dir.path().join("a.wasm.tmp"), dir.path().join("a.wasm")).unwrap();
        changes.changed().await.unwrap();
        assert_ne!(status(&registry, "a").digest.unwrap(), before);
        fs::remove_file(dir.path().join("a.wasm")).unwrap();
        changes.changed().await.unwrap();
        assert!(registry.active().is_empty());
        stop.cancel();
    };
    let both = async { tokio::join!(watching, people) };
    tokio::time::timeout(Duration::from_secs(120), both).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("not/yet");
    assert!(open(&inner).await.active().is_empty());
    assert!(inner.is_dir());
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(PluginRegistry::open(options(&dir.path().join("file"))).await.is_err());
}

#[tokio::test]
async fn beyond_the_limit_there_is_room_for_plugins_of_which_nothing_runs_and_for_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.wasm"), guest(OK)).unwrap();
    let registry =
        PluginRegistry::open(RegistryOptions { concurrency: 1, reserve: 3, ..options(dir.path()) }).await.unwrap();
    let plugin = registry.route(&"a".parse().unwrap()).unwrap();
    let mut rooms = Vec::new();
    for _ in 0..3 {
        rooms.push(plugin.acquire_permit().await);
    }
    let attempt = AttemptInput { event: event("{}").into(), attempt: 1 };
    let completed = plugin.handle(attempt, Arc::new(MemoryState::default())).await;
    assert!(matches!(completed.outcome, AttemptOutcome::Ok(_)), "{:?}", completed.outcome);

    rooms.push(plugin.acquire_permit().await);
    fs::write(dir.path().join("b.wasm"), guest(OK)).unwrap();
    registry.refresh(&Default::default()).await;
    assert_eq!(status(&registry, "b").state, PluginStatus::Active, "while all attempts run that may");
}

#[tokio::test]
async fn a_file_that_was_written_to_its_end_is_loaded_at_once_wherever_the_directory_is_said_to_be() {
    let place = tempfile::tempdir().unwrap();
    let (dir, link) = (place.path().join("plugins"), place.path().join("link"));
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::symlink(&dir, &link).unwrap();
    // A path that leads there from where this process stands, and one through a link.
    let here = std::env::current_dir().unwrap();
    let up = "../".repeat(here.components().count() - 1);
    let relative = Path::new(&up).join(dir.strip_prefix("/").unwrap());
    for (name, dir) in [("a", relative), ("b", link)] {
        // Nothing is loaded for having been quiet.
        let patient = RegistryOptions { settle_ms: 600_000, rescan_ms: 600_000, ..options(&dir) };
        let (stop, registry) = (CancellationToken::new(), PluginRegistry::open(patient).await.unwrap());
        let mut changes = registry.changes();
        let people = async {
            fs::write(dir.join(format!("{name}.wasm")), guest(OK)).unwrap();
            while registry.status(name).is_none_or(|status| status.state != PluginStatus::Active) {
                changes.changed().await.unwrap();
            }
            stop.cancel();
        };
        let both = async { tokio::join!(registry.watch(stop.clone()), people) };
        tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
        fs::remove_file(dir.join(format!("{name}.wasm"))).unwrap();
    }
}
