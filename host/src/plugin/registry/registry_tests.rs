//! The directory as people use it: files are added, changed, broken and removed.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::registry_rig::{scan, status};
use crate::event::AttemptOutcome;
use crate::plugin::testing::{OK, component, event, guest, options};
use crate::plugin::{AttemptInput, MemoryState, PluginRegistry, RegistryOptions};
use crate::plugin_report::PluginStatus;

async fn open(dir: &Path) -> Arc<PluginRegistry> {
    PluginRegistry::open(options(dir)).await.unwrap()
}

fn routed(registry: &PluginRegistry, event_type: &str) -> Option<String> {
    registry.route(&event_type.parse().unwrap()).map(|plugin| plugin.name().to_owned())
}

/// Two guests that differ only in their digest.
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

    let report = status(&registry, "orders");
    assert_eq!(report.status, PluginStatus::Active);
    assert_eq!(report.types, ["order.*".parse().unwrap()]);
    assert_eq!(report.limits.unwrap().cpu_ms, 7);
    assert_eq!(report.digest.unwrap().len(), 64);
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
    scan(&registry).await;
    let broken = status(&registry, "a");
    assert_eq!((broken.status, &broken.digest), (PluginStatus::FailedKeptLastGood, &digest));
    assert!(broken.error.is_some());
    assert_eq!(routed(&registry, "a").as_deref(), Some("a"));

    fs::write(&file, &second).unwrap();
    scan(&registry).await;
    let mended = status(&registry, "a");
    assert_eq!((mended.status, mended.error), (PluginStatus::Active, None));
    assert_ne!(mended.digest, digest);
    assert!(changes.has_changed().unwrap());

    // Wrong settings are refused like a wrong file.
    fs::write(dir.path().join("a.toml"), "concurency = 2").unwrap();
    scan(&registry).await;
    assert!(status(&registry, "a").error.unwrap().contains("did you mean \"concurrency\""));
    fs::write(dir.path().join("a.toml"), "concurrency = 2").unwrap();
    scan(&registry).await;
    let settled = status(&registry, "a");
    assert_eq!((settled.status, settled.concurrency), (PluginStatus::Active, Some(2)));

    changes.mark_unchanged();
    fs::write(&file, &second).unwrap();
    scan(&registry).await;
    assert!(!changes.has_changed().unwrap(), "the same bytes again are no change");

    fs::remove_file(&file).unwrap();
    scan(&registry).await;
    assert!(routed(&registry, "a").is_none());
    assert_eq!(status(&registry, "a").status, PluginStatus::Removed);
}

#[tokio::test]
async fn a_load_that_failed_for_a_temporary_reason_is_retried() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("token");
    fs::write(dir.path().join("a.wasm"), guest(OK)).unwrap();
    fs::write(dir.path().join("a.toml"), format!("secrets = {{ token = {{ file = {secret:?} }} }}")).unwrap();
    let registry = open(dir.path()).await;
    for _ in 0..2 {
        let failed = status(&registry, "a");
        assert_eq!(failed.status, PluginStatus::Failed);
        assert!(failed.error.unwrap().contains("the secret \"token\" cannot be read"));
        scan(&registry).await;
    }
    fs::write(&secret, "a long secret").unwrap();
    scan(&registry).await;
    let passed = status(&registry, "a");
    assert_eq!((passed.status, passed.error), (PluginStatus::Active, None));
}

#[tokio::test]
async fn of_two_plugins_for_one_type_the_second_takes_over_when_the_first_was_removed() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        fs::write(dir.path().join(format!("{name}.wasm")), guest(OK)).unwrap();
        fs::write(dir.path().join(format!("{name}.toml")), "types = ['x']").unwrap();
    }
    let registry = open(dir.path()).await;
    assert_eq!(routed(&registry, "x").as_deref(), Some("a"));
    let refused = status(&registry, "b");
    assert_eq!(refused.status, PluginStatus::Failed);
    assert!(refused.error.unwrap().contains("\"a\""));

    registry.remove("a").await.unwrap();
    scan(&registry).await;
    assert_eq!(routed(&registry, "x").as_deref(), Some("b"));
    assert_eq!(status(&registry, "b").status, PluginStatus::Active);
}

