//! What a registry keeps for the next start: compiled code that is trusted only where it is ours, and versions to go back
//! to.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::event::AttemptOutcome;
use crate::plugin::testing::{OK, event, guest, options};
use crate::plugin::{
    AttemptInput, CompileChild, CompileLimits, Compiler, MemoryState, PluginRegistry, PluginReport, PluginStatus,
    RegistryOptions, RollbackError,
};

/// A handler that asks for another try.
const RETRY: &str = "(i32.store8 (i32.const 1024) (i32.const 1)) i32.const 1024";

/// A directory of plugins and one of what is kept.
struct DataDirRig {
    plugins: tempfile::TempDir,
    kept: tempfile::TempDir,
}

impl DataDirRig {
    fn new() -> Self {
        Self { plugins: tempfile::tempdir().unwrap(), kept: tempfile::tempdir().unwrap() }
    }

    fn kept(&self) -> PathBuf {
        self.kept.path().join("ours")
    }

    fn options(&self) -> RegistryOptions {
        RegistryOptions { data_dir: Some(self.kept()), ..options(self.plugins.path()) }
    }

    async fn open(&self) -> Arc<PluginRegistry> {
        PluginRegistry::open(self.options()).await.unwrap()
    }

    /// A registry that can compile nothing.
    async fn open_without_compiler(&self) -> Arc<PluginRegistry> {
        let child =
            CompileChild { program: "/nowhere".into(), arguments: Vec::new(), limits: CompileLimits::default() };
        PluginRegistry::open(RegistryOptions { compiler: Compiler::Child(child), ..self.options() }).await.unwrap()
    }

    fn put(&self, name: &str, body: &str) {
        fs::write(self.plugins.path().join(format!("{name}.wasm")), guest(body)).unwrap();
    }

    /// The file of compiled code of the plugin that serves.
    fn compiled(&self, registry: &PluginRegistry, name: &str) -> PathBuf {
        let digest = status(registry, name).digest.unwrap();
        let all = fs::read_dir(self.kept().join("compiled")).unwrap().map(|entry| entry.unwrap().path());
        all.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&digest)).unwrap()
    }
}

fn status(registry: &PluginRegistry, name: &str) -> PluginReport {
    registry.status(name).unwrap()
}

fn digest(registry: &PluginRegistry, name: &str) -> String {
    status(registry, name).digest.unwrap()
}

async fn look(registry: &PluginRegistry) {
    registry.refresh(&Default::default()).await;
}

/// Whether the handler that serves answers ok.
async fn is_ok(registry: &PluginRegistry, name: &str) -> bool {
    let plugin = registry.route(&name.parse().unwrap()).unwrap();
    matches!(
        plugin
            .handle(AttemptInput { event: event("{}").into(), attempt: 1 }, Arc::new(MemoryState::default()))
            .await
            .outcome,
        AttemptOutcome::Ok(_)
    )
}

#[tokio::test]
async fn what_was_compiled_once_is_not_compiled_at_the_next_start() {
    let place = DataDirRig::new();
    place.put("a", OK);
    drop(place.open().await);
    let registry = place.open_without_compiler().await;
    assert_eq!(status(&registry, "a").error, None);
    assert!(is_ok(&registry, "a").await);
    place.put("a", RETRY);
    look(&registry).await;
    assert!(status(&registry, "a").error.unwrap().contains("the compiler cannot be started"), "it is another one");
}

#[tokio::test]
async fn of_two_directories_neither_is_served_what_only_the_other_one_had() {
    let (place, other) = (DataDirRig::new(), DataDirRig::new());
    place.put("a", OK);
    drop(place.open().await);
    fs::write(other.plugins.path().join("a.wasm"), "junk").unwrap();
    let options = RegistryOptions { data_dir: Some(place.kept()), ..options(other.plugins.path()) };
    let registry = PluginRegistry::open(options).await.unwrap();
    assert_eq!((status(&registry, "a").state, status(&registry, "a").digest), (PluginStatus::Failed, None));
    assert!(matches!(registry.rollback("a").await, Err(RollbackError::NoneBefore(_))));
    fs::write(place.plugins.path().join("a.wasm"), "junk").unwrap();
    let registry = place.open().await;
    assert!(is_ok(&registry, "a").await, "its own is served");
}

