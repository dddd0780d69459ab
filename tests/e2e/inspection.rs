//! Looking at a plugin's file grants it nothing. Settings that came with it are ignored, and its texts cannot control a
//! terminal.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Output, Stdio};

use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::{command, run_command};
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

/// A hostile text: a sequence that clears the screen, marks that reverse the text, and a forged line.
const HOSTILE: &str = "x\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\u{2066}\u{200f}\u{2028}\r\n  imports  nothing\nprocessed";

/// Runs a command in a folder with these lines on its standard input.
fn run_in(folder: &Path, arguments: &[&str], lines: &str) -> Output {
    let mut command = command(folder, arguments);
    command.env("CLOUD_TOKEN", "CANARY-variable");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that refuses its arguments does not read its input.
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
    child.wait_with_output().unwrap()
}

fn output_text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[track_caller]
fn assert_printable(what: &str, text: &str) {
    let steers = |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{2066}\u{200f}\u{2028}".contains(c));
    assert!(!text.contains(steers), "{what}: {text:?}");
    let forged = text.lines().filter(|line| *line == "processed" || line.starts_with("  imports  nothing")).count();
    assert_eq!(forged, 0, "{what}: {text}");
}

#[test]
fn settings_that_came_with_a_file_give_it_nothing_unless_they_are_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let plugins = PluginsDir::scripted(&["evil"]);
    let folder = plugins.path();
    fs::write(folder.join("id_ed25519"), "CANARY-private-key\n").unwrap();
    let file = folder.join("id_ed25519");
    let settings = format!(
        "secrets = {{ a = {{ file = {file:?} }}, b = {{ env = \"CLOUD_TOKEN\" }} }}\ngrants.http = [\"{url}\"]\n\
         limits = {{ memory_bytes = \"100MiB\" }}\n"
    );
    let whole: String = settings.lines().map(|line| format!("{line}\n")).collect();
    plugins.write("evil.toml", settings.as_bytes());
    plugins.write("eventstream.toml", format!("[plugins.evil]\n{whole}").as_bytes());

    let request = json!({ "type": "a", "payload": { "do": "http", "http": { "url": url, "method": "GET" } } });
    let secrets = ["a", "b"].map(|key| json!({ "type": "a", "payload": { "do": "secret", "key": key } }).to_string());
    let lines = format!("{}\n{}\n{request}\n", secrets[0], secrets[1]);
    let output = run_in(folder, &["plugin", "run", "evil.wasm"], &lines);
    let outcomes: Vec<Value> =
        String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(output.status.code(), Some(0), "{}", output_text(&output));
    for outcome in &outcomes[..2] {
        assert_eq!(outcome["error"], "the secret is there is none", "{outcome}");
    }
    assert!(outcomes[2].to_string().contains("Denied"), "{}", outcomes[2]);
    assert!(
        output_text(&output).contains("evil.toml is not used; name it with --settings"),
        "{}",
        output_text(&output)
    );

    let output = run_in(folder, &["plugin", "check", "evil.wasm", "--json"], "");
    let facts: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(facts["plugin"]["memoryLimitBytes"], 64 << 20, "{facts}");

    // Settings that are named explicitly are used. The output says what they grant, without the values.
    let answers = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        BufReader::new(&stream).read_line(&mut String::new()).unwrap();
        (&stream).write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
    });
    let output = run_in(folder, &["plugin", "run", "evil.wasm", "--settings", "evil.toml"], &lines);
    answers.join().unwrap();
    let (shown, outcomes) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    for words in ["evil.toml grants the plugin", &url, "id_ed25519", "the variable CLOUD_TOKEN", "memory_bytes"] {
        assert!(shown.contains(words), "{words:?} in {shown}");
    }
    assert!(
        outcomes.contains("[secret a]") && outcomes.contains("[secret b]") && outcomes.contains("204"),
        "{outcomes}"
    );
    assert!(!output_text(&output).contains("CANARY"), "{}", output_text(&output));
}

#[test]
fn what_comes_from_elsewhere_steers_no_terminal_and_forges_no_line() {
    let stage = Stage::with(Broker::Embedded, PluginsDir::scripted(&["p"]), |options| {
        options.with("retry.max_attempts", 1).with("log.format", "text")
    });
    stage.plugins.write(
        "broken.toml",
        format!("\"{}\" = 1", HOSTILE.escape_default().to_string().replace("\\u{", "\\u00").replace('}', ""))
            .as_bytes(),
    );
    let url = ["--url", stage.host.url()];
    let file = stage.plugins.path().join("p.wasm");
    let file = file.to_str().unwrap();
    let reject = json!({ "do": "reject", "message": HOSTILE }).to_string();
    let echo = json!({ "do": "echo", "key": HOSTILE }).to_string();
    // The same value with the characters themselves and with line ends.
    let raw = "{\"do\":\"echo\",\n\"key\":\n\"\u{202e}\u{9b}31m\"\n}".to_owned();
    let trap = json!({ "do": "trap", "message": HOSTILE }).to_string();
    let hostile_file = format!("/nowhere/{HOSTILE}.wasm");
    let event = |payload: &str| format!("{{\"type\":\"a\",\"payload\":{}}}\n", payload.replace('\n', " "));
    let wrong = format!("{{\"type\":\"a\",{}:1}}\n", json!(HOSTILE));
    let run = |lines: &str| run_in(stage.plugins.path(), &["plugin", "run", file], lines);
    let send = |payload: &str| run_command(&[&["send", "p", payload, "--wait"][..], &url].concat());
    for (what, output) in [
        ("check of a file's name", run_command(&["plugin", "check", &hostile_file])),
        ("check of a file's name, as JSON", run_command(&["plugin", "check", &hostile_file, "--json"])),
        ("run of a file's name", run_command(&["plugin", "run", &hostile_file])),
        ("run, a reason", run(&event(&reject))),
        ("run, a result", run(&event(&raw))),
        ("run, a panic", run(&event(&trap))),
        ("run, a line that is no event", run(&wrong)),
        ("send, a reason", send(&reject)),
        ("send, a result", send(&echo)),
        ("send, a result as it was written", send(&raw)),
        ("send, a panic", send(&trap)),
        ("send, a type", run_command(&[&["send", HOSTILE, "{}"][..], &url].concat())),
        (
            "send, a file that is not there",
            run_command(&[&["send", "p", &format!("@/nowhere/{HOSTILE}")][..], &url].concat()),
        ),
        ("send --json", run_command(&[&["send", "p", &raw, "--wait", "--json"][..], &url].concat())),
        ("plugin list", run_command(&[&["plugin", "list"][..], &url].concat())),
        ("plugin list --json", run_command(&[&["plugin", "list", "--json"][..], &url].concat())),
        ("status", run_command(&[&["status"][..], &url].concat())),
        ("a setting", run_command(&["serve", "--listen", HOSTILE])),
        ("a configuration file", run_command(&["serve", "--config", &hostile_file])),
        ("a command", run_command(&[HOSTILE])),
        ("a flag", run_command(&["status", &format!("--{HOSTILE}")])),
        ("a store", run_command(&["export", "--broker", &format!("embedded:/nowhere/{HOSTILE}")])),
        ("a project", run_command(&["plugin", "build", &format!("/nowhere/{HOSTILE}")])),
    ] {
        assert!(!output.stdout.is_empty() || !output.stderr.is_empty(), "{what} says something");
        assert_printable(what, &output_text(&output));
    }
    assert_printable("the log", &stage.host.wait_for_output("reject"));
}
