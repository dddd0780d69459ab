//! A plugin knows its secrets. Whatever it prints, no secret and no password of a store becomes visible.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::{Host, HostOptions, command, run_command};
use eventstream_tests::layout;
use eventstream_tests::redis::RedisServer;
use eventstream_tests::stage::{Broker, Stage};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use super::compiling::stopped_compiler;

/// What every secret of these tests begins with, and what is left of it in the name of a host.
const CANARY: &str = "canary";

#[track_caller]
fn assert_silent(place: &str, reported: &str) {
    let is_reported = reported.to_ascii_lowercase().contains(CANARY);
    assert!(!is_reported, "{place} shows a secret: {reported}");
}

pub(super) fn output_text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn a_secret_reaches_the_plugin_and_nobody_else() {
    let plugins = PluginsDir::scripted(&["p"]);
    plugins.write("token.txt", b"from-a-file-1\n");
    let file = plugins.path().join("token.txt");
    let settings =
        format!("[secrets]\ntext = \"as-a-text-2\"\nfile = {{ file = {file:?} }}\nenv = {{ env = \"A_TOKEN\" }}\n");
    let plugins = plugins.with_settings("p", &settings);
    // A variable of somebody else's: what begins with EVENTSTREAM_ is a setting.
    let stage = Stage::with(Broker::Embedded, plugins, |options| options.variable("A_TOKEN", "from-the-environment-3"));
    for (key, value) in [("text", "as-a-text-2"), ("file", "from-a-file-1"), ("env", "from-the-environment-3")] {
        let event = stage.client.wait_ended(&stage.client.post_event("p", &json!({"do": "secret", "key": key})));
        let hidden = format!("[secret {key}]");
        assert_eq!(event.reason.as_deref(), Some(format!("the secret is {hidden}").as_str()), "{event:?}");
        let attempt = &event.attempts[0];
        assert!(attempt.stderr.as_ref().is_some_and(|text| text.contains(&hidden)), "{attempt:?}");
        assert_eq!(attempt.log.len(), 2, "{attempt:?}");
        assert!(attempt.log.iter().all(|line| line.to_string().contains(&hidden)), "{attempt:?}");
        for (place, reported) in [
            ("GET /events/ID", stage.client.get(&format!("/events/{}", event.id)).text()),
            ("GET /plugins", stage.client.get("/plugins").text()),
            ("the log", stage.host.wait_for_output(&hidden)),
        ] {
            assert!(!reported.contains(value), "{place}: {reported}");
        }
    }
}

#[test]
fn no_output_tells_a_secret() {
    let redis = RedisServer::start().unwrap();
    redis.command::<()>(&["CONFIG", "SET", "requirepass", "Canary/broker@1"]).unwrap();
    let address = redis.address();
    let url = format!("redis://:Canary%2Fbroker%401@{address}/0");
    let plugins = PluginsDir::scripted(&["p"]);
    plugins.write("token.txt", b"Canary-file-1\n");
    let file = plugins.path().join("token.txt");
    let settings =
        format!("[secrets]\ntext = \"Canary-text-2\"\nfile = {{ file = {file:?} }}\nenv = {{ env = \"A_TOKEN\" }}\n");
    let plugins = plugins.with_settings("p", &settings);
    let options = HostOptions::new(&url, plugins.path()).variable("A_TOKEN", "Canary-variable-3");
    let options = options.with("log.level", "trace").with("log.lines_per_second", 0).with("retry.max_attempts", 1);
    let host = Host::spawn(&options);
    let client = host.client();
    let ids = ["text", "file", "env"].map(|key| client.post_event("p", &json!({ "do": "secret", "key": key })));
    for id in &ids {
        client.wait_ended(id);
        assert_silent("GET /events/ID", &client.get(&format!("/events/{id}")).text());
    }
    for path in ["/metrics", "/plugins", "/events", "/failed-events", "/readyz?verbose"] {
        assert_silent(path, &client.get(path).text());
    }
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["export"][..], &["backup", "copy"], &["import", "/nowhere"]] {
        let output = command(folder.path(), arguments).env("EVENTSTREAM_BROKER_URL", &url).output().unwrap();
        let reported = output_text(&output);
        assert!(!reported.is_empty(), "{arguments:?} says something");
        assert_silent(&format!("{arguments:?}"), &reported);
    }
    assert_silent("status", &output_text(&run_command(&["status", "--url", host.url()])));
    // What a guest asks for and is not granted, with a secret in the place.
    for url in ["https://me:Canary-text-2@127.1/", "https://Canary-text-2.example.com/", "https://h/?a=Canary-text-2"] {
        client.wait_ended(&client.post_event("p", &json!({ "do": "http", "http": { "url": url, "method": "GET" } })));
    }
    host.wait_for_output("denied HTTP to");
    host.wait_for_output("[secret text].example.com");
    redis.kill9();
    let said = host.wait_for_output("cannot be reached");
    assert!(said.contains(&format!("redis://***@{address}/0")), "{said}");
    assert_silent("the log and what is announced", &said);
}

