//! Every file in the plugin directory is loaded, refused with a reason, or ignored. Plugins that serve are not
//! disturbed.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use eventstream_tests::client::Client;
use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::{PluginsDir, two_builds};
use eventstream_tests::host::{Host, HostOptions};
use eventstream_tests::stage::{Broker, Stage};
use rustix::fs::{CWD, Mode};
use serde_json::json;

/// Files that are ignored, and files with the name of a plugin and other content, which are reported.
const OTHER_FILES: usize = 8_000;
const EMPTY_FILES: usize = 2_000;

#[track_caller]
fn serves(client: &Client, digest: &str) {
    let event = client.wait_ended(&client.post_event("work", &json!({})));
    assert_eq!((event.state.as_str(), event.attempts[0].digest.as_deref()), ("processed", Some(digest)), "{event:?}");
}

#[track_caller]
fn refusal(client: &Client, name: &str) -> String {
    client.wait_for_plugin(name, "it is refused", |status| status["error"].as_str().map(str::to_owned))
}

fn stage() -> Stage {
    let plugins = PluginsDir::empty();
    plugins.write("work.wasm", &two_builds()[0].0);
    Stage::with(Broker::Embedded, plugins, |options| options.with("plugins.settle_ms", 50))
}

/// Puts something else in the place of the file.
fn replace(path: &Path, make: impl FnOnce(&Path)) {
    let other = path.with_file_name(".other");
    make(&other);
    fs::rename(other, path).unwrap();
}

#[test]
fn what_is_no_file_is_refused_and_the_version_that_served_serves_on() {
    let [(first_build, first), (second_build, second)] = two_builds();
    let stage = stage();
    let file = stage.plugins.path().join("work.wasm");
    for (what, words) in [("pipe", "not a regular file"), ("link", "cannot be read"), ("empty", "not WebAssembly")] {
        replace(&file, |path| match what {
            "pipe" => rustix::fs::mkfifoat(CWD, path, Mode::RWXU).unwrap(),
            "link" => symlink("/nowhere/at/all", path).unwrap(),
            _ => drop(File::create(path).unwrap()),
        });
        let error = refusal(&stage.client, "work");
        assert!(error.contains(words), "{what}: {error}");
        serves(&stage.client, &first);
        stage.plugins.write("work.wasm", &first_build);
        stage.client.wait_for_version("work", &first);
        stage.client.wait_for_plugin("work", "the fault is gone", |status| status["error"].is_null().then_some(()));
    }
    fs::create_dir(stage.plugins.path().join("folder.wasm")).unwrap();
    assert!(refusal(&stage.client, "folder").contains("not a regular file"));
    // A copy that pauses halfway and then goes on.
    let mut copy = File::create(&file).unwrap();
    let (head, tail) = second_build.split_at(second_build.len() / 2);
    copy.write_all(head).unwrap();
    stage.client.wait_for_plugin("work", "it is refused as cut short", |status| {
        status["error"].as_str().filter(|error| error.contains("cut short")).map(drop)
    });
    serves(&stage.client, &first);
    copy.write_all(tail).unwrap();
    drop(copy);
    stage.client.wait_for_version("work", &second);
    serves(&stage.client, &second);
}

#[test]
fn names_that_lead_elsewhere_are_not_looked_at() {
    let [(build, _), _] = two_builds();
    let stage = stage();
    for name in ["..wasm", "...wasm", "..evil.wasm", ".hidden.wasm", "a.wasm~", "b.wasm.part", "c.WASM"] {
        fs::write(stage.plugins.path().join(name), &build).unwrap();
    }
    fs::write(stage.plugins.path().join("a b.wasm"), &build).unwrap();
    assert!(refusal(&stage.client, "a%20b").contains("rename the file"));
    let plugins = stage.client.get("/plugins").expect(200).json();
    let names: Vec<_> = plugins["plugins"].as_array().unwrap().iter().map(|plugin| plugin["name"].clone()).collect();
    assert_eq!(names, ["a b", "work"]);
    stage.client.get("/plugins/..%2fwork").expect(404);
    stage.client.roll_back("..%2fwork").expect(404);
}

