//! Plugins that are loaded side by side: compilers that hang or are killed hold up nobody else.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::plugin::sandbox::engine;
use crate::plugin::testing::{OK, component, guest, options};
use crate::plugin::{
    CompileChild, CompileLimits, Compiler, PluginRegistry, PluginReport, PluginStatus, RegistryOptions, WatchMethod,
};

/// A handler that differs from the usual one in nothing but its digest.
const OTHER: &str = "(nop) i32.const 1024";

/// A directory of plugins and one of what is kept.
struct ReconcileRig {
    plugins: tempfile::TempDir,
    kept: tempfile::TempDir,
}

impl ReconcileRig {
    fn new() -> Self {
        Self { plugins: tempfile::tempdir().unwrap(), kept: tempfile::tempdir().unwrap() }
    }

    fn options(&self) -> RegistryOptions {
        let data_dir = Some(self.kept.path().join("ours"));
        RegistryOptions { data_dir, notice: WatchMethod::Poll, rescan_ms: 1, ..options(self.plugins.path()) }
    }

    /// A registry that compiles by a script, in which `$HERE` is a directory of its own.
    async fn open_with(&self, script: &str) -> Arc<PluginRegistry> {
        let script = format!("HERE='{}'; {script}", self.kept.path().display());
        let limits = CompileLimits { wall_ms: 600_000, ..CompileLimits::default() };
        let child = CompileChild { program: "/bin/sh".into(), arguments: vec!["-c".into(), script], limits };
        PluginRegistry::open(RegistryOptions { compiler: Compiler::Child(child), ..self.options() }).await.unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.plugins.path().join(name)
    }

    fn put(&self, name: &str, body: &str) {
        fs::write(self.file(&format!("{name}.wasm")), guest(body)).unwrap();
    }

    /// How often the script said that it was started.
    fn started(&self) -> usize {
        fs::read_to_string(self.kept.path().join("started")).unwrap_or_default().lines().count()
    }
}

/// Waits until a plugin stands so.
async fn until(registry: &PluginRegistry, name: &str, is_so: impl Fn(&PluginReport) -> bool) {
    while !registry.status(name).is_some_and(|status| is_so(&status)) {
        tokio::task::yield_now().await;
    }
}

/// Looks at the directory until it is so.
async fn look_until(registry: &PluginRegistry, is_so: impl Fn() -> bool) {
    let looks = async {
        while !is_so() {
            registry.refresh(&Default::default()).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), looks).await.unwrap();
}

/// What a compiler answers for the usual handler.
fn answer() -> Vec<u8> {
    let code = engine::for_compiling().unwrap().precompile_component(&component(&guest(OK))).unwrap();
    [&b"C"[..], &(code.len() as u64).to_le_bytes(), &code].concat()
}