#[test]
fn a_copy_of_a_store_holds_no_secret() {
    for broker in [Broker::Embedded, Broker::Redis] {
        let plugins = PluginsDir::scripted(&["p"]).with_settings(
            "p",
            "[secrets]\ntext = \"Canary-text-2\"\nenv = { env = \"A_TOKEN\" }\n\n[limits]\nstate_keys = 17\n",
        );
        let store = broker.start();
        let (mut url, folder) = (store.url(), tempfile::tempdir().unwrap());
        if broker == Broker::Redis {
            store.redis().command::<()>(&["CONFIG", "SET", "requirepass", "Canary-broker-1"]).unwrap();
            url = url.replace("redis://", "redis://:Canary-broker-1@");
        }
        let options = HostOptions::new(&url, plugins.path()).variable("A_TOKEN", "Canary-variable-3");
        let host = Host::spawn(&options.with("retry.max_attempts", 1));
        let client = host.client();
        for key in ["text", "env"] {
            client.wait_ended(&client.post_event("p", &json!({ "do": "secret", "key": key })));
        }
        client.post("{\"type\":\"nobody\",\"payload\":{}}").expect(202);
        for arguments in [&["status"][..], &["status", "--json"], &["plugin", "list"], &["plugin", "list", "--json"]] {
            let reported = output_text(&run_command(&[arguments, &["--url", host.url()]].concat()));
            assert_silent(&format!("{arguments:?}"), &reported);
        }
        assert_silent("what is announced", &host.output());
        let run = |arguments: &[&str]| {
            let output = command(folder.path(), arguments).env("EVENTSTREAM_BROKER_URL", &url).output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", output_text(&output));
            assert_silent(&format!("{arguments:?}"), &output_text(&output));
        };
        run(&["export", "--out", "events.ndjson"]);
        run(&["export", "--out", "again.ndjson", "--json"]);
        if broker == Broker::Embedded {
            run(&["backup", "copy"]);
            run(&["backup", "again", "--json"]);
        }
        let file = plugins.path().join("p.wasm");
        let settings = plugins.path().join("p.toml");
        let [file, settings] = [&file, &settings].map(|path| path.to_str().unwrap());
        for json in [&[][..], &["--json"]] {
            let arguments = [&["plugin", "check", file, "--settings", settings], json].concat();
            let checked = command(folder.path(), &arguments).env("A_TOKEN", "Canary-variable-3").output().unwrap();
            assert!(checked.status.success(), "{checked:?}");
            assert_silent(&format!("{arguments:?}"), &output_text(&checked));
        }
        let copies: usize = assert_files_silent(folder.path());
        assert!(copies >= 2, "{copies} files were read");
    }
}

/// Reads every file below a directory and returns their number.
fn assert_files_silent(directory: &Path) -> usize {
    let mut files = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files += assert_files_silent(&path);
        } else {
            files += 1;
            assert_silent(&path.display().to_string(), &String::from_utf8_lossy(&fs::read(&path).unwrap()));
        }
    }
    files
}

