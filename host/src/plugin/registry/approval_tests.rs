//! Builds that import more than the version that serves: held, reported, approved, and held again after a restart.

use std::fs;
use std::sync::Arc;

use super::registry_rig::{RegistryRig, digest_of, modest, scan, status};
use crate::plugin::testing::{OK, guest};
use crate::plugin::{ChangeRefusal, PluginRegistry, RegistryError, RegistryOptions};
use crate::plugin_report::{NeedsApproval, PluginStatus};

fn options(rig: &RegistryRig) -> RegistryOptions {
    RegistryOptions { hold_new_capabilities: true, ..rig.options() }
}

async fn open(rig: &RegistryRig) -> Arc<PluginRegistry> {
    PluginRegistry::open(options(rig)).await.unwrap()
}

#[track_caller]
fn assert_serves(registry: &PluginRegistry, content: &[u8], state: PluginStatus) {
    let status = status(registry, "a");
    assert_eq!((status.status, status.digest), (state, Some(digest_of(content))), "{:?}", status.error);
}

#[tokio::test]
async fn a_build_that_imports_more_is_held_until_it_is_approved_and_after_a_restart_too() {
    let (first, second) = (modest(0), guest(OK));
    let rig = RegistryRig::with(&first);
    let registry = open(&rig).await;
    assert_serves(&registry, &first, PluginStatus::Active);
    assert!(matches!(registry.approve("a", Some("x")).await, Err(ChangeRefusal::NoneHeld(_))));
    assert!(matches!(registry.approve("b", Some("x")).await, Err(ChangeRefusal::Unknown(_))));

    rig.put("a", &second);
    scan(&registry).await;
    assert_serves(&registry, &first, PluginStatus::NeedsApproval);
    let held = status(&registry, "a");
    let imports = vec!["eventstream:plugin/log".to_owned(), "eventstream:plugin/publisher".to_owned()];
    assert_eq!(held.needs_approval, Some(NeedsApproval { digest: digest_of(&second), imports, takes: Vec::new() }));
    let words = held.error.unwrap();
    for word in [
        "eventstream:plugin/log, eventstream:plugin/publisher",
        "plugin approve a --digest",
        "/plugins/a/approve?digest=",
    ] {
        assert!(words.contains(word), "{words} says {word}");
    }
    assert!(matches!(registry.rollback("a").await, Err(ChangeRefusal::NoneBefore(_))));
    drop(registry);

    let registry = open(&rig).await;
    assert_serves(&registry, &first, PluginStatus::NeedsApproval);
    let unnamed = registry.approve("a", None).await.unwrap_err().to_string();
    assert!(unnamed.contains(&format!("/plugins/a/approve?digest={}", digest_of(&second))), "{unnamed}");
    let another = registry.approve("a", Some(&digest_of(&first))).await;
    assert!(matches!(another, Err(ChangeRefusal::Another { .. })), "{another:?}");
    assert_serves(&registry, &first, PluginStatus::NeedsApproval);
    let approved = registry.approve("a", Some(&digest_of(&second))).await.unwrap();
    assert_eq!((approved.status, approved.needs_approval, approved.error), (PluginStatus::Active, None, None));
    drop(registry);

    let registry = open(&rig).await;
    assert_serves(&registry, &second, PluginStatus::Active);
    // A build that imports less, the approved one again, and a rollback need no approval.
    rig.put("a", &modest(1));
    scan(&registry).await;
    assert_serves(&registry, &modest(1), PluginStatus::Active);
    rig.put("a", &second);
    scan(&registry).await;
    assert_serves(&registry, &second, PluginStatus::Active);
    registry.rollback("a").await.unwrap();
    assert_serves(&registry, &modest(1), PluginStatus::Active);
    // Another build with the same imports is not the approved one.
    rig.put("a", &guest(&format!("(nop) {OK}")));
    scan(&registry).await;
    assert_serves(&registry, &modest(1), PluginStatus::NeedsApproval);
}

