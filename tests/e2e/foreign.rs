//! Unmodified handlers for other hosts: what each learns of an event, what it sends, and what its answers mean.

use std::path::PathBuf;

use eventstream_tests::client::Event;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::layout;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::json;

on_both_brokers! {
    a_handler_of_wasi_messaging_runs_unmodified,
    a_handler_of_wasmcloud_runs_unmodified,
    a_handler_of_spins_own_sdk_runs_unmodified,
    a_handler_of_http_requests_runs_unmodified,
}

fn stage(broker: Broker, component: PathBuf, settings: &str) -> Stage {
    let plugins = PluginsDir::empty().with_settings("p", settings);
    plugins.put("p", &component);
    Stage::with(broker, plugins, |options| options.with("retry.max_attempts", 2).with("retry.initial_ms", 1))
}

#[track_caller]
fn ended(stage: &Stage, payload: &str) -> Event {
    let body = json!({"type": "p", "subject": "s", "payload": payload});
    let answer = stage.client.post(&body.to_string()).expect(202).json();
    stage.client.wait_ended(answer["eventId"].as_str().unwrap())
}

#[track_caller]
fn processed(stage: &Stage, payload: &str) -> Event {
    let event = ended(stage, payload);
    assert_eq!(event.state, "processed", "{payload}: {event:?}");
    event
}

#[track_caller]
fn fails(stage: &Stage, payload: &str, class: &str, words: &str, attempts: usize) -> Event {
    let event = ended(stage, payload);
    assert_eq!((event.state.as_str(), event.class.as_deref()), ("failed", Some(class)), "{payload}: {event:?}");
    assert!(event.reason.as_ref().unwrap().contains(words), "{payload}: {event:?} says {words:?}");
    assert_eq!(event.attempts.len(), attempts, "{payload}: {event:?}");
    event
}

#[track_caller]
fn speaks(stage: &Stage, dialect: &str) {
    assert_eq!(stage.client.get("/plugins/p").expect(200).json()["dialect"], dialect);
}

/// The only event that another one caused.
#[track_caller]
fn child(stage: &Stage, event: &Event) -> serde_json::Value {
    let reported = stage.client.get(&format!("/events/{}", event.id)).expect(200).json();
    let [child] = &reported["children"].as_array().unwrap()[..] else { panic!("one child: {reported}") };
    let id = child.as_str().or_else(|| child["id"].as_str()).unwrap();
    stage.client.get(&format!("/events/{id}")).expect(200).json()
}

fn a_handler_of_wasi_messaging_runs_unmodified(broker: Broker) {
    let stage = stage(broker, layout::guest("wasi-messaging"), "");
    speaks(&stage, "wasi:messaging/incoming-handler@0.2.0-draft");
    processed(&stage, "ok");
    let sent = child(&stage, &processed(&stage, "send [1]"));
    assert_eq!((&sent["type"], &sent["payload"], &sent["subject"]), (&"child".into(), &json!([1]), &"s".into()));
    let facts = processed(&stage, "facts");
    let reported = child(&stage, &facts)["payload"].as_str().unwrap().to_owned();
    for line in ["topic=Some(\"p\")", "type=Some(\"application/json\")", "ce-type=p", "ce-subject=s"] {
        assert!(reported.lines().any(|reported| reported == line), "{reported} says {line}");
    }
    assert!(reported.contains(&format!("ce-id={}", facts.id)), "{reported}");

    fails(&stage, "timeout", "retry", "returned a timeout", 2);
    fails(&stage, "connection the provider is down", "retry", "the provider is down", 2);
    fails(&stage, "other why", "retry", "why", 2);
    fails(&stage, "denied not yours", "reject", "not yours", 1);
    fails(&stage, "reply", "retry", "not offered", 2);
    fails(&stage, "invalid", "output", "a publish was refused", 1);
    fails(&stage, "hoard", "limit", "handles", 2);
    fails(&stage, "panic no such user", "trap", "no such user", 2);
}

fn a_handler_of_wasmcloud_runs_unmodified(broker: Broker) {
    let stage = stage(broker, layout::guest("wasmcloud-messaging"), "");
    speaks(&stage, "wasmcloud:messaging/handler@0.2.0");
    processed(&stage, "ok");
    let published = child(&stage, &processed(&stage, "publish [1]"));
    assert_eq!((&published["type"], &published["payload"]), (&"child".into(), &json!([1])));
    assert_eq!(child(&stage, &processed(&stage, "facts"))["payload"], "\"p\" None");

    fails(&stage, "error not now", "retry", "not now", 2);
    fails(&stage, "request x", "retry", "request is not offered", 2);
    fails(&stage, "reply x", "output", "reply-to is not offered", 1);
    fails(&stage, "panic no such user", "trap", "no such user", 2);
}

fn a_handler_of_spins_own_sdk_runs_unmodified(broker: Broker) {
    let stage = stage(broker, layout::core_guest("spin-redis"), "config = { greeting = \"hello\" }");
    speaks(&stage, "fermyon:spin/inbound-redis");
    processed(&stage, "ok");
    let printed = processed(&stage, "print a line");
    assert_eq!(log(&stage, &printed), ["a line"]);
    assert_eq!(log(&stage, &processed(&stage, "variable greeting")), ["greeting=hello"]);

    let failed = fails(&stage, "error why", "retry", "standard error", 2);
    assert_eq!(failed.attempts[0].stderr.as_deref(), Some("why"));
    let failed = fails(&stage, "variable none", "retry", "standard error", 2);
    assert!(failed.attempts[0].stderr.as_ref().unwrap().contains("in the plugin's table"), "{failed:?}");
    fails(&stage, "panic no such user", "trap", "no such user", 2);
}

/// What the only attempt at an event logged.
#[track_caller]
fn log(stage: &Stage, event: &Event) -> Vec<String> {
    let reported = stage.client.get(&format!("/events/{}", event.id)).expect(200).json();
    let lines = reported["attempts"][0]["log"].as_array().unwrap_or_else(|| panic!("a log: {reported}"));
    lines.iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect()
}

fn a_handler_of_http_requests_runs_unmodified(broker: Broker) {
    let stage = stage(broker, layout::core_guest("spin-http"), "retry = { max_ms = 5000 }");
    speaks(&stage, "wasi:http/incoming-handler@0.2.0");
    assert!(processed(&stage, "204").result.is_none());
    let event = processed(&stage, "200");
    let reported: String = serde_json::from_str(event.result.as_ref().unwrap().get()).unwrap();
    for line in ["POST /", "content-type: application/json", "ce-specversion: 1.0", "ce-type: p", "ce-subject: s"] {
        assert!(reported.lines().any(|reported| reported.eq_ignore_ascii_case(line)), "{reported} says {line}");
    }
    assert!(reported.contains(&event.id), "{reported}");

    let busy = fails(&stage, "429 slow down", "retry", "429 Too Many Requests: slow down", 2);
    assert_eq!(busy.attempts[0].retry_in_ms, Some(1_000), "{busy:?}");
    let down = fails(&stage, "503 down", "retry", "503 Service Unavailable: down", 2);
    assert_eq!(down.attempts[0].retry_in_ms, Some(1_000), "{down:?}");
    fails(&stage, "500 a bug", "retry", "500 Internal Server Error: a bug", 2);
    fails(&stage, "404 no such order", "reject", "404 Not Found: no such order", 1);
    fails(&stage, "301 elsewhere", "reject", "301 Moved Permanently", 1);
    fails(&stage, "1", "output", "the result has 400000 bytes", 1);
    fails(&stage, "0 no such user", "trap", "no such user", 2);
}
