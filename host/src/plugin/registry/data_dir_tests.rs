//! What a registry keeps for the next start: compiled code, which it trusts only if it wrote it, and versions for rollbacks.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::registry_rig::{RegistryRig, digest_of, is_ok, scan, serving_digest, status};
use crate::plugin::testing::{OK, guest, options};
use crate::plugin::{ChangeRefusal, PluginRegistry, RegistryOptions};
use crate::plugin_report::PluginStatus;

/// A handler that asks for a retry.
const RETRY: &str = "(i32.store8 (i32.const 1024) (i32.const 1)) i32.const 1024";

/// The file with the compiled code of the version that serves.
fn compiled_file(rig: &RegistryRig, registry: &PluginRegistry, name: &str) -> PathBuf {
    let digest = serving_digest(registry, name);
    let all = fs::read_dir(rig.data_dir().join("compiled")).unwrap().map(|entry| entry.unwrap().path());
    all.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&digest)).unwrap()
}

#[tokio::test]
async fn a_compiled_component_is_not_compiled_at_the_next_start() {
    let rig = RegistryRig::new();
    rig.put_guest("a", OK);
    drop(rig.open().await);
    let registry = rig.open_without_compiler().await;
    assert_eq!(status(&registry, "a").error, None);
    assert!(is_ok(&registry, "a").await);
    rig.put_guest("a", RETRY);
    scan(&registry).await;
    assert!(status(&registry, "a").error.unwrap().contains("the compiler cannot be started"), "it is another one");
}

#[tokio::test]
async fn two_plugin_directories_share_no_versions() {
    let (rig, other) = (RegistryRig::new(), RegistryRig::new());
    rig.put_guest("a", OK);
    drop(rig.open().await);
    fs::write(other.file("a.wasm"), "junk").unwrap();
    let options = RegistryOptions { data_dir: Some(rig.data_dir()), ..options(other.plugins()) };
    let registry = PluginRegistry::open(options).await.unwrap();
    assert_eq!((status(&registry, "a").status, status(&registry, "a").digest), (PluginStatus::Failed, None));
    assert!(matches!(registry.rollback("a").await, Err(ChangeRefusal::NoneBefore(_))));
    fs::write(rig.file("a.wasm"), "junk").unwrap();
    let registry = rig.open().await;
    assert!(is_ok(&registry, "a").await, "its own is served");
}

#[tokio::test]
async fn compiled_code_of_others_is_never_run() {
    let (rig, theirs) = (RegistryRig::new(), RegistryRig::new());
    for rig in [&rig, &theirs] {
        rig.put_guest("a", OK);
        rig.put_guest("b", RETRY);
    }
    // Another installation, in which the code of `b` lies under the name of `a`.
    let registry = theirs.open().await;
    let forged = fs::read(compiled_file(&theirs, &registry, "b")).unwrap();
    let registry = rig.open().await;
    let (a, b) = (compiled_file(&rig, &registry, "a"), compiled_file(&rig, &registry, "b"));
    let good = fs::read(&a).unwrap();
    let swapped = fs::read(&b).unwrap();
    drop(registry);
    let bare = swapped[32..].to_vec();
    let no_code = [vec![0; 32], bare.clone()].concat();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (what, content) in [
        ("made with another key", forged),
        ("that of another component", swapped),
        ("native code alone", bare),
        ("a code of zeros", no_code),
        ("changed in its last byte", flipped),
        ("cut short", good[..good.len() / 2].to_vec()),
        ("empty", Vec::new()),
    ] {
        fs::write(&a, &content).unwrap();
        let registry = rig.open_without_compiler().await;
        assert!(registry.route(&"a".parse().unwrap()).is_none(), "{what} is not loaded");
        assert!(!is_ok(&registry, "b").await, "its neighbour is");
        let registry = rig.open().await;
        assert!(is_ok(&registry, "a").await, "{what}: compiled again");
        drop(registry);
        assert!(is_ok(&*rig.open_without_compiler().await, "a").await, "{what}: written again");
    }
    // Whole and ours, but other users can write to it.
    fs::set_permissions(&a, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(rig.open_without_compiler().await.route(&"a".parse().unwrap()).is_none());
    fs::remove_file(&a).unwrap();
    symlink(&b, &a).unwrap();
    assert!(rig.open_without_compiler().await.route(&"a".parse().unwrap()).is_none());
    assert!(is_ok(&*rig.open().await, "a").await);
}

#[tokio::test]
async fn a_directory_that_others_can_write_to_is_not_used_and_plugins_serve() {
    async fn serves_and_keeps_nothing(rig: &RegistryRig, used: &Path) {
        let registry = rig.open().await;
        assert!(is_ok(&registry, "a").await);
        assert_eq!(fs::read_dir(used).unwrap().count(), 0);
        assert!(matches!(registry.rollback("a").await, Err(ChangeRefusal::NothingKept)));
    }
    let rig = RegistryRig::new();
    rig.put_guest("a", OK);
    fs::create_dir(rig.data_dir()).unwrap();
    fs::set_permissions(rig.data_dir(), fs::Permissions::from_mode(0o770)).unwrap();
    serves_and_keeps_nothing(&rig, &rig.data_dir()).await;

    let elsewhere = rig.beside_data("elsewhere");
    fs::rename(rig.data_dir(), &elsewhere).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&elsewhere, rig.data_dir()).unwrap();
    serves_and_keeps_nothing(&rig, &elsewhere).await;
}