#[test]
fn a_volume_whose_data_is_swapped_is_followed() {
    let [(first_build, first), (second_build, second)] = two_builds();
    let plugins = PluginsDir::empty();
    let dir = plugins.path().to_owned();
    // As Kubernetes mounts a ConfigMap: work.wasm -> ..data/work.wasm, ..data -> ..1.
    let version = |name: &str, build: &[u8]| {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("work.wasm"), build).unwrap();
        symlink(name, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    version("..1", &first_build);
    symlink("..data/work.wasm", dir.join("work.wasm")).unwrap();
    let stage = Stage::with(Broker::Embedded, plugins, |options| options.with("plugins.settle_ms", 50));
    serves(&stage.client, &first);
    version("..2", &second_build);
    fs::remove_dir_all(dir.join("..1")).unwrap();
    stage.client.wait_for_version("work", &second);
    serves(&stage.client, &second);
}

#[test]
fn a_directory_that_is_swapped_as_a_whole_is_followed_with_and_without_notifications() {
    let [(first_build, first), (second_build, second)] = two_builds();
    for watch in ["notify", "poll"] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, build) in [("1", &first_build), ("2", &second_build)] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("work.wasm"), build).unwrap();
        }
        symlink("1", at("current")).unwrap();
        let store = Broker::Embedded.start();
        let options = HostOptions::new(&store.url(), &at("current")).with("plugins.watch", watch);
        let host = Host::spawn(&options.with("plugins.rescan_ms", 50).with("plugins.settle_ms", 50));
        let client = host.client();
        serves(&client, &first);
        eventually("it watches as it is to", || {
            let files = host.open_files();
            let is_notified = files.iter().any(|file| file.contains("inotify"));
            if is_notified == (watch == "notify") { Ok(()) } else { Err(format!("{files:?}")) }
        });
        symlink("2", at("next")).unwrap();
        fs::rename(at("next"), at("current")).unwrap();
        client.wait_for_version("work", &second);
        serves(&client, &second);
    }
}

#[test]
fn ten_thousand_files_hold_up_nobody() {
    let [(_, first), (second_build, second)] = two_builds();
    let stage = stage();
    for n in 0..OTHER_FILES {
        File::create(stage.plugins.path().join(format!("note-{n}.txt"))).unwrap();
    }
    for n in 0..EMPTY_FILES {
        File::create(stage.plugins.path().join(format!("empty-{n}.wasm"))).unwrap();
    }
    assert!(refusal(&stage.client, "empty-0").contains("not WebAssembly"));
    serves(&stage.client, &first);
    stage.plugins.write("work.wasm", &second_build);
    stage.client.wait_for_version("work", &second);
    serves(&stage.client, &second);
}

#[test]
fn settings_and_files_that_are_for_no_plugin_are_told_with_the_name_that_may_be_meant() {
    let plugins = PluginsDir::empty();
    plugins.write("work.wasm", &two_builds()[0].0);
    plugins.write("wrok.toml", b"types = ['x']");
    plugins.write("PAY.WASM", &two_builds()[0].0);
    let stage = Stage::with(Broker::Embedded, plugins, |options| options.with("plugins.settle_ms", 50));
    eventually("they are told", || {
        let told = stage.client.get("/plugins").json()["overlooked"].to_string();
        let all = ["wrok.toml is for no plugin", "did you mean", "rename it to PAY.wasm"];
        if all.iter().all(|words| told.contains(words)) { Ok(()) } else { Err(told) }
    });
    let log = stage.host.wait_for_output("wrok.toml is for no plugin");
    assert!(log.contains("PAY.WASM is not loaded"), "{log}");
    stage.plugins.write("work.toml", b"types = []\n  concurency = 3");
    let words = refusal(&stage.client, "work");
    assert!(
        words.contains("work.toml, line 2, column 3: no key \"concurency\"; did you mean \"concurrency\"?"),
        "{words}"
    );
}
