//! Types belong to the plugin that served them, whether it is there or not, until a person gives them to another.

use std::fs;
use std::sync::Arc;

use super::registry_rig::{RegistryRig, digest_of, modest, scan};
use crate::plugin::{ChangeRefusal, PluginRegistry, PluginSettings, RegistryOptions};
use crate::plugin_report::{NeedsApproval, PluginStatus, TakenTypes};

/// A rig whose plugin `a` handles `order.*`, and a registry with default options.
async fn orders() -> (RegistryRig, Arc<PluginRegistry>) {
    let rig = RegistryRig::with(&modest(0));
    rig.put_settings("a", "types = ['order.*']");
    let registry = rig.open().await;
    (rig, registry)
}

/// A plugin for the same types as `a` and one for some of them. Neither may serve.
async fn with_rivals() -> (RegistryRig, Arc<PluginRegistry>) {
    let (rig, registry) = orders().await;
    put(&rig, "same", &modest(1), "['order.*']");
    put(&rig, "some", &modest(2), "['order.paid']");
    scan(&registry).await;
    assert_eq!(routed(&registry), "a");
    (rig, registry)
}

/// Neither rival serves. Each needs an approval.
#[track_caller]
fn assert_held(registry: &PluginRegistry, names: &[&str]) {
    for name in names {
        let status = registry.status(name).unwrap();
        assert_eq!((status.status, status.types.len()), (PluginStatus::NeedsApproval, 0), "{name}: {:?}", status.error);
        assert_eq!(status.needs_approval.unwrap().takes[0].plugin, "a", "{name}");
    }
}

fn put(rig: &RegistryRig, name: &str, content: &[u8], types: &str) {
    rig.put_settings(name, &format!("types = {types}"));
    rig.put(name, content);
}

/// The plugin that is given an event of the type `order.paid`.
fn routed(registry: &PluginRegistry) -> String {
    registry.route(&"order.paid".parse().unwrap()).unwrap().name().to_owned()
}

#[tokio::test]
async fn a_plugin_that_takes_types_from_another_is_held_until_it_is_approved_and_not_again_after_a_restart() {
    let (rig, registry) = orders().await;
    put(&rig, "aaa", &modest(1), "['order.paid', 'other']");
    scan(&registry).await;
    let held = registry.status("aaa").unwrap();
    assert_eq!((held.status, routed(&registry).as_str()), (PluginStatus::NeedsApproval, "a"));
    let taking = TakenTypes { types: "order.paid".parse().unwrap(), plugin: "a".to_owned() };
    assert_eq!(held.needs_approval.unwrap().takes, [taking]);
    assert!(held.error.unwrap().contains("takes order.paid from the plugin \"a\""));
    drop(registry);

    let registry = rig.open().await;
    assert_eq!(registry.status("aaa").unwrap().status, PluginStatus::NeedsApproval, "after a restart too");
    registry.approve("aaa", Some(&digest_of(&modest(1)))).await.unwrap();
    assert_eq!(routed(&registry), "aaa");
    drop(registry);
    let registry = rig.open().await;
    assert_eq!((registry.status("aaa").unwrap().status, routed(&registry).as_str()), (PluginStatus::Active, "aaa"));
    put(&rig, "aaa", &modest(3), "['order.paid', 'other']");
    scan(&registry).await;
    assert_eq!(registry.status("aaa").unwrap().status, PluginStatus::Active, "the types are its own");

    // A more general pattern takes nothing.
    put(&rig, "b", &modest(2), "['*']");
    scan(&registry).await;
    assert_eq!(registry.status("b").unwrap().status, PluginStatus::Active);
}

#[tokio::test]
async fn a_plugin_that_handles_everything_loses_no_type_without_an_approval() {
    let rig = RegistryRig::with(&modest(0));
    rig.put_settings("a", "types = ['*']");
    let registry = rig.open().await;
    put(&rig, "order.paid", &modest(1), "['order.paid']");
    put(&rig, "wide", &modest(2), "['order.*']");
    scan(&registry).await;
    for name in ["order.paid", "wide"] {
        assert_eq!(registry.status(name).unwrap().status, PluginStatus::NeedsApproval, "{name}");
    }
    assert_eq!(routed(&registry), "a");
    let other = PluginRegistry::open(RegistryOptions { hold_taken_types: false, ..rig.options() });
    assert_eq!(routed(&other.await.unwrap()), "order.paid", "where it is allowed");
}

