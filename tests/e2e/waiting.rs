//! An event that waits is started early or cancelled, over HTTP and the command line.

use std::time::{Duration, Instant};

use eventstream_tests::client::{Answer, Client};
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::run_command;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::json;

on_both_brokers! {
    a_scheduled_or_retrying_event_starts_at_once_when_asked,
    a_cancelled_event_never_runs_and_says_who_ended_it,
    of_a_cancel_and_a_claim_one_wins_and_no_event_is_lost,
}

#[track_caller]
fn change(client: &Client, id: &str, action: &str, body: &str) -> Answer {
    let headers = [("content-type", "application/json")];
    let path = format!("/events/{id}/{action}");
    client.request("POST", &path, &headers, Some(body.as_bytes())).unwrap_or_else(|error| panic!("{}", error.0))
}

#[track_caller]
fn schedule(client: &Client) -> String {
    let answer = client.post(r#"{"type":"work","payload":{},"delayMs":3600000}"#).expect(202).json();
    answer["eventId"].as_str().unwrap().to_owned()
}

/// An event whose first attempt failed and whose next one is an hour away.
#[track_caller]
fn put_off(client: &Client) -> String {
    let id = client.post_event("work", &json!({ "do": "retry", "after-ms": 3_600_000 }));
    client.wait_for(&id, &["retrying"]);
    id
}

fn retrying_stage(broker: Broker) -> Stage {
    Stage::with(broker, PluginsDir::scripted(&["work"]), |options| options.with("retry.max_ms", 3_600_000))
}

fn a_scheduled_or_retrying_event_starts_at_once_when_asked(broker: Broker) {
    let stage = retrying_stage(broker);
    let (scheduled, retrying) = (schedule(&stage.client), put_off(&stage.client));
    let asked = Instant::now();
    change(&stage.client, &scheduled, "run-now", "").expect(202);
    assert_eq!(stage.client.wait_ended(&scheduled).state, "processed");
    // An hour early in any case; the bound leaves room for a busy machine.
    assert!(asked.elapsed() < Duration::from_secs(60));
    let output = run_command(&["run-now", &retrying, "--url", stage.host.url()]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let again = eventstream_tests::eventually::eventually("its second attempt ends", || {
        match stage.client.event(&retrying).unwrap() {
            event if event.attempts.len() == 2 => Ok(event),
            event => Err(event.attempts.len()),
        }
    });
    assert_eq!(again.attempts[1].attempt, 2);
    let refused = change(&stage.client, &scheduled, "run-now", "").expect(409).json();
    assert_eq!(refused["type"], "/problems/not-waiting");
    change(&stage.client, "01890a5d-ac96-774b-bcce-b302099a8057", "run-now", "").expect(404);
}

fn a_cancelled_event_never_runs_and_says_who_ended_it(broker: Broker) {
    let mut stage = retrying_stage(broker);
    let (scheduled, retrying) = (schedule(&stage.client), put_off(&stage.client));
    change(&stage.client, &scheduled, "cancel", r#"{"reason":"sent by mistake"}"#).expect(200);
    let output = run_command(&["cancel", &retrying, "--url", stage.host.url()]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{retrying} is cancelled\n"));
    let path = "/plugins/work/pause";
    stage.client.request("POST", path, &[], Some(b"")).unwrap_or_else(|error| panic!("{}", error.0)).expect(200);
    let queued = stage.client.post_event("work", &json!({}));
    change(&stage.client, &queued, "cancel", "{}").expect(200);
    stage.host.kill9();
    stage.replace_host(|options| options.with("retry.max_ms", 3_600_000));
    for (id, attempts, reason) in [
        (&scheduled, 0, "cancelled by local: sent by mistake"),
        (&retrying, 1, "cancelled by local"),
        (&queued, 0, "cancelled by local"),
    ] {
        let shown = stage.client.get(&format!("/events/{id}")).expect(200).json();
        assert_eq!((&shown["state"], &shown["discardReason"]), (&json!("discarded"), &json!(reason)), "{shown}");
        assert_eq!((shown["attemptCount"].as_u64(), &shown["reason"]), (Some(attempts), &json!(null)), "{shown}");
        change(&stage.client, id, "cancel", "").expect(409);
        change(&stage.client, id, "run-now", "").expect(409);
    }
    let metrics = stage.client.metrics();
    assert_eq!((&metrics["discarded"], &metrics["waiting"], &metrics["failed"]), (&json!(3), &json!(0), &json!(0)));
}

fn of_a_cancel_and_a_claim_one_wins_and_no_event_is_lost(broker: Broker) {
    let stage = Stage::scripted(broker, &["work"]);
    let ids = stage.client.post_batch(&vec![json!({"type": "work", "payload": {}}); 300]);
    let cancelled: Vec<bool> =
        ids.iter().rev().map(|id| change(&stage.client, id, "cancel", "").status == 200).collect();
    for (id, is_cancelled) in ids.iter().rev().zip(cancelled) {
        let event = stage.client.wait_for(id, &["processed", "discarded"]);
        assert_eq!((event.state == "discarded", event.attempts.is_empty()), (is_cancelled, is_cancelled), "{event:?}");
    }
}
