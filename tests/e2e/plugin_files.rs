//! `plugin check`, `run` and `list` with the real binary: what a file is, how its events end, and what a server shows
//! of it.

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::run_command;
use eventstream_tests::layout;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::Value;

/// Runs a component with these lines on its standard input.
fn run_plugin(file: &str, arguments: &[&str], lines: &str) -> Output {
    let mut command = Command::new(layout::binary());
    command.args(["plugin", "run", file]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn outcomes(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_plugin_is_told_with_what_it_is() {
    let file = layout::example_plugin("payment");
    let output = run_command(&["plugin", "check", file.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let reported: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(reported["plugin"]["types"][0], "payment.requested");
    assert_eq!(reported["plugin"]["dialect"], "eventstream:plugin/handler@0.1.0");
    assert_eq!(reported["plugin"]["sizeBytes"], fs::metadata(&file).unwrap().len());
    assert_eq!(reported["plugin"]["digest"].as_str().unwrap().len(), 64);
    let shown = run_command(&["plugin", "check", file.to_str().unwrap()]);
    assert!(text(&shown.stdout).contains("payment.requested"), "{}", text(&shown.stdout));
}

#[test]
fn what_is_no_plugin_is_told_in_the_words_of_a_server_with_code_4() {
    let component = fs::read(layout::example_plugin("payment")).unwrap();
    let plugins = PluginsDir::empty();
    plugins.write("core.wasm", b"\0asm\x01\0\0\0");
    plugins.write("torn.wasm", &component[..component.len() / 2]);
    plugins.write("text.wasm", b"hello");
    // An empty component.
    plugins.write("empty.wasm", b"\0asm\x0d\0\x01\0");
    let words = ["without a component type", "cut short or damaged", "not WebAssembly", "does not export"];
    let names = ["core", "torn", "text", "empty"];
    let mut reported = Vec::new();
    for (name, words) in names.iter().zip(words) {
        let file = plugins.path().join(format!("{name}.wasm"));
        let output = run_command(&["plugin", "check", file.to_str().unwrap(), "--json"]);
        assert_eq!(output.status.code(), Some(4), "{name}: {}", text(&output.stderr));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let error = answer["error"].as_str().unwrap().to_owned();
        assert!(error.contains(words), "{name}: {error}");
        reported.push(error);
    }
    let stage = Stage::with(Broker::Embedded, plugins, |options| options);
    let listed = run_command(&["plugin", "list", "--url", stage.host.url()]);
    assert_eq!(listed.status.code(), Some(0), "{}", text(&listed.stderr));
    for error in reported {
        assert!(text(&listed.stdout).contains(&error), "{} lacks {error:?}", text(&listed.stdout));
    }
}

#[test]
fn a_file_that_is_not_there_is_a_wrong_command_line() {
    let output = run_command(&["plugin", "check", "/nowhere/a.wasm"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
}

#[test]
fn events_are_handled_without_a_server_and_told_with_their_effects() {
    let file = layout::example_plugin("user-signup");
    let lines = "{\"type\":\"USER_SIGNUP\",\"payload\":{\"name\":\"Ada\",\"email\":\"ada@example.com\"}}\n\n\
                 {\"type\":\"USER_SIGNUP\",\"payload\":{}}\n";
    let output = run_plugin(file.to_str().unwrap(), &[], lines);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let outcomes = outcomes(&output);
    assert_eq!(outcomes.len(), 2);
    assert_eq!(outcomes[0]["outcome"], "processed", "{}", outcomes[0]);
    assert_eq!(outcomes[0]["published"][0]["type"], "user.welcome");
    assert_eq!((&outcomes[1]["outcome"], &outcomes[1]["class"]), (&"failed".into(), &"reject".into()));
}

#[test]
fn the_attempt_is_the_one_that_was_asked_for() {
    let file = layout::example_plugin("payment");
    let line = "{\"type\":\"payment.requested\",\"payload\":{\"order\":\"A-1\",\"amountCents\":1999,\
                \"currency\":\"EUR\",\"card\":\"tok_provider_flaky\"}}\n";
    let first = outcomes(&run_plugin(file.to_str().unwrap(), &[], line)).remove(0);
    assert_eq!((&first["outcome"], &first["retryInMs"]), (&"retry".into(), &500.into()), "{first}");
    let third = outcomes(&run_plugin(file.to_str().unwrap(), &["--attempt", "3"], line)).remove(0);
    assert_eq!((&third["outcome"], &third["attempt"]), (&"processed".into(), &3.into()), "{third}");
}

#[test]
fn a_line_that_is_no_event_is_named_and_the_others_are_handled() {
    let file = layout::example_plugin("user-signup");
    let lines = "{\"type\":\"a\"}\n{\"typ\":\"a\"}\n[]\n{\"type\":\"a\"}";
    let output = run_plugin(file.to_str().unwrap(), &[], lines);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(outcomes(&output).len(), 2);
    let errors = text(&output.stderr);
    assert!(errors.contains("line 2: /typ") && errors.contains("line 3:"), "{errors}");
}
