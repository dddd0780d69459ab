//! Code that was compiled once is not compiled at the next start. A server runs only compiled code that it wrote
//! itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use eventstream_tests::guests::{PluginsDir, two_builds};
use eventstream_tests::host::Host;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Less memory than any compiler needs to start.
const NO_TIME_MS: u64 = 10;
/// In which it is, whatever else the machine does.
const PATIENT_MS: u64 = 300_000;

/// A store, two plugins that answer differently, and a data directory for compiled code.
struct CacheFixture {
    stage: Stage,
    kept: TempDir,
}

impl CacheFixture {
    fn new() -> Self {
        let plugins = PluginsDir::empty();
        for (name, (build, _)) in ["first", "second"].iter().zip(two_builds()) {
            plugins.write(&format!("{name}.wasm"), &build);
        }
        let kept = tempfile::tempdir().unwrap();
        let dir = kept.path().join("plugins");
        let stage = Stage::with(Broker::Embedded, plugins, |options| options.with("plugins.data_dir", dir.display()));
        Self { stage, kept }
    }

    fn dir(&self) -> PathBuf {
        self.kept.path().join("plugins")
    }

    /// The file of compiled code of each plugin.
    fn compiled(&self) -> [PathBuf; 2] {
        let files = fs::read_dir(self.dir().join("compiled")).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<PathBuf> = files.collect();
        two_builds().map(|(_, digest)| {
            let of = |path: &&PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&digest);
            files.iter().find(of).unwrap().clone()
        })
    }

    fn restart(&mut self, compile_wall_ms: u64) -> &Host {
        self.stage.host.kill9();
        let dir = self.dir();
        self.stage.replace_host(|options| {
            options.with("plugins.data_dir", dir.display()).with("plugins.compile_wall_ms", compile_wall_ms)
        });
        &self.stage.host
    }

    fn error(&self, name: &str) -> Value {
        self.stage.client.get(&format!("/plugins/{name}")).expect(200).json()["error"].clone()
    }

    /// Which of the two builds serves as a plugin.
    fn answers(&self, name: &str) -> &'static str {
        let event = self.stage.client.wait_ended(&self.stage.client.post_event(name, &json!({"do": "facts"})));
        if event.result.unwrap().get().contains("remainingMX") { "second" } else { "first" }
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_start_after_the_first_compiles_nothing() {
    let mut place = CacheFixture::new();
    assert_eq!((mode(&place.dir()), mode(&place.dir().join("key"))), (0o700, 0o600));
    for restart in 0..2 {
        place.restart(NO_TIME_MS);
        for name in ["first", "second"] {
            assert_eq!((place.error(name), place.answers(name)), (Value::Null, name), "restart {restart}");
        }
    }
    fs::remove_dir_all(place.dir().join("compiled")).unwrap();
    place.restart(NO_TIME_MS);
    let error = place.error("first").to_string();
    assert!(error.contains("plugins.compile_wall_ms"), "without what was kept nothing is compiled in no time: {error}");
}

#[test]
fn compiled_code_that_the_server_did_not_write_is_never_run_but_compiled_again() {
    let mut place = CacheFixture::new();
    let theirs = CacheFixture::new();
    let [first, second] = place.compiled();
    let whole = fs::read(&first).unwrap();
    let of_others = fs::read(&theirs.compiled()[1]).unwrap();
    let mut changed = whole.clone();
    changed[32 + 4_096] ^= 1;
    for (what, content) in [
        ("swapped between two names", fs::read(&second).unwrap()),
        ("made with the key of another installation", of_others.clone()),
        ("native code without an authentication code", of_others[32..].to_vec()),
        ("changed in one bit", changed),
        ("cut short", whole[..whole.len() / 2].to_vec()),
    ] {
        fs::write(&first, content).unwrap();
        place.restart(NO_TIME_MS).wait_for_output("not written by this installation");
        assert!(place.error("first").to_string().contains("compile_wall_ms"), "{what}: it would have to be compiled");
        assert_eq!(place.answers("second"), "second", "{what}: its neighbour serves");
        place.restart(PATIENT_MS);
        assert_eq!((place.error("first"), place.answers("first")), (Value::Null, "first"), "{what}");
        place.restart(NO_TIME_MS);
        assert_eq!((place.error("first"), place.answers("first")), (Value::Null, "first"), "{what}: it was rewritten");
    }
}

#[test]
fn precompiled_code_in_the_plugin_directory_is_refused() {
    let place = CacheFixture::new();
    let [first, _] = place.compiled();
    let code = fs::read(first).unwrap()[32..].to_vec();
    place.stage.plugins.write("evil.wasm", &code);
    let words = place
        .stage
        .client
        .wait_for_plugin("evil", "it is refused", |status| status["error"].as_str().map(str::to_owned));
    assert!(words.contains("precompiled code is never loaded"), "{words}");
}

#[test]
fn a_directory_that_others_can_enter_is_not_used_and_the_server_says_so_once() {
    let mut place = CacheFixture::new();
    fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let output = place.restart(PATIENT_MS).wait_for_output("chmod 700");
    let warnings = output.lines().filter(|line| line.contains("plugins.data_dir")).count();
    assert_eq!(warnings, 1, "{output}");
    assert_eq!(place.answers("first"), "first");
    let refused = place.stage.client.roll_back("first").expect(409).json();
    assert_eq!(refused["type"], "/problems/not-rolled-back", "{refused}");
}
