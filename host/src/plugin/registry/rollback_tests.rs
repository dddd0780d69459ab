//! A rollback takes no types from another plugin, and a version that may not serve leaves the plugin in service.

use std::fs;
use std::sync::Arc;

use super::registry_rig::{RegistryRig, described, digest_of, modest, scan, serving_digest, status};
use crate::plugin::{ChangeRefusal, PluginRegistry, RegistryOptions};
use crate::plugin_report::{PluginReport, PluginStatus};

const BOTH: &[&str] = &["x", "y"];

/// The plugin that is given an event of this type.
fn routed(registry: &PluginRegistry, event_type: &str) -> Option<String> {
    registry.route(&event_type.parse().unwrap()).map(|plugin| plugin.name().to_owned())
}

#[track_caller]
fn assert_routed(registry: &PluginRegistry, expected: [(&str, Option<&str>); 2]) {
    for (event_type, name) in expected {
        assert_eq!(routed(registry, event_type).as_deref(), name, "{event_type}: {:?}", registry.statuses());
    }
}

/// A rig whose plugin `a` handled `x` and `y` and handles only `x` by now, while `y` belongs to `b`.
async fn given_away() -> (RegistryRig, Arc<PluginRegistry>) {
    let rig = RegistryRig::with(&described(0, BOTH));
    let registry = rig.open().await;
    rig.put("a", &described(1, &["x"]));
    scan(&registry).await;
    rig.put("b", &described(2, &["y"]));
    scan(&registry).await;
    assert_routed(&registry, [("x", Some("a")), ("y", Some("b"))]);
    (rig, registry)
}

fn shown(report: &PluginReport) -> (PluginStatus, Option<&str>, Option<&str>, bool) {
    (report.status, report.digest.as_deref(), report.rolled_back_from.as_deref(), report.error.is_some())
}

#[tokio::test]
async fn a_rollback_to_a_version_whose_types_another_plugin_owns_is_refused_and_changes_nothing() {
    for is_away in [false, true] {
        let (rig, registry) = given_away().await;
        if is_away {
            fs::rename(rig.file("b.wasm"), rig.file("b.away")).unwrap();
            scan(&registry).await;
            scan(&registry).await;
        }
        let refused = registry.rollback("a").await.unwrap_err();
        let words = refused.to_string();
        assert!(matches!(refused, ChangeRefusal::Owned { .. }), "{words}");
        assert!(words.contains("y belongs to the plugin \"b\"") && words.contains("a.toml"), "{words}");
        for registry in [registry, rig.open().await] {
            let second = digest_of(&described(1, &["x"]));
            assert_eq!(shown(&status(&registry, "a")), (PluginStatus::Active, Some(&*second), None, false));
            assert_routed(&registry, [("x", Some("a")), ("y", (!is_away).then_some("b"))]);
        }
    }
}

#[tokio::test]
async fn a_rollback_that_was_refused_works_once_the_types_are_free() {
    let first = digest_of(&described(0, BOTH));
    let (rig, registry) = given_away().await;
    rig.put_settings("a", "types = ['x']");
    scan(&registry).await;
    assert_eq!(registry.rollback("a").await.unwrap().digest.as_ref(), Some(&first), "other types are named");
    assert_routed(&registry, [("x", Some("a")), ("y", Some("b"))]);

    let (_rig, registry) = given_away().await;
    registry.remove("b").await.unwrap();
    registry.rollback("a").await.unwrap();
    assert_routed(&registry, [("x", Some("a")), ("y", Some("a"))]);
}

#[tokio::test]
async fn a_pinned_version_that_would_take_a_type_serves_without_it_and_says_so_after_a_restart_too() {
    let [first, second] = [described(0, BOTH), described(1, &["x"])].map(|content| digest_of(&content));
    let (rig, registry) = given_away().await;
    // The pin of a rollback while `a` did not name `y`.
    rig.put_settings("a", "types = ['x']");
    scan(&registry).await;
    registry.rollback("a").await.unwrap();
    fs::remove_file(rig.file("a.toml")).unwrap();
    scan(&registry).await;
    scan(&registry).await;
    for registry in [registry, rig.open().await] {
        let report = status(&registry, "a");
        let expected = (PluginStatus::FailedKeptLastGood, Some(&*first), Some(&*second), true);
        assert_eq!(shown(&report), expected, "{:?}", report.error);
        assert!(report.error.unwrap().contains("y is handled by the plugin \"b\" already"));
        assert_routed(&registry, [("x", Some("a")), ("y", Some("b"))]);
        drop(registry);
    }
    let registry = rig.open().await;
    registry.remove("b").await.unwrap();
    scan(&registry).await;
    assert_eq!(shown(&status(&registry, "a")), (PluginStatus::Active, Some(&*first), Some(&*second), false));
    assert_routed(&registry, [("x", Some("a")), ("y", Some("a"))]);
}