#[tokio::test]
async fn a_new_plugin_takes_no_type_from_one_that_serves_not_even_after_a_restart() {
    let (dir, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let put = |name: &str, body: &str| {
        fs::write(dir.path().join(format!("{name}.toml")), "types = ['x']").unwrap();
        fs::write(dir.path().join(format!("{name}.wasm")), guest(body)).unwrap();
    };
    let options = || RegistryOptions { data_dir: Some(kept.path().join("ours")), ..options(dir.path()) };
    put("z", OK);
    let registry = PluginRegistry::open(options()).await.unwrap();
    put("aaa", OK);
    scan(&registry).await;
    assert_eq!(routed(&registry, "x").as_deref(), Some("z"));
    assert!(status(&registry, "aaa").error.unwrap().contains("\"z\""));
    // A new build of the plugin that serves keeps the type.
    put("z", &format!("(nop) {OK}"));
    scan(&registry).await;
    assert_eq!((routed(&registry, "x").as_deref(), status(&registry, "z").status), (Some("z"), PluginStatus::Active));
    drop(registry);
    let registry = PluginRegistry::open(options()).await.unwrap();
    assert_eq!(routed(&registry, "x").as_deref(), Some("z"));

    // A plugin that took over from a removed one keeps the type, whatever its name.
    fs::remove_file(dir.path().join("aaa.wasm")).unwrap();
    put("zz", OK);
    scan(&registry).await;
    assert_eq!(status(&registry, "zz").status, PluginStatus::Failed);
    registry.remove("z").await.unwrap();
    for _ in 0..2 {
        scan(&registry).await;
    }
    put("z", OK);
    scan(&registry).await;
    assert_eq!(routed(&registry, "x").as_deref(), Some("zz"));
    drop(registry);
    let registry = PluginRegistry::open(options()).await.unwrap();
    assert_eq!(routed(&registry, "x").as_deref(), Some("zz"));
}

#[tokio::test]
async fn changes_of_a_watched_directory_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let settled = RegistryOptions { quiet_ms: 50, rescan_ms: 60_000, ..options(dir.path()) };
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
        assert!(registry.serving_plugins().is_empty());
        stop.cancel();
    };
    let both = async { tokio::join!(watching, people) };
    tokio::time::timeout(Duration::from_secs(120), both).await.unwrap();
}

#[tokio::test]
async fn a_missing_directory_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("not/yet");
    assert!(open(&inner).await.serving_plugins().is_empty());
    assert!(inner.is_dir());
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(PluginRegistry::open(options(&dir.path().join("file"))).await.is_err());
}

#[tokio::test]
async fn beyond_the_limit_there_is_room_for_idle_plugins_and_for_new_ones() {
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
    scan(&registry).await;
    assert_eq!(status(&registry, "b").status, PluginStatus::Active, "while all attempts run that may");
}

#[tokio::test]
async fn a_file_that_was_written_to_its_end_is_loaded_at_once_wherever_the_directory_is_said_to_be() {
    let place = tempfile::tempdir().unwrap();
    let (dir, link) = (place.path().join("plugins"), place.path().join("link"));
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::symlink(&dir, &link).unwrap();
    // A path relative to the working directory, and one through a link.
    let here = std::env::current_dir().unwrap();
    let up = "../".repeat(here.components().count() - 1);
    let relative = Path::new(&up).join(dir.strip_prefix("/").unwrap());
    for (name, dir) in [("a", relative), ("b", link)] {
        // Too long for any file to become quiet.
        let patient = RegistryOptions { quiet_ms: 600_000, rescan_ms: 600_000, ..options(&dir) };
        let (stop, registry) = (CancellationToken::new(), PluginRegistry::open(patient).await.unwrap());
        let mut changes = registry.changes();
        let people = async {
            fs::write(dir.join(format!("{name}.wasm")), guest(OK)).unwrap();
            while registry.status(name).is_none_or(|status| status.status != PluginStatus::Active) {
                changes.changed().await.unwrap();
            }
            stop.cancel();
        };
        let both = async { tokio::join!(registry.watch(stop.clone()), people) };
        tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
        fs::remove_file(dir.join(format!("{name}.wasm"))).unwrap();
    }
}
