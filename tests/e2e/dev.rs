//! `eventstream dev`: a saved project is built and serves. A project that does not build changes nothing. The end of
//! each event is printed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventstream_tests::client::Client;
use eventstream_tests::eventually::{eventually, eventually_within};
use eventstream_tests::host::{command, run_command};
use serde_json::json;

/// The toolchain builds a project and all that it depends on.
const BUILT_WITHIN: Duration = Duration::from_secs(300);

/// A running `dev`, killed when this is dropped.
struct Dev {
    child: Child,
    reported: Arc<Mutex<String>>,
}

impl Dev {
    fn reported(&self) -> String {
        self.reported.lock().unwrap().clone()
    }

    fn client(&self) -> Client {
        let url = eventually_within(BUILT_WITHIN, "it listens", || {
            let reported = self.reported();
            let url = reported.lines().find_map(|line| line.strip_prefix("listening on ")).map(str::to_owned);
            url.ok_or(reported)
        });
        Client::new(&url)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_is_saved_serves_and_what_does_not_build_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let made = command(folder.path(), &["plugin", "new", "hello"]).output().unwrap();
    assert!(made.status.success());
    let mut dev = command(folder.path(), &["dev", "hello", "--listen", "127.0.0.1:0"]);
    let mut child = dev.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let reported = Arc::new(Mutex::new(String::new()));
    let streams: [Box<dyn std::io::Read + Send>; 2] =
        [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
    for stream in streams {
        let reported = reported.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                reported.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
    }
    let dev = Dev { child, reported };
    let client = dev.client();
    let answer = || {
        let id = client.post_event("hello", &json!({"name": "Ada"}));
        client.wait_ended(&id).result.map(|result| result.get().to_owned()).unwrap_or_default()
    };
    assert_eq!(answer(), r#"{"text":"Hello, Ada!"}"#);
    eventually("the end is reported", || {
        let reported = dev.reported();
        if reported.contains("processed hello ") && reported.contains(r#"{"text":"Hello, Ada!"}"#) {
            Ok(())
        } else {
            Err(reported)
        }
    });
    client.wait_ended(&client.post_event("hello", &json!({})));
    eventually("the failure is reported", || {
        let reported = dev.reported();
        if reported.contains("failed    hello ") && reported.contains("reject: the payload is wrong") {
            Ok(())
        } else {
            Err(reported)
        }
    });

    let source = folder.path().join("hello/src/lib.rs");
    let text = fs::read_to_string(&source).unwrap();
    fs::write(&source, "fn handle(").unwrap();
    eventually_within(BUILT_WITHIN, "the error is reported", || {
        let reported = dev.reported();
        if reported.contains("the version before stays") { Ok(()) } else { Err(reported) }
    });
    assert_eq!(answer(), r#"{"text":"Hello, Ada!"}"#);
    fs::write(&source, text.replace("\"Hello\"", "\"Good day\"")).unwrap();
    eventually_within(BUILT_WITHIN, "what was saved serves", || {
        let answer = answer();
        if answer == r#"{"text":"Good day, Ada!"}"# { Ok(()) } else { Err(format!("{answer}\n{}", dev.reported())) }
    });
}

#[test]
fn a_folder_without_a_project_is_told() {
    let output = run_command(&["dev"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("make one with eventstream plugin new"));
}
