//! A plugin is replaced again and again under load, by good and by bad files. No event fails because of it, and the server
//! frees the memory and the files that it used for old versions.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use eventstream_tests::client::Client;
use eventstream_tests::guests::{PluginsDir, two_builds};
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::json;

on_both_brokers! {
    a_storm_of_good_and_bad_files_fails_no_event,
}

/// How often the plugin is replaced under load.
const REPLACED: usize = 50;
/// How often the plugin is replaced to find leaks, and after how many replacements the first measurement is made.
const RELOADS: usize = 1_000;
const WARM: usize = 50;
/// How much the server's memory may grow between the two measurements: 32 kB a reload, each of which maps a megabyte.
const GROWTH_LIMIT_BYTES: u64 = 30 << 20;
/// How many more descriptors may be open: connections, and files that are being read.
const MORE_FILES: usize = 8;

/// Sends a few events and waits for their ends, again and again, until it must stop. Returns all ids.
fn steady_load(client: &Client, stop: &AtomicBool) -> Vec<String> {
    let mut ids = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let sent = client.post_batch(&vec![json!({"type": "work", "payload": {"do": "facts", "sleep-ms": 5}}); 5]);
        client.wait_ended(sent.last().unwrap());
        ids.extend(sent);
    }
    ids
}

#[track_caller]
fn refused(client: &Client, words: &str) {
    client.wait_for_plugin("work", "the bad file is refused", |status| {
        status["error"].as_str().filter(|error| error.contains(words)).map(drop)
    });
}

fn a_storm_of_good_and_bad_files_fails_no_event(broker: Broker) {
    let builds = two_builds();
    let plugins = PluginsDir::empty();
    plugins.write("work.wasm", &builds[1].0);
    // While the file is away its events are tried again until it is back.
    let stage = Stage::with(broker, plugins, |options| options.with("retry.no-handler.max_attempts", 1_000));
    let (client, stop) = (&stage.client, AtomicBool::new(false));
    let file = stage.plugins.path().join("work.wasm");
    let ids = thread::scope(|threads| {
        let senders: Vec<_> = (0..2).map(|_| threads.spawn(|| steady_load(client, &stop))).collect();
        // The first thread that fails ends the others.
        let end = StopWhenDropped(&stop);
        for n in 0..REPLACED {
            let (build, digest) = &builds[n % 2];
            match n {
                10 => {
                    let mut corrupt = build.clone();
                    corrupt[build.len() / 2..].fill(0xff);
                    stage.plugins.write("work.wasm", &corrupt);
                    refused(client, "cut short or damaged");
                }
                20 => {
                    // A component without any world.
                    stage.plugins.write("work.wasm", b"\0asm\x0d\0\x01\0");
                    refused(client, "does not export");
                }
                30 => {
                    let mut copy = File::create(&file).unwrap();
                    copy.write_all(&build[..build.len() / 2]).unwrap();
                    refused(client, "cut short");
                }
                40 => {
                    fs::remove_file(&file).unwrap();
                    client.wait_for_plugin("work", "the plugin is gone", |status| {
                        (status["state"] == "removed").then_some(())
                    });
                }
                _ => {}
            }
            stage.plugins.write("work.wasm", build);
            client.wait_for_version("work", digest);
        }
        drop(end);
        senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect::<Vec<_>>()
    });
    let mut ran = BTreeSet::new();
    for id in &ids {
        let event = client.wait_ended(id);
        assert_eq!(event.state, "processed", "{event:?}");
        let (handled, waited): (Vec<_>, Vec<_>) = event.attempts.iter().partition(|attempt| attempt.plugin.is_some());
        assert!(waited.iter().all(|attempt| attempt.class.as_deref() == Some("no-handler")), "{event:?}");
        assert_eq!(handled.len(), 1, "the first attempt at a plugin is the last: {event:?}");
        let word = if handled[0].digest.as_ref() == Some(&builds[0].1) { "remainingMs" } else { "remainingMX" };
        assert!(event.result.as_ref().unwrap().get().contains(word), "the build that is named answered: {event:?}");
        ran.extend(handled[0].digest.clone());
    }
    assert_eq!(ran, builds.map(|(_, digest)| digest).into(), "both builds ran, and no other");
}

struct StopWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn after_a_thousand_reloads_memory_and_open_files_are_as_they_were_after_fifty() {
    let builds = two_builds();
    let plugins = PluginsDir::empty();
    plugins.write("work.wasm", &builds[1].0);
    let stage = Stage::with(Broker::Embedded, plugins, |options| {
        options.with("plugins.watch", "poll").with("plugins.rescan_ms", 10).with("plugins.settle_ms", 0)
    });
    let mut before = None;
    for n in 0..RELOADS {
        if n == WARM {
            before = Some((stage.host.resident_bytes(), stage.host.open_files().len()));
        }
        let (build, digest) = &builds[n % 2];
        stage.plugins.write("work.wasm", build);
        stage.client.wait_for_version("work", digest);
        if n % 10 == 0 {
            let event = stage.client.wait_ended(&stage.client.post_event("work", &json!({"do": "facts"})));
            assert_eq!((event.state.as_str(), event.attempts[0].digest.as_ref()), ("processed", Some(digest)));
        }
    }
    let (memory, files) = before.unwrap();
    let grown = stage.host.resident_bytes().saturating_sub(memory);
    assert!(grown < GROWTH_LIMIT_BYTES, "from {memory} bytes by {grown}");
    let open = stage.host.open_files();
    assert!(open.len() <= files + MORE_FILES, "{files} files were open before, and now {open:?}");
}
