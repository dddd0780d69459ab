//! Output that was asked for and cannot be written is a failure. Messages that cannot be written do not change an exit
//! code.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::process::Stdio;

use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::{command, run_command};
use eventstream_tests::layout;
use eventstream_tests::stage::{Broker, Stage};

/// A file that cannot be written to, as on a full disk.
fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// A pipe whose reader is gone.
fn abandoned() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    let stage = Stage::scripted(Broker::Embedded, &["p"]);
    let (url, folder) = (stage.host.url(), tempfile::tempdir().unwrap());
    let wasm = layout::example_plugin("payment");
    let wasm = wasm.to_str().unwrap();
    for arguments in [
        &["status", "--url", url][..],
        &["status", "--json", "--url", url],
        &["plugin", "list", "--url", url],
        &["plugin", "list", "--json", "--url", url],
        &["send", "p", "{}", "--url", url],
        &["send", "p", "{}", "--wait", "--json", "--url", url],
        &["plugin", "check", wasm],
        &["plugin", "check", wasm, "--json"],
        &["--help"],
        &["send", "--help"],
        &["--version"],
    ] {
        let output = command(folder.path(), arguments).stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?} > /dev/full: {said}");
        assert!(said.contains("standard output cannot be written"), "{arguments:?}: {said}");
        let output = command(folder.path(), arguments).stdout(abandoned()).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.as_str()), (Some(1), ""), "{arguments:?}, a reader that went away");
    }
}

#[test]
fn words_that_nobody_takes_change_no_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, code) in [
        (&["status", "--url", "http://127.0.0.1:1"][..], 3),
        (&["serve", "--listen", "x"], 2),
        (&["serve", "--no-such-flag"], 2),
        (&["send", "a", "nope"], 2),
        (&["export", "--broker", "embedded:/nowhere"], 3),
        (&["export", "--broker", "embedded:/dev/null"], 2),
        (&["backup", "copy", "--broker", "embedded:/dev/null"], 2),
        (&["plugin", "check", "/nowhere.wasm"], 2),
        (&["plugin", "run", "/nowhere.wasm"], 2),
    ] {
        let run =
            |stderr: Stdio| command(folder.path(), arguments).stdout(Stdio::null()).stderr(stderr).status().unwrap();
        assert_eq!(run(full().into()).code(), Some(code), "{arguments:?} 2> /dev/full");
        assert_eq!(run(abandoned()).code(), Some(code), "{arguments:?}, standard error without a reader");
        let usual = command(folder.path(), arguments).output().unwrap();
        assert_eq!(usual.status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&usual.stderr));
    }
}

#[test]
fn a_filter_ends_with_its_reader_and_bounds_its_lines() {
    let plugins = PluginsDir::scripted(&["p"]);
    let mut run = command(plugins.path(), &["plugin", "run", "p.wasm"]);
    run.stdin(Stdio::piped()).stdout(abandoned()).stderr(Stdio::piped());
    let mut child = run.spawn().unwrap();
    // Its standard input stays open, and it ends anyway.
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"{\"type\":\"a\",\"payload\":{}}\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    drop(input);

    let mut run = command(plugins.path(), &["plugin", "run", "p.wasm"]);
    run.env("EVENTSTREAM_SERVER_MAX_BODY_BYTES", "300000");
    let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let long = vec![b'x'; 300_001];
    let lines = [&long[..], b"\n{\"type\":\"a\",\"payload\":{}}\n", &long, &long].concat();
    input.write_all(&lines).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1, "{said}");
    assert!(said.contains("line 1: more than 300000 bytes") && said.contains("line 3: more than"), "{said}");
}

#[test]
fn data_that_is_piped_in_without_an_end_is_refused() {
    let output = run_command(&["send", "a", "@/dev/zero"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}
