//! A build that takes types from another plugin waits for approval. With `plugins.hold_new_capabilities` a build that
//! imports more than the active version waits as well.

use std::path::Path;

use eventstream_tests::client::Client;
use eventstream_tests::guests::{PluginsDir, digest};
use eventstream_tests::host::{Host, HostOptions, run_command};
use eventstream_tests::layout;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

/// A build that imports only plugin state, and one that imports everything, each with its digest.
fn builds() -> [(Vec<u8>, String); 2] {
    ["keyvalue", "scripted"].map(|guest| {
        let build = std::fs::read(layout::guest(guest)).unwrap();
        let digest = digest(&build);
        (build, digest)
    })
}

fn holding(options: HostOptions, kept: &Path) -> HostOptions {
    options.with("plugins.data_dir", kept.join("plugins").display()).with("plugins.hold_new_capabilities", true)
}

#[track_caller]
fn digest_that_ran(client: &Client) -> Option<String> {
    client.wait_ended(&client.post_event("work", &json!({}))).attempts[0].digest.clone()
}

#[track_caller]
fn wait_held(client: &Client, build: &str) -> Value {
    client.wait_for_plugin("work", "the new build is held", |status| {
        (status["state"] == "needs-approval" && status["needsApproval"]["digest"] == build).then(|| status.clone())
    })
}