#[tokio::test]
async fn settings_beside_a_file_take_no_types_either_and_those_of_the_server_do() {
    let (rig, registry) = orders().await;
    put(&rig, "b", &modest(1), "['b']");
    scan(&registry).await;
    assert_eq!(registry.status("b").unwrap().status, PluginStatus::Active);
    for (content, state) in
        [(modest(1), PluginStatus::NeedsApproval), (b"spoiled".to_vec(), PluginStatus::FailedKeptLastGood)]
    {
        put(&rig, "b", &content, "['order.paid']");
        scan(&registry).await;
        let status = registry.status("b").unwrap();
        assert_eq!((status.status, routed(&registry).as_str()), (state, "a"), "{status:?}");
        assert_eq!(status.types, ["b".parse().unwrap()], "it goes on with the types that it had");
    }
    drop(registry);
    // Nothing serves at first, so the version that served last is brought back.
    let registry = rig.open().await;
    assert_eq!((routed(&registry).as_str(), registry.status("b").unwrap().types.len()), ("a", 1));
    drop(registry);

    put(&rig, "b", &modest(1), "['b', 'order.paid']");
    let given = PluginSettings::parse("types = ['order.paid']").unwrap();
    let settings = [("b".to_owned(), given)].into();
    let registry = PluginRegistry::open(RegistryOptions { settings, ..rig.options() }).await.unwrap();
    assert_eq!(routed(&registry), "b");
}

#[tokio::test]
async fn everything_in_the_directory_at_the_first_start_counts_as_approved() {
    let rig = RegistryRig::with(&modest(0));
    rig.put_settings("a", "types = ['order.*']");
    put(&rig, "b", &modest(1), "['order.paid']");
    for _ in 0..2 {
        assert_eq!(routed(&*rig.open().await), "b");
    }
}

#[tokio::test]
async fn a_file_that_replaced_the_held_build_is_not_approved() {
    let (rig, registry) = orders().await;
    put(&rig, "b", &modest(1), "['order.paid']");
    scan(&registry).await;
    let (seen, swapped) = (digest_of(&modest(1)), digest_of(&modest(2)));
    put(&rig, "b", &modest(2), "['order.paid']");
    let refused = registry.approve("b", Some(&seen)).await.unwrap_err();
    assert!(matches!(refused, ChangeRefusal::Swapped { .. }) && refused.to_string().contains(&swapped), "{refused}");
    scan(&registry).await;
    let refused = registry.approve("b", Some(&seen)).await.unwrap_err();
    assert!(
        matches!(refused, ChangeRefusal::Another { .. }) && refused.to_string().contains("order.paid"),
        "{refused}"
    );
    assert_eq!(routed(&registry), "a");
    registry.approve("b", Some(&swapped)).await.unwrap();
    assert_eq!(routed(&registry), "b");
}

#[tokio::test]
async fn a_plugin_that_served_before_keeps_its_types_however_late_it_is_loaded() {
    let (rig, registry) = orders().await;
    drop(registry);
    put(&rig, "Z", &modest(1), "['order.*']");
    put(&rig, "b", &modest(2), "['order.paid']");
    let registry = rig.open().await;
    assert_eq!(routed(&registry), "a");
    let status = registry.status("Z").unwrap();
    assert!(status.error.is_some_and(|words| words.contains("order.* is handled by the plugin \"a\" already")));
    assert_eq!(registry.status("b").unwrap().status, PluginStatus::NeedsApproval);
}