#[tokio::test]
async fn the_version_before_serves_again_and_after_a_restart_until_the_file_is_another() {
    let rig = RegistryRig::new();
    rig.put_guest("a", OK);
    let registry = rig.open().await;
    assert!(matches!(registry.rollback("none").await, Err(ChangeRefusal::Unknown(_))));
    assert!(matches!(registry.rollback("a").await, Err(ChangeRefusal::NoneBefore(_))));
    let first = serving_digest(&registry, "a");
    rig.put_guest("a", RETRY);
    scan(&registry).await;
    let second = serving_digest(&registry, "a");
    assert!(!is_ok(&registry, "a").await);

    let back = registry.rollback("a").await.unwrap();
    assert_eq!((back.status, back.digest), (PluginStatus::Active, Some(first.clone())));
    assert_eq!(back.rolled_back_from, Some(second.clone()));
    assert!(is_ok(&registry, "a").await);
    assert!(matches!(registry.rollback("a").await, Err(ChangeRefusal::NoneBefore(_))));
    // Other settings do not make it another file.
    fs::write(rig.file("a.toml"), "concurrency = 3").unwrap();
    scan(&registry).await;
    let held = status(&registry, "a");
    assert_eq!((held.digest, held.concurrency), (Some(first.clone()), Some(3)));
    drop(registry);

    let registry = rig.open_without_compiler().await;
    let held = status(&registry, "a");
    assert_eq!((held.digest, held.rolled_back_from), (Some(first.clone()), Some(second)));
    drop(registry);

    let registry = rig.open().await;
    rig.put_guest("a", &format!("(nop) {OK}"));
    scan(&registry).await;
    let third = status(&registry, "a");
    assert!(third.digest.as_ref() != Some(&first) && third.rolled_back_from.is_none());
    assert_eq!(registry.rollback("a").await.unwrap().digest, Some(first), "not what was rolled back from before");
}

#[tokio::test]
async fn a_file_that_was_rolled_back_from_serves_again_once_it_is_put_there_again() {
    let rig = RegistryRig::new();
    let [first, second] = [OK, RETRY].map(|body| digest_of(&guest(body)));
    rig.put_guest("a", OK);
    let registry = rig.open().await;
    rig.put_guest("a", RETRY);
    scan(&registry).await;
    registry.rollback("a").await.unwrap();
    scan(&registry).await;
    assert_eq!(serving_digest(&registry, "a"), first, "it was not put there again");
    rig.put_guest("a", RETRY);
    scan(&registry).await;
    let back = status(&registry, "a");
    assert_eq!((back.status, back.digest, back.rolled_back_from), (PluginStatus::Active, Some(second.clone()), None));
    drop(registry);
    let registry = rig.open().await;
    assert_eq!(serving_digest(&registry, "a"), second, "after a restart too");

    // Its removal in between makes no difference.
    registry.rollback("a").await.unwrap();
    fs::remove_file(rig.file("a.wasm")).unwrap();
    scan(&registry).await;
    rig.put_guest("a", RETRY);
    scan(&registry).await;
    assert_eq!(serving_digest(&registry, "a"), second);
}

