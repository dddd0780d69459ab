//! A start: the host is alive at once, accepts as soon as its store is open, and uses each plugin as soon as it is
//! loaded. It can be stopped at any moment.

use std::path::Path;

use eventstream_tests::client::Client;
use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::{Host, HostOptions};
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;

use super::compiling::{bomb, stands_still};

on_both_brokers! {
    what_is_loaded_works_while_another_plugin_is_compiled,
    what_a_crash_left_waits_for_its_plugin_and_holds_up_no_stop,
}

/// The compiler of a host, stopped.
fn stopped_compiler(host: &Host) -> Pid {
    eventually("a compiler is stopped", || {
        let is_stopped = |compiler: &Pid| kill_process(*compiler, Signal::STOP).is_ok() && stands_still(*compiler);
        host.children().into_iter().find(is_stopped).ok_or_else(|| host.output())
    })
}

fn what_is_loaded_works_while_another_plugin_is_compiled(broker: Broker) {
    let kept = tempfile::tempdir().unwrap();
    let set = |options: HostOptions| {
        options.with("plugins.data_dir", kept.path().join("plugins").display()).with("retry.max_attempts", 1)
    };
    // Its code is kept from here on, so that it is loaded without a compiler.
    let mut stage = Stage::with(broker, PluginsDir::scripted(&["work"]), set);
    stage.host.terminate();
    stage.host.wait();
    let waiting = {
        stage.replace_host(set);
        let id = stage.client.post_event("slow", &json!({"delayed": true}));
        stage.client.wait_ended(&id);
        stage.host.terminate();
        stage.host.wait();
        id
    };
    // The compiler needs seconds for it, and then it does not fit.
    stage.plugins.write("slow.wasm", &bomb(20_000));
    stage.host = Host::starting(&set(stage.options()));
    stage.client = stage.host.client();
    let compiler = stopped_compiler(&stage.host);
    stage.client.get("/livez").expect(200);
    let refusal = eventually("only the plugin is waited for", || {
        let refusal = stage.client.get("/readyz").expect(503).json();
        if refusal["detail"] == "plugins are being loaded: slow; events for them are accepted and wait" {
            Ok(refusal)
        } else {
            Err(refusal)
        }
    });
    assert_eq!(refusal["checks"][2]["name"], "plugins", "{refusal}");
    let event = stage.client.wait_ended(&stage.client.post_event("work", &json!({})));
    assert_eq!(event.state, "processed", "{event:?}");
    let id = stage.client.post_event("slow", &json!({}));
    let behind = stage.client.wait_ended(&stage.client.post_event("work", &json!({})));
    assert_eq!(behind.state, "processed", "{behind:?}");
    let event = stage.client.event(&id).unwrap();
    assert_eq!((event.state.as_str(), event.attempts.len()), ("queued", 0), "its plugin is not loaded yet: {event:?}");
    let failed = stage.client.event(&waiting).unwrap();
    assert_eq!(failed.state, "failed", "what failed is put back to work once a plugin is there: {failed:?}");

    stage.host.terminate();
    assert_eq!(stage.host.wait().code(), Some(0), "{}", stage.host.output());
    eventually("the compiler has ended, too", || match test_kill_process(compiler) {
        Err(_) => Ok(()),
        Ok(()) => Err("it is there"),
    });
    // The next start compiles it to its end.
    stage.replace_host(set);
    let event = stage.client.wait_ended(&id);
    assert_eq!((event.state.as_str(), event.class.as_deref()), ("failed", Some("no-handler")), "{event:?}");
    stage.client.get("/readyz").expect(200);
}

fn what_a_crash_left_waits_for_its_plugin_and_holds_up_no_stop(broker: Broker) {
    // Longer than a test waits.
    let set = |options: HostOptions| options.with("server.drain_ms", 600_000).with("retry.max_attempts", 1);
    let mut stage = Stage::with(broker, PluginsDir::scripted(&["slow"]), set);
    let id = stage.client.post_event("slow", &json!({"sleep-ms": 20_000}));
    stage.client.wait_for(&id, &["running"]);
    stage.host.kill9();
    let good = std::fs::read(stage.plugins.path().join("slow.wasm")).unwrap();
    stage.plugins.write("slow.wasm", &bomb(20_000));
    stage.host = Host::starting(&set(stage.options()));
    stopped_compiler(&stage.host);
    stage.host.wait_for_output("delivery taken over from a consumer that is gone");
    stage.host.terminate();
    assert_eq!(stage.host.wait().code(), Some(0), "{}", stage.host.output());
    stage.plugins.write("slow.wasm", &good);
    stage.replace_host(set);
    let event = stage.client.wait_ended(&id);
    assert_eq!((event.state.as_str(), event.attempts.len()), ("processed", 1), "{event:?}");
}

/// A store that never finishes opening.
fn endless_store(folder: &Path) -> String {
    let data = folder.join("data");
    std::fs::create_dir(&data).unwrap();
    // The broker opens this pipe for reading and writing, and waits for the data of the last owner, which never comes.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        data.join("lock"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    format!("embedded:{}", data.display())
}

#[test]
fn a_host_lives_and_can_be_stopped_while_its_store_is_being_opened() {
    let (folder, plugins) = (tempfile::tempdir().unwrap(), PluginsDir::scripted(&["work"]));
    let url = endless_store(folder.path());
    for stop in [Host::terminate, Host::hang_up] {
        let host = Host::starting(&HostOptions::new(&url, plugins.path()));
        let client: Client = host.client();
        client.get("/livez").expect(200);
        for path in ["/readyz", "/metrics", "/plugins"] {
            let refusal = client.get(path).expect(503);
            assert_eq!(refusal.header("retry-after"), "1");
            let words = refusal.json()["detail"].as_str().unwrap().to_owned();
            assert!(words.starts_with("the broker is being opened"), "{words}");
        }
        let refusal = client.post(r#"{"type":"work","payload":{}}"#).expect(503);
        assert_eq!(refusal.json()["type"], "/problems/not-ready");
        stop(&host);
        assert_eq!(host.wait().code(), Some(0), "{}", host.output());
    }
}

#[test]
fn a_plugin_directory_that_is_not_there_is_no_new_one() {
    let (folder, store) = (tempfile::tempdir().unwrap(), Broker::Embedded.start());
    let nowhere = folder.path().join("plugnis");
    let Err(exited) = Host::try_spawn(&HostOptions::new(&store.url(), &nowhere)) else { panic!("it started") };
    assert_eq!(exited.status.code(), Some(2), "{}", exited.output);
    assert!(exited.output.contains("plugnis") && exited.output.contains("is not there: make it"), "{}", exited.output);
    assert!(!nowhere.exists());
}