#[test]
fn a_store_that_cannot_be_opened_is_named_without_its_password() {
    let redis = RedisServer::start().unwrap();
    redis.command::<()>(&["CONFIG", "SET", "requirepass", "another"]).unwrap();
    let address = redis.address();
    // Another kind of server, which repeats commands that it does not know.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let echo = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut heard = [0; 4_096];
            while let Ok(n @ 1..) = stream.read(&mut heard) {
                let words = String::from_utf8_lossy(&heard[..n]).replace(['\r', '\n'], " ");
                let said = format!(
                    "-ERR unknown command 'AUTH', with args beginning with: {words}\r\n-ERR what is {words}\r\n"
                );
                if stream.write_all(said.as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    let folder = tempfile::tempdir().unwrap();
    for url in [
        format!("redis://:Canary-1@{address}"),
        format!("redis://:Canary-1@{echo}"),
        "redis://me:Canary-1@127.0.0.1:1".to_owned(),
        "redis://:p@ss/Canary@127.0.0.1:1".to_owned(),
        "redis://:p@Canary/1@127.0.0.1:1".to_owned(),
        "redis://:Canary".to_owned(),
        "redis:me:Canary@127.0.0.1:1".to_owned(),
        "redis://127.0.0.1:1/0?password=Canary".to_owned(),
        "redis://127.0.0.1:1/Canary".to_owned(),
        "rediss://:Canary@127.0.0.1:1".to_owned(),
        "me:Canary@127.0.0.1:1".to_owned(),
        "http://me:Canary@127.0.0.1:1".to_owned(),
    ] {
        for arguments in [&["serve"][..], &["export"], &["backup", "copy"], &["import", "/nowhere"]] {
            let variable = command(folder.path(), arguments).env("EVENTSTREAM_BROKER_URL", &url).output().unwrap();
            assert!(variable.status.code().is_some_and(|code| code > 0), "{url} {arguments:?}");
            assert_silent(&format!("{url} in the variable, {arguments:?}"), &output_text(&variable));
            let flag = command(folder.path(), arguments).args(["--broker", &url]).output().unwrap();
            assert_silent(&format!("{url} as a flag, {arguments:?}"), &output_text(&flag));
        }
    }
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| output_text(&command(folder.path(), arguments).output().unwrap());
    for arguments in [
        &["redis://:Canary@127.0.0.1:1"][..],
        &["serve", "redis://:Canary@127.0.0.1:1"],
        &["serve", "--listen", "redis://:Canary@127.0.0.1:1"],
        &["serve", "--concurrency", "Canary"],
        &["serve", "--config", "redis://:Canary@127.0.0.1:1"],
        &["status", "--url", "http://me:Canary@127.0.0.1:1"],
        &["status", "--url", "https://me:Canary@127.0.0.1:1"],
        &["status", "--url", "http://me:Can ary/Canary@127.0.0.1:1"],
        &["send", "a", "{}", "--url", "me:Canary@127.0.0.1:1"],
        &["backup", "redis://:Canary@127.0.0.1:1"],
        &["backup", "redis://127.0.0.1:1/Canary"],
        &["export", "--out", "redis://127.0.0.1:1/Canary"],
        &["export", "--broker", "embedded:redis://:Canary@127.0.0.1:1"],
        &["import", "redis://127.0.0.1:1/Canary"],
        &["send", "a", "@redis://127.0.0.1:1/Canary"],
        &["serve", "--plugins", "redis://127.0.0.1:1/Canary"],
        &["serve", "--config", "redis://127.0.0.1:1/Canary"],
        &["dev", "redis://127.0.0.1:1/Canary"],
        &["plugin", "check", "redis://127.0.0.1:1/Canary"],
        &["plugin", "run", "a.wasm", "--settings", "redis://127.0.0.1:1/Canary"],
        &["plugin", "build", "redis://127.0.0.1:1/Canary"],
        &["plugin", "new", "a", "--dir", "redis://127.0.0.1:1/Canary"],
        &["status", "redis://127.0.0.1:1/Canary"],
        &["status", "--url=http://127.0.0.1:1/Canary"],
    ] {
        let reported = run(arguments);
        assert!(!reported.is_empty(), "{arguments:?} says something");
        assert_silent(&format!("{arguments:?}"), &reported);
    }
    for address in ["me:Canary@127.0.0.1:1", "redis:/me:Canary@127.0.0.1", "mysql:me:Canary@127.0.0.1"] {
        for arguments in [
            &["serve", "--plugins"][..],
            &["serve", "--config"],
            &["export", "--out"],
            &["import"],
            &["backup"],
            &["dev"],
            &["send", "a", "{}", "--typo"],
            &["plugin", "check"],
            &["plugin", "run"],
            &["plugin", "run", "a.wasm", "--settings"],
            &["plugin", "build"],
            &["plugin", "test"],
            &["plugin", "new"],
            &["plugin", "new", "a", "--dir"],
            &["plugin", "remove"],
            &["failed", "discard"],
        ] {
            let reported = run(&[arguments, &[address]].concat());
            assert!(!reported.is_empty(), "{arguments:?} says something");
            assert_silent(&format!("{arguments:?} {address}"), &reported);
        }
        let variable = command(folder.path(), &["serve"]).env("EVENTSTREAM_PLUGINS_DIR", address).output().unwrap();
        assert_silent(&format!("plugins.dir {address}"), &output_text(&variable));
        let data = command(folder.path(), &["send", "a", &format!("@{address}")]).output().unwrap();
        assert_silent(&format!("@{address}"), &output_text(&data));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "an address becomes no file");
    let plugins = PluginsDir::scripted(&["p"]);
    for settings in [
        "secrets = \"Canary\"",
        "secrets = { a = [\"Canary\"] }",
        "secrets = { a = { value = \"Canary\" } }",
        "secrets = { a = Canary }",
        "secrets = { a = \"Canary }",
        "secret = { a = \"Canary\" }",
        "config = \"Canary\"",
        "config = { a = [\"Canary\"] }",
        "grants.http = [\"https://me:Canary@host\"]",
        "grants.http = [\"https://host/?token=Canary\"]",
        "grants.http = \"https://me:Canary@host\"",
        "grants = { http = [{ url = \"https://me:Canary@host\" }] }",
        "limits = { log_lines = \"Canary\" }",
        "retry = \"Canary\"",
    ] {
        plugins.write("p.toml", settings.as_bytes());
        let arguments = ["plugin", "check", "p.wasm", "--settings", "p.toml"];
        let reported = output_text(&command(plugins.path(), &arguments).output().unwrap());
        assert!(reported.contains("settings"), "{settings}: {reported}");
        assert_silent(settings, &reported);
        let file = plugins.path().join("eventstream.toml");
        fs::write(&file, format!("[plugins.p]\n{settings}\n")).unwrap();
        assert_silent(settings, &run(&["serve", "--listen", "127.0.0.1:0", "--config", file.to_str().unwrap()]));
    }
}

#[test]
fn the_tools_of_a_build_are_told_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let (tools, told) = (folder.path().join("tools"), folder.path().join("told"));
    fs::create_dir(&tools).unwrap();
    for name in ["cargo", "rustc", "componentize-py"] {
        let script = format!("#!/bin/sh\nenv >> {told:?}\necho name={name} >> {told:?}\necho {:?}\n", folder.path());
        fs::write(tools.join(name), script).unwrap();
        fs::set_permissions(tools.join(name), fs::Permissions::from_mode(0o700)).unwrap();
    }
    for (manifest, text, called) in [
        ("Cargo.toml", "[package]\nname = \"a\"\n", &["rustc", "cargo"][..]),
        ("pyproject.toml", "[project]\nname = \"a\"\n", &["componentize-py"]),
    ] {
        let project = tempfile::tempdir().unwrap();
        fs::write(project.path().join(manifest), text).unwrap();
        let mut build = command(project.path(), &["plugin", "build"]);
        build.env("PATH", format!("{}:/usr/bin:/bin", tools.display()));
        build.env("EVENTSTREAM_BROKER_URL", "redis://:Canary-broker-1@127.0.0.1:1");
        build.env("EVENTSTREAM_KEY", "Canary-key-1").env("EVENTSTREAM_KEY_FILE", "/Canary-key-2");
        assert_silent("plugin build", &output_text(&build.output().unwrap()));
        let environment = fs::read_to_string(&told).unwrap();
        for name in called {
            assert!(environment.contains(&format!("name={name}\n")), "{name} was called: {environment}");
        }
        assert_silent("the environment of a tool", &environment);
    }
}

#[test]
fn a_compiler_is_told_no_secret() {
    let stage = Stage::with(Broker::Embedded, PluginsDir::scripted(&["p"]), |options| {
        // The flag --broker comes before the variable, which only has to be there.
        let options = options.variable("A_TOKEN", "Canary-variable-3").variable("EVENTSTREAM_KEY", "Canary-key-4");
        options.with("broker.url", "redis://:Canary-broker-1@127.0.0.1:1")
    });
    let server = fs::read(format!("/proc/{}/environ", stage.host.pid())).unwrap();
    assert!(String::from_utf8_lossy(&server).contains("Canary"), "the server itself has it");
    let guest = fs::read(layout::guest("scripted")).unwrap();
    let (_, compiler) = stopped_compiler(&stage, "x", &guest);
    for file in ["environ", "cmdline"] {
        let reported = fs::read(format!("/proc/{}/{file}", compiler.as_raw_nonzero())).unwrap();
        assert!(!reported.is_empty(), "{file} of the compiler can be read");
        assert_silent(file, &String::from_utf8_lossy(&reported));
    }
    kill_process(compiler, Signal::CONT).unwrap();
    let status: Value = stage.client.get("/plugins").json();
    assert_silent("/plugins", &status.to_string());
}
