//! A plugin that is replaced while it works: nothing fails, and an attempt ends on the version it began with.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use eventstream::plugin::{Plugin, PluginRegistry};
use eventstream_tests::layout;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{attempt, open, result, route, success, together};

/// A component that differs from the last one in a custom section: of another digest, and the same otherwise.
fn put(dir: &Path, version: u8) {
    let mut component = fs::read(layout::guest("scripted")).unwrap();
    component.extend([0, 3, 1, b'v', version]);
    fs::write(dir.join("a.wasm.tmp"), component).unwrap();
    fs::rename(dir.join("a.wasm.tmp"), dir.join("a.wasm")).unwrap();
}

/// Attempts one after the other on whatever version is routed to, until told to stop; gives the digests that served.
async fn work(registry: Arc<PluginRegistry>, stop: CancellationToken) -> Vec<String> {
    let mut digests: Vec<String> = Vec::new();
    while !stop.is_cancelled() {
        let plugin: Arc<Plugin> = route(&registry, "a");
        assert_eq!(result(attempt(&plugin, 1, json!({"do": "static", "spin-ms": 1})).await), 1);
        if digests.last().is_none_or(|last| last != plugin.digest()) {
            digests.push(plugin.digest().to_owned());
        }
    }
    digests
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_a_plugin_under_load_fails_nothing() {
    let _turn = together().await;
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), 0);
    fs::write(dir.path().join("a.toml"), "limits = { cpu_ms = 60000, wall_ms = 120000 }").unwrap();
    let registry = open(dir.path()).await;
    let (stop, mut changes) = (CancellationToken::new(), registry.changes());
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..3 {
        running.spawn(work(registry.clone(), stop.clone()));
    }
    let watching = {
        let (registry, stop) = (registry.clone(), stop.clone());
        async move { registry.watch(stop).await }
    };
    let people = async {
        let first = route(&registry, "a");
        let begun = attempt(&first, 1, json!({"sleep-ms": 1_500}));
        let replaced = async {
            for version in 1..=4 {
                put(dir.path(), version);
                changes.changed().await.unwrap();
            }
        };
        let (ended, ()) = tokio::join!(begun, replaced);
        success(ended);
        assert_ne!(route(&registry, "a").digest(), first.digest());
        stop.cancel();
    };
    let both = async { tokio::join!(watching, people) };
    tokio::time::timeout(Duration::from_secs(300), both).await.unwrap();
    for digests in running.join_all().await {
        assert!(digests.len() >= 3, "the work went on from version to version: {digests:?}");
    }
}
