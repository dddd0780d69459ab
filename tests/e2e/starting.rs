//! A start: the host is alive at once, accepts as soon as its store is open, and uses each plugin as soon as it is
//! loaded. It can be stopped at any moment.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use eventstream_tests::client::Client;
use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::{Host, HostOptions, command};
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

fn make_pipe(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

/// A store that never finishes opening.
fn endless_store(folder: &Path) -> String {
    let data = folder.join("data");
    std::fs::create_dir(&data).unwrap();
    // The broker opens this pipe for reading and writing, and waits for the data of the last owner, which never comes.
    make_pipe(&data.join("lock"));
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

/// A process that can be signalled, killed when it is dropped.
struct Starting(std::process::Child);

impl Starting {
    fn spawn(mut command: std::process::Command) -> Self {
        let quiet = std::process::Stdio::null;
        Self(command.args(["--listen", "127.0.0.1:0"]).stdout(quiet()).stderr(quiet()).spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    /// Waits until the process catches SIGTERM: its first instructions have run.
    fn wait_until_it_listens(&self) {
        let path = format!("/proc/{}/status", self.0.id());
        eventually("it catches SIGTERM", || {
            let status = std::fs::read_to_string(&path).unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
            let is_caught = u64::from_str_radix(mask, 16).unwrap() >> 14 & 1 == 1;
            if is_caught { Ok(()) } else { Err(status) }
        });
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_stop_works_before_the_server_has_begun() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let folder = tempfile::tempdir().unwrap();
        assert!(command(folder.path(), &["plugin", "new", "hello"]).output().unwrap().status.success());
        // The command asks for this tool before it serves, and the tool waits for a line that never comes.
        let (tool, line) = (folder.path().join("rustc"), folder.path().join("line"));
        std::fs::write(&tool, format!("#!/bin/sh\nread line < {}\n", line.display())).unwrap();
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
        make_pipe(&line);
        let mut dev = command(folder.path(), &["dev", "hello"]);
        dev.env("PATH", folder.path());
        let mut dev = Starting::spawn(dev);
        // It opens once the tool reads it.
        let mut options = std::fs::File::options();
        options.write(true).custom_flags(i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap());
        let _line = eventually("the tool runs", || options.open(&line));
        kill_process(dev.pid(), signal).unwrap();
        assert_eq!(dev.exit_code(), Some(0), "{signal:?}");
    }
}

#[test]
fn a_stop_at_any_moment_of_the_start_is_a_clean_end() {
    for _ in 0..50 {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("plugins")).unwrap();
        let mut host = Starting::spawn(command(folder.path(), &[]));
        // What happens before the program begins is not its doing.
        host.wait_until_it_listens();
        let moment = Duration::from_micros(fastrand::u64(..30_000));
        std::thread::sleep(moment);
        kill_process(host.pid(), Signal::TERM).unwrap();
        assert_eq!(host.exit_code(), Some(0), "stopped after {moment:?}");
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