#[tokio::test]
async fn a_pinned_version_takes_no_types_by_new_settings_before_an_approval() {
    let [first, second] = [modest(0), modest(1)].map(|content| digest_of(&content));
    let rig = RegistryRig::with(&modest(0));
    let registry = rig.open().await;
    rig.put("a", &modest(1));
    rig.put_settings("b", "types = ['order.*']");
    rig.put("b", &modest(2));
    scan(&registry).await;
    registry.rollback("a").await.unwrap();
    rig.put_settings("a", "types = ['a', 'order.paid']");
    scan(&registry).await;
    for registry in [registry, rig.open().await] {
        let held = status(&registry, "a");
        assert_eq!(shown(&held), (PluginStatus::NeedsApproval, Some(&*first), Some(&*second), true), "{held:?}");
        assert_routed(&registry, [("a", Some("a")), ("order.paid", Some("b"))]);
        drop(registry);
    }
    let registry = rig.open().await;
    let approved = registry.approve("a", Some(&first)).await.unwrap();
    assert_eq!(shown(&approved), (PluginStatus::Active, Some(&*first), Some(&*second), false));
    drop(registry);
    let registry = rig.open().await;
    assert_eq!(shown(&status(&registry, "a")), (PluginStatus::Active, Some(&*first), Some(&*second), false));
    assert_routed(&registry, [("a", Some("a")), ("order.paid", Some("a"))]);
}

#[tokio::test]
async fn settings_that_name_the_type_of_another_plugin_do_not_take_a_plugin_out_of_service_at_a_restart() {
    for types in ["['a', 'order.paid']", "['a', 'order.*']"] {
        let rig = RegistryRig::with(&modest(0));
        let registry = rig.open().await;
        rig.put_settings("b", "types = ['order.*']");
        rig.put("b", &modest(1));
        scan(&registry).await;
        rig.put_settings("a", &format!("types = {types}"));
        scan(&registry).await;
        for registry in [registry, rig.open().await] {
            let report = status(&registry, "a");
            assert!(report.status != PluginStatus::Active && report.error.is_some(), "{report:?}");
            assert_eq!(report.digest, Some(digest_of(&modest(0))), "{types}");
            assert_routed(&registry, [("a", Some("a")), ("order.paid", Some("b"))]);
            drop(registry);
        }
    }
}

#[tokio::test]
async fn a_file_that_was_put_back_and_is_refused_leaves_the_version_before_in_service() {
    let [first, second] = [described(0, &["x"]), described(1, BOTH)];
    let rig = RegistryRig::with(&first);
    let registry = rig.open().await;
    rig.put("a", &second);
    scan(&registry).await;
    registry.rollback("a").await.unwrap();
    rig.put("b", &described(2, &["y"]));
    scan(&registry).await;
    fs::remove_file(rig.file("a.wasm")).unwrap();
    rig.put("a", &second);
    scan(&registry).await;
    for registry in [registry, rig.open().await] {
        let expected = (PluginStatus::FailedKeptLastGood, Some(digest_of(&first)));
        assert_eq!((status(&registry, "a").status, status(&registry, "a").digest), expected);
        assert_routed(&registry, [("x", Some("a")), ("y", Some("b"))]);
        drop(registry);
    }
}

#[tokio::test]
async fn an_approval_of_a_build_that_routing_would_refuse_gives_it_nothing() {
    let rig = RegistryRig::with(&modest(0));
    rig.put_settings("a", "types = ['x']");
    let registry = rig.open().await;
    rig.put("b", &described(1, &["y"]));
    scan(&registry).await;
    fs::rename(rig.file("a.wasm"), rig.file("a.away")).unwrap();
    scan(&registry).await;
    scan(&registry).await;
    // The owner of `x` is away, and that of `y` serves.
    rig.put("c", &described(2, BOTH));
    scan(&registry).await;
    let build = digest_of(&described(2, BOTH));
    let refused = registry.approve("c", Some(&build)).await.unwrap_err();
    assert!(
        matches!(refused, ChangeRefusal::Owned { .. }) && refused.to_string().contains("y belongs to"),
        "{refused}"
    );
    assert_eq!(status(&registry, "c").status, PluginStatus::NeedsApproval);
    fs::rename(rig.file("a.away"), rig.file("a.wasm")).unwrap();
    scan(&registry).await;
    assert_routed(&registry, [("x", Some("a")), ("y", Some("b"))]);
    registry.remove("b").await.unwrap();
    registry.remove("a").await.unwrap();
    scan(&registry).await;
    assert_eq!(serving_digest(&registry, "c"), build);
}

#[tokio::test]
async fn where_types_may_be_taken_a_build_that_routing_refuses_takes_none_of_those_of_absent_plugins() {
    let rig = RegistryRig::with(&modest(0));
    rig.put_settings("a", "types = ['x']");
    let registry = PluginRegistry::open(RegistryOptions { hold_taken_types: false, ..rig.options() }).await.unwrap();
    rig.put("b", &described(1, &["y"]));
    rig.put("c", &described(2, &["z"]));
    scan(&registry).await;
    fs::rename(rig.file("a.wasm"), rig.file("a.away")).unwrap();
    scan(&registry).await;
    scan(&registry).await;
    rig.put("c", &described(3, &["x", "y", "z"]));
    scan(&registry).await;
    fs::rename(rig.file("a.away"), rig.file("a.wasm")).unwrap();
    scan(&registry).await;
    rig.put("d", &described(4, &["x"]));
    scan(&registry).await;
    assert_routed(&registry, [("x", Some("a")), ("z", Some("c"))]);
}
