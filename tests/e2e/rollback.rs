//! An earlier version is rolled back to by HTTP and by the command line, and stays active after a restart.

use std::fs;

use eventstream_tests::client::Client;
use eventstream_tests::guests::{PluginsDir, digest, two_builds};
use eventstream_tests::host::run_command;
use eventstream_tests::layout;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

on_both_brokers! {
    a_plugin_goes_back_at_once_and_stays_there_until_its_file_is_another,
}

fn digest_that_ran(client: &Client) -> String {
    let event = client.wait_ended(&client.post_event("work", &json!({})));
    assert_eq!(event.state, "processed", "{event:?}");
    event.attempts[0].digest.clone().unwrap()
}

fn a_plugin_goes_back_at_once_and_stays_there_until_its_file_is_another(broker: Broker) {
    let [(first_build, first), (second_build, second)] = two_builds();
    let kept = tempfile::tempdir().unwrap();
    let dir = kept.path().join("plugins");
    let plugins = PluginsDir::empty();
    plugins.write("work.wasm", &first_build);
    let mut stage = Stage::with(broker, plugins, |options| options.with("plugins.data_dir", dir.display()));
    let refused = stage.client.roll_back("work").expect(409);
    assert_eq!(refused.header("content-type"), "application/problem+json");
    assert_eq!(refused.json()["type"], "/problems/not-rolled-back");
    assert_eq!(stage.client.roll_back("none").expect(404).json()["type"], "/problems/not-found");

    stage.plugins.write("work.wasm", &second_build);
    stage.client.wait_for_version("work", &second);
    let back = stage.client.roll_back("work").expect(200).json();
    let shown = |status: &Value| [&status["state"], &status["digest"], &status["rolledBackFrom"]].map(Value::clone);
    assert_eq!(shown(&back), [json!("active"), json!(first), json!(second)]);
    assert_eq!(digest_that_ran(&stage.client), first);
    stage.client.roll_back("work").expect(409);

    stage.host.kill9();
    // Too little time to compile anything.
    stage.replace_host(|options| options.with("plugins.data_dir", dir.display()).with("plugins.compile_wall_ms", 10));
    assert_eq!(shown(&stage.client.get("/plugins/work").expect(200).json()), shown(&back));
    assert_eq!(digest_that_ran(&stage.client), first);
    let listed = run_command(&["plugin", "list", "--url", stage.host.url()]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains(&format!("rolled back from {}", &second[..12])), "{listed}");

    // A new file that cannot be loaded ends the rollback. Then the second build is loaded again.
    stage.plugins.write("work.wasm", b"spoiled");
    stage.client.wait_for_plugin("work", "the spoiled file is reported", |status| status["error"].as_str().map(drop));
    assert_eq!(digest_that_ran(&stage.client), first);
    stage.plugins.write("work.wasm", &second_build);
    stage.client.wait_for_version("work", &second);
    let reported = run_command(&["plugin", "rollback", "work", "--url", stage.host.url()]);
    let words = String::from_utf8_lossy(&reported.stdout).into_owned();
    assert_eq!(words.trim(), format!("work is back at {}, from {}", &first[..12], &second[..12]));
    assert_eq!(digest_that_ran(&stage.client), first);
}

#[test]
fn a_rollback_to_a_type_that_another_plugin_has_by_now_is_refused_and_a_restart_changes_nothing() {
    let first = fs::read(layout::example_plugin("user-signup")).unwrap();
    let (old, new) = (b"USER_SIGNUP", b"USER_ENTERS");
    let at = first.windows(old.len()).position(|text| text == old).unwrap();
    let mut second = first.clone();
    second[at..at + new.len()].copy_from_slice(new);
    let (kept, plugins) = (tempfile::tempdir().unwrap(), PluginsDir::empty());
    plugins.write("signup.wasm", &first);
    let dir = kept.path().join("plugins");
    let mut stage = Stage::with(Broker::Embedded, plugins, |options| options.with("plugins.data_dir", dir.display()));
    let second_digest = digest(&second);
    stage.plugins.write("signup.wasm", &second);
    stage.client.wait_for_version("signup", &second_digest);
    stage.plugins.put("USER_SIGNUP", &layout::guest("scripted"));
    stage.client.wait_for_plugin("USER_SIGNUP", "it serves", |status| status["digest"].as_str().map(drop));

    let reported = run_command(&["plugin", "rollback", "signup", "--url", stage.host.url()]);
    let words = String::from_utf8_lossy(&reported.stderr).into_owned();
    assert_eq!(reported.status.code(), Some(1), "{words}");
    assert!(words.contains("USER_SIGNUP belongs to the plugin \"USER_SIGNUP\""), "{words}");
    assert_eq!(stage.client.roll_back("signup").expect(409).json()["type"], "/problems/not-rolled-back");
    stage.host.kill9();
    stage.replace_host(|options| options.with("plugins.data_dir", dir.display()));
    let status = stage.client.get("/plugins/signup").expect(200).json();
    assert_eq!(
        [&status["state"], &status["digest"], &status["types"], &status["rolledBackFrom"]],
        [&json!("active"), &json!(second_digest), &json!(["USER_ENTERS"]), &Value::Null]
    );
}

#[test]
fn the_command_line_says_why_nothing_was_rolled_back() {
    let stage = Stage::scripted(Broker::Embedded, &["work"]);
    for (name, code, words) in
        [("work", 1, "served before this one"), ("none", 1, "there is no plugin"), ("../x", 2, "plugin's name")]
    {
        let reported = run_command(&["plugin", "rollback", name, "--url", stage.host.url()]);
        let complaint = String::from_utf8_lossy(&reported.stderr).into_owned();
        assert!(reported.status.code() == Some(code) && complaint.contains(words), "{name}: {complaint}");
    }
}