#[tokio::test]
async fn another_rollback_goes_back_one_more_version() {
    let rig = RegistryRig::new();
    rig.put_guest("a", OK);
    let registry = rig.open().await;
    let mut digests = vec![serving_digest(&registry, "a")];
    for body in [RETRY.to_owned(), format!("(nop) {OK}"), format!("(nop) {RETRY}")] {
        rig.put_guest("a", &body);
        scan(&registry).await;
        digests.push(serving_digest(&registry, "a"));
    }
    let newest = digests.pop();
    while let Some(before) = digests.pop() {
        let back = registry.rollback("a").await.unwrap();
        assert_eq!((back.digest, &back.rolled_back_from), (Some(before), &newest));
    }
    assert!(matches!(registry.rollback("a").await, Err(ChangeRefusal::NoneBefore(_))));
}

#[tokio::test]
async fn a_file_that_cannot_be_loaded_at_the_start_leaves_the_version_that_served_last_in_service() {
    let rig = RegistryRig::new();
    rig.put_guest("a", OK);
    let good = serving_digest(&*rig.open().await, "a");
    fs::write(rig.file("a.wasm"), "spoiled").unwrap();
    let registry = rig.open().await;
    let kept = status(&registry, "a");
    assert_eq!((kept.status, kept.digest), (PluginStatus::FailedKeptLastGood, Some(good)));
    assert!(kept.error.unwrap().contains("not WebAssembly"));
    assert!(is_ok(&registry, "a").await);
    assert!(matches!(registry.rollback("a").await, Err(ChangeRefusal::NoneBefore(_))));
}

#[tokio::test]
async fn a_version_whose_bytes_were_changed_is_not_brought_back() {
    let rig = RegistryRig::new();
    rig.put_guest("a", OK);
    let registry = rig.open().await;
    let first = serving_digest(&registry, "a");
    rig.put_guest("a", RETRY);
    scan(&registry).await;
    let second = serving_digest(&registry, "a");
    let versions = crate::plugin::data_dir::versions_dir_name(rig.plugins()).unwrap();
    fs::write(rig.data_dir().join(versions).join(format!("a.{first}.wasm")), guest(&format!("(nop) {OK}"))).unwrap();
    let refused = registry.rollback("a").await.unwrap_err().to_string();
    assert!(refused.contains("cannot be brought back") && refused.contains("damaged"), "{refused}");
    assert_eq!(serving_digest(&registry, "a"), second);
}

#[tokio::test]
async fn a_rollback_waits_for_no_compiler_and_pins_the_file_that_is_being_compiled() {
    let rig = RegistryRig::new();
    rig.put_guest("a", OK);
    let registry = rig.open().await;
    let first = serving_digest(&registry, "a");
    rig.put_guest("a", RETRY);
    scan(&registry).await;
    drop(registry);
    // The compiler ends without an answer once the file `end` is there.
    let end = rig.beside_data("end");
    let compiler = rig.scripted_compiler("until [ -e $HERE/end ]; do sleep 0.05; done; exit 1");
    let registry = PluginRegistry::open(RegistryOptions { compiler, ..rig.options() }).await.unwrap();
    rig.put_guest("a", &format!("(nop) {OK}"));
    let people = async {
        while status(&registry, "a").status != PluginStatus::Compiling {
            tokio::task::yield_now().await;
        }
        let back = registry.rollback("a").await.unwrap();
        assert_eq!(
            (back.status, back.digest.as_ref()),
            (PluginStatus::Compiling, Some(&first)),
            "it is compiled still"
        );
        fs::write(&end, "").unwrap();
    };
    tokio::join!(scan(&registry), people);
    let held = status(&registry, "a");
    assert_eq!((held.status, held.error, held.digest), (PluginStatus::Active, None, Some(first)));
    let file = digest_of(&guest(&format!("(nop) {OK}")));
    assert_eq!(held.rolled_back_from, Some(file));
}