#[tokio::test]
async fn a_held_build_gives_way_to_the_next_file_and_the_version_that_serves_gets_its_settings() {
    let first = modest(0);
    let rig = RegistryRig::with(&first);
    let registry = open(&rig).await;
    rig.put("a", &guest(OK));
    scan(&registry).await;
    rig.put_settings("a", "concurrency = 3");
    scan(&registry).await;
    assert_serves(&registry, &first, PluginStatus::NeedsApproval);
    assert_eq!(status(&registry, "a").concurrency, Some(3), "the version that serves has the settings of now");

    rig.put("a", b"spoiled");
    scan(&registry).await;
    assert_serves(&registry, &first, PluginStatus::FailedKeptLastGood);
    assert!(matches!(registry.approve("a", Some("x")).await, Err(ChangeRefusal::NoneHeld(_))));
    rig.put("a", &first);
    scan(&registry).await;
    assert_serves(&registry, &first, PluginStatus::Active);
}

#[tokio::test]
async fn where_nothing_serves_the_first_build_needs_no_approval() {
    let rig = RegistryRig::with(&modest(0));
    let registry = open(&rig).await;
    fs::remove_file(rig.file("a.wasm")).unwrap();
    scan(&registry).await;
    assert_eq!(status(&registry, "a").status, PluginStatus::Removed);
    rig.put("a", &guest(OK));
    scan(&registry).await;
    assert_serves(&registry, &guest(OK), PluginStatus::Active);
}

#[tokio::test]
async fn a_build_that_cannot_be_compared_is_held() {
    let rig = RegistryRig::with(&modest(0));
    drop(open(&rig).await);
    let versions = crate::plugin::data_dir::versions_dir_name(rig.plugins()).unwrap();
    for version in fs::read_dir(rig.data_dir().join(versions)).unwrap() {
        let path = version.unwrap().path();
        if path.extension().is_some_and(|it| it == "wasm") {
            fs::remove_file(path).unwrap();
        }
    }
    rig.put("a", &guest(OK));
    let registry = open(&rig).await;
    let held = status(&registry, "a");
    assert_eq!((held.status, held.digest), (PluginStatus::NeedsApproval, None));
    assert!(held.error.unwrap().contains("nothing serves"));
    registry.approve("a", Some(&digest_of(&guest(OK)))).await.unwrap();
    assert_serves(&registry, &guest(OK), PluginStatus::Active);
}

#[tokio::test]
async fn nothing_is_held_unless_asked_for_and_then_a_data_directory_is_needed() {
    let rig = RegistryRig::with(&modest(0));
    let registry =
        PluginRegistry::open(RegistryOptions { hold_new_capabilities: false, ..options(&rig) }).await.unwrap();
    rig.put("a", &guest(OK));
    scan(&registry).await;
    assert_serves(&registry, &guest(OK), PluginStatus::Active);
    fs::write(rig.file("file"), "").unwrap();
    for data_dir in [None, Some(rig.file("file"))] {
        let refused = PluginRegistry::open(RegistryOptions { data_dir, ..options(&rig) }).await;
        assert!(matches!(refused, Err(RegistryError::NothingKept(_))));
    }
}

#[tokio::test]
async fn a_removed_plugin_is_reported_and_can_be_put_back() {
    let rig = RegistryRig::with(&modest(0));
    rig.put_settings("a", "concurrency = 3");
    let registry = open(&rig).await;
    assert!(registry.remove("b").await.is_err());
    let removal = registry.remove("a").await.unwrap();
    assert_eq!((removal.status.status, removal.status.types.len()), (PluginStatus::Removed, 0));
    assert!(removal.status.removed_at.is_some() && removal.file.is_some_and(|file| !file.exists()));
    assert_eq!(removal.settings.as_deref(), Some(rig.file("a.toml").as_path()));
    assert!(registry.route(&"a".parse().unwrap()).is_none());
    assert!(registry.remove("a").await.is_err(), "it is gone already");
    scan(&registry).await;
    assert_eq!(status(&registry, "a").status, PluginStatus::Removed);
    rig.put("a", &modest(0));
    scan(&registry).await;
    assert_serves(&registry, &modest(0), PluginStatus::Active);
    assert_eq!(registry.statuses().len(), 1);
}

#[tokio::test]
async fn a_plugin_whose_file_cannot_be_removed_still_serves() {
    let rig = RegistryRig::with(&modest(0));
    let registry = open(&rig).await;
    fs::remove_file(rig.file("a.wasm")).unwrap();
    fs::create_dir(rig.file("a.wasm")).unwrap();
    let words = registry.remove("a").await.unwrap_err().to_string();
    assert!(words.contains("cannot be removed") && words.contains("whoever puts files there"), "{words}");
    assert_serves(&registry, &modest(0), PluginStatus::Active);
}
