//! Plugins that are loaded side by side: a compiler that hangs or is killed delays no other plugin.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::registry_rig::{RegistryRig, digest_of, scan};
use crate::plugin::sandbox::engine;
use crate::plugin::testing::{OK, component, guest};
use crate::plugin::{PluginRegistry, RegistryOptions, WatchMethod};
use crate::plugin_report::{PluginReport, PluginStatus};

/// A handler that differs from the usual one only in its digest.
const OTHER: &str = "(nop) i32.const 1024";

fn options(rig: &RegistryRig) -> RegistryOptions {
    RegistryOptions { watch: WatchMethod::Poll, rescan_ms: 1, ..rig.options() }
}

/// A registry that compiles by a script, in which `$HERE` is the directory beside the data directory.
async fn open_with(rig: &RegistryRig, script: &str) -> Arc<PluginRegistry> {
    let compiler = rig.scripted_compiler(script);
    PluginRegistry::open(RegistryOptions { compiler, ..options(rig) }).await.unwrap()
}

/// How often the script noted that it was started.
fn starts(rig: &RegistryRig) -> usize {
    fs::read_to_string(rig.beside_data("started")).unwrap_or_default().lines().count()
}

/// Waits until the report on a plugin is so.
async fn wait_until(registry: &PluginRegistry, name: &str, is_so: impl Fn(&PluginReport) -> bool) {
    while !registry.status(name).is_some_and(|status| is_so(&status)) {
        tokio::task::yield_now().await;
    }
}

/// Scans the directory until it is so.
async fn scan_until(registry: &PluginRegistry, is_so: impl Fn() -> bool) {
    let scans = async {
        while !is_so() {
            scan(registry).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), scans).await.unwrap();
}

/// What a compiler answers for the usual handler.
fn answer() -> Vec<u8> {
    let code = engine::for_compiling().unwrap().precompile_component(&component(&guest(OK))).unwrap();
    [&b"C"[..], &(code.len() as u64).to_le_bytes(), &code].concat()
}