/// The output of a command of the host. It must end with this exit code.
#[track_caller]
fn run_and_expect(host: &Host, arguments: &[&str], code: i32) -> String {
    let output = run_command(&[arguments, &["--url", host.url()]].concat());
    let text = if code == 0 { &output.stdout } else { &output.stderr };
    let text = String::from_utf8_lossy(text).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn a_build_that_imports_more_waits_until_it_is_approved_and_a_restart_changes_nothing() {
    let [(first_build, first), (second_build, second)] = builds();
    let (kept, plugins) = (tempfile::tempdir().unwrap(), PluginsDir::empty());
    plugins.write("work.wasm", &first_build);
    let mut stage = Stage::with(Broker::Embedded, plugins, |options| holding(options, kept.path()));
    assert_eq!(digest_that_ran(&stage.client), Some(first.clone()), "the first build needs no approval");
    let nothing = run_and_expect(&stage.host, &["plugin", "approve", "work"], 1);
    assert!(nothing.contains("no build of \"work\" waits"), "{nothing}");

    stage.plugins.write("work.wasm", &second_build);
    let held = wait_held(&stage.client, &second);
    assert_eq!(held["digest"], json!(first));
    let imports = held["needsApproval"]["imports"].as_array().unwrap();
    assert!(imports.contains(&json!("wasi:http/outgoing-handler")), "{held}");
    assert_eq!(digest_that_ran(&stage.client), Some(first.clone()), "the old one serves");

    stage.host.kill9();
    stage.replace_host(|options| holding(options, kept.path()));
    wait_held(&stage.client, &second);
    assert_eq!(digest_that_ran(&stage.client), Some(first.clone()), "after a restart too");
    let remedy = "eventstream plugin approve work";
    let listed = run_and_expect(&stage.host, &["plugin", "list"], 0);
    for words in ["needs-approval", "wasi:http/outgoing-handler", remedy] {
        assert!(listed.contains(words), "{listed} says {words}");
    }
    let log = stage.host.wait_for_output("plugin held");
    assert!(log.contains(remedy), "{log}");

    let other = stage.client.request("POST", &format!("/plugins/work/approve?digest={first}"), &[], Some(b""));
    assert_eq!(other.unwrap().expect(409).json()["type"], "/problems/not-approved");
    let other = run_and_expect(&stage.host, &["plugin", "approve", "work", "--digest", &first], 1);
    assert!(other.contains("waits to be approved is"), "{other}");
    run_and_expect(&stage.host, &["plugin", "approve", "none"], 1);
    run_and_expect(&stage.host, &["plugin", "approve", "work", "--digest", "abc"], 2);

    let approved = run_and_expect(&stage.host, &["plugin", "approve", "work"], 0);
    assert!(approved.starts_with(&format!("work is active at {}", &second[..12])), "{approved}");
    assert_eq!(digest_that_ran(&stage.client), Some(second.clone()));
    stage.host.kill9();
    stage.replace_host(|options| holding(options, kept.path()));
    stage.client.wait_for_version("work", &second);
    assert_eq!(digest_that_ran(&stage.client), Some(second));
}

#[test]
fn a_file_that_takes_types_from_a_plugin_waits_until_the_very_build_is_approved() {
    let kept = tempfile::tempdir().unwrap();
    let plugins = PluginsDir::scripted(&["orders"]).with_settings("orders", "types = ['order.*']");
    let options = |options: HostOptions| options.with("plugins.data_dir", kept.path().join("plugins").display());
    let mut stage = Stage::with(Broker::Embedded, plugins, options);
    let handled_by = |client: &Client| {
        client.wait_ended(&client.post_event("order.paid", &json!({}))).attempts[0].plugin.clone().unwrap_or_default()
    };
    assert_eq!(handled_by(&stage.client), "orders");
    let [_, (build, wanted)] = builds();
    stage.plugins.write("order.paid.wasm", &build);
    let held = |client: &Client| {
        client.wait_for_plugin("order.paid", "it is held", |status| {
            (status["state"] == "needs-approval").then(|| status["needsApproval"].clone())
        })
    };
    let waiting = held(&stage.client);
    let takes = json!([{ "types": "order.paid", "plugin": "orders" }]);
    assert_eq!((&waiting["digest"], &waiting["takes"]), (&json!(wanted), &takes));
    assert_eq!(handled_by(&stage.client), "orders");
    let listed = run_and_expect(&stage.host, &["plugin", "list"], 0);
    assert!(listed.contains("takes order.paid from the plugin \"orders\"") && listed.contains(&wanted), "{listed}");
    stage.host.kill9();
    stage.replace_host(options);
    held(&stage.client);
    assert_eq!(handled_by(&stage.client), "orders", "after a restart too");

    let unnamed = stage.client.request("POST", "/plugins/order.paid/approve", &[], Some(b""));
    let detail = unnamed.unwrap().expect(400).json()["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains(&format!("/plugins/order.paid/approve?digest={wanted}")), "{detail}");
    let approved = run_and_expect(&stage.host, &["plugin", "approve", "order.paid"], 0);
    for words in [format!("digest   {wanted}"), "takes    order.paid from orders".to_owned()] {
        assert!(approved.contains(&words), "{approved} says {words}");
    }
    assert_eq!(handled_by(&stage.client), "order.paid");
    stage.host.kill9();
    stage.replace_host(options);
    assert_eq!(handled_by(&stage.client), "order.paid", "after a restart too");
}

/// A plugin `owner` for `order.*`, and beside it one for the same types and one for some of them.
fn with_rivals(kept: &Path) -> (Stage, impl Fn(HostOptions) -> HostOptions + Copy + use<'_>) {
    let plugins = PluginsDir::scripted(&["owner"]).with_settings("owner", "types = ['order.*']");
    let options = |options: HostOptions| {
        options.with("plugins.data_dir", kept.join("plugins").display()).with("plugins.settle_ms", 50)
    };
    let stage = Stage::with(Broker::Embedded, plugins, options);
    stage.client.wait_for_plugin("owner", "it serves", |status| (status["state"] == "active").then_some(()));
    for (name, types) in [("same", "order.*"), ("some", "order.paid")] {
        stage.plugins.write(&format!("{name}.toml"), format!("types = ['{types}']").as_bytes());
        stage.plugins.write(&format!("{name}.wasm"), &builds()[1].0);
        stage.client.wait_for_plugin(name, "it may not serve", |status| status["error"].as_str().map(drop));
    }
    (stage, options)
}

#[track_caller]
fn wait_state(client: &Client, name: &str, state: &str) {
    client.wait_for_plugin(name, state, |status| (status["state"] == state).then_some(()));
}

#[test]
fn nobody_takes_the_types_of_a_plugin_while_its_file_is_replaced() {
    let kept = tempfile::tempdir().unwrap();
    let (stage, _) = with_rivals(kept.path());
    let handled_by = |event_type: &str| {
        stage.client.wait_ended(&stage.client.post_event(event_type, &json!({}))).attempts[0].plugin.clone()
    };
    stage.plugins.remove("owner");
    wait_state(&stage.client, "owner", "removed");
    for name in ["same", "some"] {
        wait_state(&stage.client, name, "needs-approval");
    }
    stage.plugins.write("owner.wasm", &builds()[1].0);
    wait_state(&stage.client, "owner", "active");
    assert_eq!((handled_by("order.paid").as_deref(), handled_by("order.x").as_deref()), (Some("owner"), Some("owner")));

    // A person decides, also on a plugin whose file went.
    stage.plugins.remove("owner");
    wait_state(&stage.client, "owner", "removed");
    let removed = run_and_expect(&stage.host, &["plugin", "remove", "owner"], 0);
    assert!(removed.contains("owner is removed"), "{removed}");
    wait_state(&stage.client, "same", "active");
    assert_eq!(handled_by("order.x").as_deref(), Some("same"));
}

#[test]
fn nobody_takes_the_types_of_a_plugin_that_cannot_be_loaded_at_a_restart() {
    let kept = tempfile::tempdir().unwrap();
    let (mut stage, options) = with_rivals(kept.path());
    stage.host.kill9();
    stage.plugins.write("owner.toml", b"concurency = 1");
    stage.replace_host(options);
    wait_state(&stage.client, "owner", "failed");
    for name in ["same", "some"] {
        wait_state(&stage.client, name, "needs-approval");
    }
    let id = stage.client.post_event("order.paid", &json!({}));
    stage.plugins.write("owner.toml", b"types = ['order.*']");
    let event = stage.client.wait_for(&id, &["processed"]);
    assert_eq!(event.attempts.last().and_then(|attempt| attempt.plugin.as_deref()), Some("owner"));
}

#[test]
fn no_file_of_the_first_start_waits_whichever_is_loaded_first() {
    for late in ["orders", "paid"] {
        let kept = tempfile::tempdir().unwrap();
        let secret = kept.path().join("secret");
        let plugins = PluginsDir::scripted(&["orders", "paid"]);
        for (name, types) in [("orders", "order.*"), ("paid", "order.paid")] {
            // A plugin whose secret cannot be read is loaded later.
            let more =
                if name == late { format!("secrets = {{ token = {{ file = {secret:?} }} }}") } else { String::new() };
            plugins.write(&format!("{name}.toml"), format!("types = ['{types}']\n{more}").as_bytes());
        }
        let stage = Stage::with(Broker::Embedded, plugins, |options| {
            options.with("plugins.data_dir", kept.path().join("plugins").display()).with("plugins.rescan_ms", 100)
        });
        wait_state(&stage.client, late, "failed");
        std::fs::write(&secret, "a long secret").unwrap();
        wait_state(&stage.client, late, "active");
        let event = stage.client.wait_ended(&stage.client.post_event("order.paid", &json!({})));
        assert_eq!(event.attempts[0].plugin.as_deref(), Some("paid"), "{late} was loaded last");
    }
}

#[test]
fn a_server_that_could_not_remember_what_was_approved_does_not_start() {
    let plugins = PluginsDir::empty();
    let store = Broker::Embedded.start();
    let options = HostOptions::new(&store.url(), plugins.path()).with("plugins.hold_new_capabilities", true);
    let file = plugins.path().join("file");
    std::fs::write(&file, "").unwrap();
    for data_dir in ["", file.to_str().unwrap()] {
        let exited = Host::try_spawn(&options.clone().with("plugins.data_dir", data_dir)).err().unwrap();
        assert_eq!(exited.status.code(), Some(2), "{}", exited.output);
        assert!(exited.output.contains("needs a plugins.data_dir") || exited.output.contains("needs plugins.data_dir"));
    }
}