#[tokio::test]
async fn compiled_code_that_is_not_ours_is_never_run() {
    let (place, theirs) = (DataDirRig::new(), DataDirRig::new());
    for place in [&place, &theirs] {
        place.put("a", OK);
        place.put("b", RETRY);
    }
    // Another installation, in which the code of `b` lies under the name of `a`.
    let registry = theirs.open().await;
    let forged = fs::read(theirs.compiled(&registry, "b")).unwrap();
    let registry = place.open().await;
    let (a, b) = (place.compiled(&registry, "a"), place.compiled(&registry, "b"));
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
        let registry = place.open_without_compiler().await;
        assert!(registry.route(&"a".parse().unwrap()).is_none(), "{what} is not loaded");
        assert!(!is_ok(&registry, "b").await, "its neighbour is");
        let registry = place.open().await;
        assert!(is_ok(&registry, "a").await, "{what}: compiled again");
        drop(registry);
        assert!(is_ok(&*place.open_without_compiler().await, "a").await, "{what}: written again");
    }
    // Whole and ours, but not out of reach of others.
    fs::set_permissions(&a, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(place.open_without_compiler().await.route(&"a".parse().unwrap()).is_none());
    fs::remove_file(&a).unwrap();
    symlink(&b, &a).unwrap();
    assert!(place.open_without_compiler().await.route(&"a".parse().unwrap()).is_none());
    assert!(is_ok(&*place.open().await, "a").await);
}

#[tokio::test]
async fn a_directory_that_others_can_write_to_is_not_used_and_plugins_serve() {
    async fn serves_and_keeps_nothing(place: &DataDirRig, used: &Path) {
        let registry = place.open().await;
        assert!(is_ok(&registry, "a").await);
        assert_eq!(fs::read_dir(used).unwrap().count(), 0);
        assert!(matches!(registry.rollback("a").await, Err(RollbackError::NothingKept)));
    }
    let place = DataDirRig::new();
    place.put("a", OK);
    fs::create_dir(place.kept()).unwrap();
    fs::set_permissions(place.kept(), fs::Permissions::from_mode(0o770)).unwrap();
    serves_and_keeps_nothing(&place, &place.kept()).await;

    let elsewhere = place.kept.path().join("elsewhere");
    fs::rename(place.kept(), &elsewhere).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&elsewhere, place.kept()).unwrap();
    serves_and_keeps_nothing(&place, &elsewhere).await;
}

#[tokio::test]
async fn the_version_before_serves_again_and_after_a_restart_until_the_file_is_another() {
    let place = DataDirRig::new();
    place.put("a", OK);
    let registry = place.open().await;
    assert!(matches!(registry.rollback("none").await, Err(RollbackError::Unknown(_))));
    assert!(matches!(registry.rollback("a").await, Err(RollbackError::NoneBefore(_))));
    let first = digest(&registry, "a");
    place.put("a", RETRY);
    look(&registry).await;
    let second = digest(&registry, "a");
    assert!(!is_ok(&registry, "a").await);

    let back = registry.rollback("a").await.unwrap();
    assert_eq!((back.state, back.digest), (PluginStatus::Active, Some(first.clone())));
    assert_eq!(back.rolled_back_from, Some(second.clone()));
    assert!(is_ok(&registry, "a").await);
    assert!(matches!(registry.rollback("a").await, Err(RollbackError::NoneBefore(_))));
    // Other settings are no other file.
    fs::write(place.plugins.path().join("a.toml"), "concurrency = 3").unwrap();
    look(&registry).await;
    let held = status(&registry, "a");
    assert_eq!((held.digest, held.concurrency), (Some(first.clone()), Some(3)));
    drop(registry);

    let registry = place.open_without_compiler().await;
    let held = status(&registry, "a");
    assert_eq!((held.digest, held.rolled_back_from), (Some(first.clone()), Some(second)));
    drop(registry);

    let registry = place.open().await;
    place.put("a", &format!("(nop) {OK}"));
    look(&registry).await;
    let third = status(&registry, "a");
    assert!(third.digest.as_ref() != Some(&first) && third.rolled_back_from.is_none());
    assert_eq!(registry.rollback("a").await.unwrap().digest, Some(first), "not what was rolled back from before");
}