#[tokio::test]
async fn a_long_compilation_delays_no_change_of_other_plugins() {
    let rig = RegistryRig::new();
    for name in ["a", "b", "c"] {
        rig.put_guest(name, OK);
    }
    drop(PluginRegistry::open(options(&rig)).await.unwrap());
    let registry = open_with(&rig, "echo >> $HERE/started; exec sleep 600").await;
    let stop = CancellationToken::new();
    let people = async {
        rig.put_guest("slow", OTHER);
        wait_until(&registry, "slow", |status| status.status == PluginStatus::Compiling).await;
        while starts(&rig) == 0 {
            tokio::task::yield_now().await;
        }
        fs::write(rig.file("a.toml"), "concurrency = 3").unwrap();
        wait_until(&registry, "a", |status| status.concurrency == Some(3)).await;
        fs::remove_file(rig.file("b.wasm")).unwrap();
        wait_until(&registry, "b", |status| status.status == PluginStatus::Removed).await;
        rig.put_guest("new", OK);
        wait_until(&registry, "new", |status| status.status == PluginStatus::Active).await;
        assert!(registry.is_preparing(), "the slow one is being compiled still");

        // Another file in its place ends the compilation, and so does its removal.
        rig.put_guest("slow", OK);
        wait_until(&registry, "slow", |status| status.status == PluginStatus::Active).await;
        rig.put_guest("slower", OTHER);
        wait_until(&registry, "slower", |status| status.status == PluginStatus::Compiling).await;
        fs::remove_file(rig.file("slower.wasm")).unwrap();
        wait_until(&registry, "slower", |status| status.status == PluginStatus::Removed).await;
        while registry.is_preparing() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    let both = async { tokio::join!(registry.watch(stop.clone()), people) };
    tokio::time::timeout(Duration::from_secs(120), both).await.unwrap();
}

#[tokio::test]
async fn a_file_whose_compiler_was_killed_is_compiled_again() {
    let rig = RegistryRig::new();
    rig.put_guest("a", OK);
    fs::write(rig.beside_data("answer"), answer()).unwrap();
    let script = "cat > /dev/null; echo >> $HERE/started; [ $(wc -l < $HERE/started) -gt 2 ] || kill -KILL $$; \
                  cat $HERE/answer";
    let registry = open_with(&rig, script).await;
    let failed = registry.status("a").unwrap();
    assert!(failed.status == PluginStatus::Failed && failed.error.unwrap().contains("was killed"));
    scan_until(&registry, || registry.status("a").unwrap().status == PluginStatus::Active).await;
    assert_eq!(starts(&rig), 3);
}

#[tokio::test]
async fn a_file_whose_compiler_is_always_killed_is_given_up_until_it_is_another() {
    let rig = RegistryRig::new();
    rig.put_guest("a", OK);
    let registry = open_with(&rig, "echo >> $HERE/started; kill -KILL $$").await;
    scan_until(&registry, || starts(&rig) == 6).await;
    for _ in 0..100 {
        scan(&registry).await;
    }
    assert_eq!(starts(&rig), 6);
    rig.put_guest("a", OTHER);
    scan(&registry).await;
    assert_eq!(starts(&rig), 7);
}

/// A component that is too large for the quick track.
fn large(n: usize) -> Vec<u8> {
    let mut bytes = component(&guest(&format!("{} {OK}", "(nop)".repeat(n + 1))));
    // A custom section of five megabytes: its name and then zeros.
    let (length, name) = (5 << 20, b"\x05large");
    bytes.extend([0, 0x80 | (length & 0x7f) as u8, 0x80 | (length >> 7 & 0x7f) as u8]);
    bytes.extend([0x80 | (length >> 14 & 0x7f) as u8, (length >> 21) as u8]);
    bytes.extend(name);
    bytes.resize(bytes.len() + length - name.len(), 0);
    bytes
}

/// The script of a compiler that notes and hangs at large files, and answers for small ones.
const HANGS_AT_LARGE: &str = "cat > $HERE/in.$$; size=$(wc -c < $HERE/in.$$); rm $HERE/in.$$; \
    if [ $size -gt 1000000 ]; then echo >> $HERE/started; exec sleep 600; fi; cat $HERE/answer";

#[tokio::test]
async fn long_compilations_delay_no_small_file() {
    let rig = RegistryRig::new();
    fs::write(rig.beside_data("answer"), answer()).unwrap();
    let registry = open_with(&rig, HANGS_AT_LARGE).await;
    let stop = CancellationToken::new();
    let people = async {
        for n in 0..40 {
            fs::write(rig.file(&format!("large{n}.wasm")), large(n)).unwrap();
        }
        while starts(&rig) == 0 {
            tokio::task::yield_now().await;
        }
        rig.put_guest("small", OK);
        wait_until(&registry, "small", |status| status.status == PluginStatus::Active).await;
        rig.put_guest("small", OTHER);
        let digest = digest_of(&guest(OTHER));
        wait_until(&registry, "small", |status| status.digest.as_ref() == Some(&digest)).await;
        assert_eq!(starts(&rig), 1, "of the large ones one is compiled at a time");
        stop.cancel();
    };
    let both = async { tokio::join!(registry.watch(stop.clone()), people) };
    tokio::time::timeout(Duration::from_secs(120), both).await.unwrap();
}

#[tokio::test]
async fn long_compilations_delay_no_small_file_at_a_start() {
    let rig = RegistryRig::new();
    fs::write(rig.beside_data("answer"), answer()).unwrap();
    for n in 0..3 {
        fs::write(rig.file(&format!("large{n}.wasm")), large(n)).unwrap();
    }
    rig.put_guest("small", OK);
    let compiled = rig.beside_data("small-was-compiled");
    // The large ones end once the small one is compiled.
    let script = "cat > $HERE/in.$$; size=$(wc -c < $HERE/in.$$); rm $HERE/in.$$; \
        if [ $size -gt 1000000 ]; then while [ ! -e $HERE/small-was-compiled ]; do sleep 0.01; done; \
        else touch $HERE/small-was-compiled; fi; cat $HERE/answer";
    let registry = tokio::time::timeout(Duration::from_secs(120), open_with(&rig, script)).await.unwrap();
    assert!(compiled.exists());
    for name in ["small", "large0", "large1", "large2"] {
        assert_eq!(registry.status(name).unwrap().status, PluginStatus::Active, "{name}");
    }
}

#[tokio::test]
async fn a_small_file_that_is_not_quick_is_compiled_again_with_the_full_limits() {
    let rig = RegistryRig::new();
    fs::write(rig.beside_data("answer"), answer()).unwrap();
    rig.put_guest("a", OK);
    // The limits are arguments of the script.
    let script =
        "cat > /dev/null; echo $1 >> $HERE/started; [ $1 = --cpu-ms=60000 ] || kill -XCPU $$; cat $HERE/answer";
    let registry = open_with(&rig, script).await;
    assert_eq!(registry.status("a").unwrap().status, PluginStatus::Active, "{:?}", registry.status("a"));
    let started = || fs::read_to_string(rig.beside_data("started")).unwrap();
    assert_eq!(started(), "--cpu-ms=2000\n--cpu-ms=60000\n");
    rig.put_guest("a", OTHER);
    scan(&registry).await;
    assert_eq!(started(), "--cpu-ms=2000\n--cpu-ms=60000\n--cpu-ms=60000\n", "the next one goes the slow way at once");
}