#[tokio::test]
async fn nobody_takes_the_types_of_a_plugin_while_its_file_is_away() {
    let (rig, registry) = with_rivals().await;
    fs::remove_file(rig.file("a.wasm")).unwrap();
    scan(&registry).await;
    scan(&registry).await;
    assert_held(&registry, &["same", "some"]);
    assert!(registry.route(&"order.paid".parse().unwrap()).is_none());
    drop(registry);
    let registry = rig.open().await;
    assert_held(&registry, &["same", "some"]);
    put(&rig, "new", &modest(3), "['order.new.*']");
    rig.put("a", &modest(4));
    scan(&registry).await;
    assert_eq!(routed(&registry), "a", "another build of it");
    assert_held(&registry, &["some", "new"]);
    scan(&registry).await;
    let same = registry.status("same").unwrap();
    assert!(same.error.is_some_and(|words| words.contains("order.* is handled by the plugin \"a\" already")));
}

#[tokio::test]
async fn nobody_takes_the_types_of_a_plugin_that_cannot_be_loaded_at_a_restart() {
    let (rig, registry) = with_rivals().await;
    drop(registry);
    rig.put_settings("a", "concurency = 1");
    for is_of_an_earlier_release in [false, true] {
        if is_of_an_earlier_release {
            let versions = crate::plugin::data_dir::versions_dir_name(rig.plugins()).unwrap();
            fs::remove_file(rig.data_dir().join(versions).join(".owners.json")).unwrap();
        }
        let registry = rig.open().await;
        scan(&registry).await;
        assert_eq!(registry.status("a").unwrap().status, PluginStatus::Failed);
        assert_held(&registry, &["same", "some"]);
        assert!(registry.route(&"order.paid".parse().unwrap()).is_none());
    }
    rig.put_settings("a", "types = ['order.*']");
    assert_eq!(routed(&*rig.open().await), "a");
}

#[tokio::test]
async fn the_types_of_a_plugin_whose_file_went_are_taken_by_an_approval() {
    let (rig, registry) = with_rivals().await;
    fs::remove_file(rig.file("a.wasm")).unwrap();
    scan(&registry).await;
    scan(&registry).await;
    registry.approve("same", Some(&digest_of(&modest(1)))).await.unwrap();
    assert_eq!(routed(&registry), "same");
    rig.put("a", &modest(0));
    scan(&registry).await;
    assert_eq!((routed(&registry).as_str(), registry.status("a").unwrap().status), ("same", PluginStatus::Failed));
    drop(registry);
    let registry = rig.open().await;
    assert_eq!((routed(&registry).as_str(), registry.status("a").unwrap().status), ("same", PluginStatus::Failed));
}

#[tokio::test]
async fn the_types_of_a_plugin_that_a_person_removed_are_free() {
    for is_away in [true, false] {
        let (rig, registry) = with_rivals().await;
        if is_away {
            fs::remove_file(rig.file("a.wasm")).unwrap();
            scan(&registry).await;
        }
        registry.remove("a").await.unwrap();
        assert!(matches!(registry.remove("a").await, Err(ChangeRefusal::Unknown(_))));
        scan(&registry).await;
        assert_eq!(registry.status("same").unwrap().status, PluginStatus::Active);
        // Either was loaded first.
        let some = registry.status("some").unwrap();
        let is_held_for = |held: &NeedsApproval| held.takes[0].plugin == "same";
        assert!(
            some.status == PluginStatus::Active || some.needs_approval.as_ref().is_some_and(is_held_for),
            "{some:?}"
        );
    }
}

#[tokio::test]
async fn a_file_of_the_first_start_does_not_wait_however_late_it_is_loaded() {
    for is_cut_short in [false, true] {
        let rig = RegistryRig::with(&modest(0));
        rig.put_settings("a", "types = ['order.*']");
        let secret = rig.file("token");
        rig.put_settings("b", &format!("types = ['order.paid']\nsecrets = {{ token = {{ file = {secret:?} }} }}"));
        rig.put("b", &modest(1));
        if is_cut_short {
            drop(PluginRegistry::prepare(rig.options()).await.unwrap());
        }
        let registry = rig.open().await;
        assert_eq!(routed(&registry), "a");
        fs::write(&secret, "a long secret").unwrap();
        scan(&registry).await;
        assert_eq!(routed(&registry), "b");
        put(&rig, "c", &modest(2), "['order.sent']");
        scan(&registry).await;
        assert_held(&registry, &["c"]);
    }
}