#[tokio::test]
async fn a_file_that_was_rolled_back_from_serves_again_once_it_is_put_there_again() {
    let place = DataDirRig::new();
    let [first, second] = [OK, RETRY].map(|body| crate::plugin::component::loader::contents(guest(body).into()).digest);
    place.put("a", OK);
    let registry = place.open().await;
    place.put("a", RETRY);
    look(&registry).await;
    registry.rollback("a").await.unwrap();
    look(&registry).await;
    assert_eq!(digest(&registry, "a"), first, "it was not put there again");
    place.put("a", RETRY);
    look(&registry).await;
    let back = status(&registry, "a");
    assert_eq!((back.state, back.digest, back.rolled_back_from), (PluginStatus::Active, Some(second.clone()), None));
    drop(registry);
    let registry = place.open().await;
    assert_eq!(digest(&registry, "a"), second, "after a restart too");

    // By way of its removal.
    registry.rollback("a").await.unwrap();
    fs::remove_file(place.plugins.path().join("a.wasm")).unwrap();
    look(&registry).await;
    place.put("a", RETRY);
    look(&registry).await;
    assert_eq!(digest(&registry, "a"), second);
}

#[tokio::test]
async fn going_back_again_goes_one_version_further() {
    let place = DataDirRig::new();
    place.put("a", OK);
    let registry = place.open().await;
    let mut digests = vec![digest(&registry, "a")];
    for body in [RETRY.to_owned(), format!("(nop) {OK}"), format!("(nop) {RETRY}")] {
        place.put("a", &body);
        look(&registry).await;
        digests.push(digest(&registry, "a"));
    }
    let newest = digests.pop();
    while let Some(before) = digests.pop() {
        let back = registry.rollback("a").await.unwrap();
        assert_eq!((back.digest, &back.rolled_back_from), (Some(before), &newest));
    }
    assert!(matches!(registry.rollback("a").await, Err(RollbackError::NoneBefore(_))));
}

#[tokio::test]
async fn a_file_that_cannot_be_loaded_at_the_start_leaves_the_version_that_served_last_at_work() {
    let place = DataDirRig::new();
    place.put("a", OK);
    let good = digest(&*place.open().await, "a");
    fs::write(place.plugins.path().join("a.wasm"), "spoiled").unwrap();
    let registry = place.open().await;
    let kept = status(&registry, "a");
    assert_eq!((kept.state, kept.digest), (PluginStatus::FailedKeptLastGood, Some(good)));
    assert!(kept.error.unwrap().contains("not WebAssembly"));
    assert!(is_ok(&registry, "a").await);
    assert!(matches!(registry.rollback("a").await, Err(RollbackError::NoneBefore(_))));
}

#[tokio::test]
async fn a_version_whose_bytes_were_changed_is_not_brought_back() {
    let place = DataDirRig::new();
    place.put("a", OK);
    let registry = place.open().await;
    let first = digest(&registry, "a");
    place.put("a", RETRY);
    look(&registry).await;
    let second = digest(&registry, "a");
    let versions = crate::plugin::data_dir::versions_of(place.plugins.path()).unwrap();
    fs::write(place.kept().join(versions).join(format!("a.{first}.wasm")), guest(&format!("(nop) {OK}"))).unwrap();
    let refused = registry.rollback("a").await.unwrap_err().to_string();
    assert!(refused.contains("cannot be brought back") && refused.contains("damaged"), "{refused}");
    assert_eq!(digest(&registry, "a"), second);
}

#[tokio::test]
async fn going_back_waits_for_no_compiler_and_holds_what_is_being_compiled() {
    let place = DataDirRig::new();
    place.put("a", OK);
    let registry = place.open().await;
    let first = digest(&registry, "a");
    place.put("a", RETRY);
    look(&registry).await;
    drop(registry);
    // A compiler that ends, with nothing, when it is told to.
    let end = place.kept.path().join("end");
    let script = format!("until [ -e '{}' ]; do sleep 0.05; done; exit 1", end.display());
    let limits = CompileLimits { wall_ms: 120_000, ..CompileLimits::default() };
    let child = CompileChild { program: "/bin/sh".into(), arguments: vec!["-c".into(), script], limits };
    let registry =
        PluginRegistry::open(RegistryOptions { compiler: Compiler::Child(child), ..place.options() }).await.unwrap();
    place.put("a", &format!("(nop) {OK}"));
    let people = async {
        while status(&registry, "a").state != PluginStatus::Compiling {
            tokio::task::yield_now().await;
        }
        let back = registry.rollback("a").await.unwrap();
        assert_eq!((back.state, back.digest.as_ref()), (PluginStatus::Compiling, Some(&first)), "it is compiled still");
        fs::write(&end, "").unwrap();
    };
    tokio::join!(look(&registry), people);
    let held = status(&registry, "a");
    assert_eq!((held.state, held.error, held.digest), (PluginStatus::Active, None, Some(first)));
    let file = crate::plugin::component::loader::contents(guest(&format!("(nop) {OK}")).into()).digest;
    assert_eq!(held.rolled_back_from, Some(file));
}