#[tokio::test]
async fn a_file_that_compiles_for_long_holds_up_no_change_of_other_plugins() {
    let place = ReconcileRig::new();
    for name in ["a", "b", "c"] {
        place.put(name, OK);
    }
    drop(PluginRegistry::open(place.options()).await.unwrap());
    let registry = place.open_with("echo >> $HERE/started; exec sleep 600").await;
    let stop = CancellationToken::new();
    let people = async {
        place.put("slow", OTHER);
        until(&registry, "slow", |status| status.state == PluginStatus::Compiling).await;
        while place.started() == 0 {
            tokio::task::yield_now().await;
        }
        fs::write(place.file("a.toml"), "concurrency = 3").unwrap();
        until(&registry, "a", |status| status.concurrency == Some(3)).await;
        fs::remove_file(place.file("b.wasm")).unwrap();
        until(&registry, "b", |status| status.state == PluginStatus::Removed).await;
        place.put("new", OK);
        until(&registry, "new", |status| status.state == PluginStatus::Active).await;
        assert!(registry.is_preparing(), "the slow one is being compiled still");

        // Another file in its place ends the compilation, and so does its removal.
        place.put("slow", OK);
        until(&registry, "slow", |status| status.state == PluginStatus::Active).await;
        place.put("slower", OTHER);
        until(&registry, "slower", |status| status.state == PluginStatus::Compiling).await;
        fs::remove_file(place.file("slower.wasm")).unwrap();
        until(&registry, "slower", |status| status.state == PluginStatus::Removed).await;
        while registry.is_preparing() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    let both = async { tokio::join!(registry.watch(stop.clone()), people) };
    tokio::time::timeout(Duration::from_secs(120), both).await.unwrap();
}

#[tokio::test]
async fn a_compiler_that_was_killed_is_asked_again_a_few_times() {
    let place = ReconcileRig::new();
    place.put("a", OK);
    fs::write(place.kept.path().join("answer"), answer()).unwrap();
    let script = "cat > /dev/null; echo >> $HERE/started; [ $(wc -l < $HERE/started) -gt 2 ] || kill -KILL $$; \
                  cat $HERE/answer";
    let registry = place.open_with(script).await;
    let failed = registry.status("a").unwrap();
    assert!(failed.state == PluginStatus::Failed && failed.error.unwrap().contains("was killed"));
    look_until(&registry, || registry.status("a").unwrap().state == PluginStatus::Active).await;
    assert_eq!(place.started(), 3);
}

#[tokio::test]
async fn a_file_whose_compiler_is_always_killed_is_given_up_until_it_is_another() {
    let place = ReconcileRig::new();
    place.put("a", OK);
    let registry = place.open_with("echo >> $HERE/started; kill -KILL $$").await;
    look_until(&registry, || place.started() == 6).await;
    for _ in 0..100 {
        registry.refresh(&Default::default()).await;
    }
    assert_eq!(place.started(), 6);
    place.put("a", OTHER);
    registry.refresh(&Default::default()).await;
    assert_eq!(place.started(), 7);
}

/// A component that is not small.
fn large(n: usize) -> Vec<u8> {
    let mut bytes = component(&guest(&format!("{} {OK}", "(nop)".repeat(n + 1))));
    // A section that says nothing, of five megabytes: its name and then zeros.
    let (length, name) = (5 << 20, b"\x05large");
    bytes.extend([0, 0x80 | (length & 0x7f) as u8, 0x80 | (length >> 7 & 0x7f) as u8]);
    bytes.extend([0x80 | (length >> 14 & 0x7f) as u8, (length >> 21) as u8]);
    bytes.extend(name);
    bytes.resize(bytes.len() + length - name.len(), 0);
    bytes
}

/// The script of a compiler that hangs at what is large, and notes what is small.
const HANGS_AT_LARGE: &str = "cat > $HERE/in.$$; size=$(wc -c < $HERE/in.$$); rm $HERE/in.$$; \
    if [ $size -gt 1000000 ]; then echo >> $HERE/started; exec sleep 600; fi; cat $HERE/answer";

#[tokio::test]
async fn any_number_of_files_that_compile_for_long_hold_up_no_small_one() {
    let place = ReconcileRig::new();
    fs::write(place.kept.path().join("answer"), answer()).unwrap();
    let registry = place.open_with(HANGS_AT_LARGE).await;
    let stop = CancellationToken::new();
    let people = async {
        for n in 0..40 {
            fs::write(place.file(&format!("large{n}.wasm")), large(n)).unwrap();
        }
        while place.started() == 0 {
            tokio::task::yield_now().await;
        }
        place.put("small", OK);
        until(&registry, "small", |status| status.state == PluginStatus::Active).await;
        place.put("small", OTHER);
        let digest = crate::plugin::component::loader::contents(guest(OTHER).into()).digest;
        until(&registry, "small", |status| status.digest.as_ref() == Some(&digest)).await;
        assert_eq!(place.started(), 1, "of the large ones one is compiled at a time");
        stop.cancel();
    };
    let both = async { tokio::join!(registry.watch(stop.clone()), people) };
    tokio::time::timeout(Duration::from_secs(120), both).await.unwrap();
}

#[tokio::test]
async fn at_a_start_what_compiles_for_long_holds_up_no_small_one_either() {
    let place = ReconcileRig::new();
    fs::write(place.kept.path().join("answer"), answer()).unwrap();
    for n in 0..3 {
        fs::write(place.file(&format!("large{n}.wasm")), large(n)).unwrap();
    }
    place.put("small", OK);
    let compiled = place.kept.path().join("small-was-compiled");
    // The large ones end once the small one has been compiled.
    let script = "cat > $HERE/in.$$; size=$(wc -c < $HERE/in.$$); rm $HERE/in.$$; \
        if [ $size -gt 1000000 ]; then while [ ! -e $HERE/small-was-compiled ]; do sleep 0.01; done; \
        else touch $HERE/small-was-compiled; fi; cat $HERE/answer";
    let registry = tokio::time::timeout(Duration::from_secs(120), place.open_with(script)).await.unwrap();
    assert!(compiled.exists());
    for name in ["small", "large0", "large1", "large2"] {
        assert_eq!(registry.status(name).unwrap().state, PluginStatus::Active, "{name}");
    }
}

#[tokio::test]
async fn a_small_file_that_is_not_quick_is_compiled_anew_with_all_that_may_be_taken() {
    let place = ReconcileRig::new();
    fs::write(place.kept.path().join("answer"), answer()).unwrap();
    place.put("a", OK);
    // The limits come after the script.
    let script =
        "cat > /dev/null; echo $1 >> $HERE/started; [ $1 = --cpu-ms=60000 ] || kill -XCPU $$; cat $HERE/answer";
    let registry = place.open_with(script).await;
    assert_eq!(registry.status("a").unwrap().state, PluginStatus::Active, "{:?}", registry.status("a"));
    let started = || fs::read_to_string(place.kept.path().join("started")).unwrap();
    assert_eq!(started(), "--cpu-ms=2000\n--cpu-ms=60000\n");
    place.put("a", OTHER);
    registry.refresh(&Default::default()).await;
    assert_eq!(started(), "--cpu-ms=2000\n--cpu-ms=60000\n--cpu-ms=60000\n", "the next one goes the slow way at once");
}
