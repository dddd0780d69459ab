//! What an operator sees: totals, readiness, the metrics of the deployment.

use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

on_both_brokers! {
    totals_are_those_of_what_was_done_on_every_host_and_after_a_restart,
    a_host_that_serves_is_ready_and_says_what_it_serves,
    an_idle_host_leaves_the_processor_alone,
    processed_events_are_kept_by_count_and_nothing_that_has_not_ended_is_trimmed,
}

#[track_caller]
fn counts(metrics: &Value, expected: &[(&str, u64)]) {
    for (name, count) in expected {
        assert_eq!(metrics[*name], json!(count), "{name} in {metrics}");
    }
}

fn totals_are_those_of_what_was_done_on_every_host_and_after_a_restart(broker: Broker) {
    let mut stage =
        Stage::with(broker, PluginsDir::scripted(&["p", "child"]), |options| options.with("retry.max_attempts", 3));
    let mut ids = Vec::new();
    for payload in [
        json!({}),
        json!({"flaky": 3}),
        json!({"do": "reject"}),
        json!({"do": "retry"}),
        json!({"do": "trap"}),
        json!({"publish": 2, "publish-type": "child", "publish-payload": {}}),
    ] {
        ids.push(stage.client.post_event("p", &payload));
    }
    stage.client.try_post_keyed(r#"{"type":"p","payload":{}}"#, "k").unwrap().expect(202);
    stage.client.try_post_keyed(r#"{"type":"p","payload":{}}"#, "k").unwrap().expect(202);
    for id in &ids {
        stage.client.wait_ended(id);
    }
    stage.client.replay(&ids[2]).expect(202);
    let expected = [
        ("accepted", 7),
        ("duplicates", 1),
        ("published", 2),
        ("processed", 6),
        ("failed", 4),
        ("retried", 2 + 2 + 2),
        ("replayed", 1),
        ("recovered", 0),
        ("dataLosses", 0),
    ];
    let done = |stage: &Stage| {
        eventually("everything has ended", || {
            let metrics = stage.client.metrics();
            if metrics["processed"] == 6 && metrics["failed"] == 4 { Ok(metrics) } else { Err(metrics) }
        })
    };
    counts(&done(&stage), &expected);
    stage.host.kill9();
    stage.replace_host(|options| options);
    counts(&done(&stage), &expected);

    let headers = [("accept", "application/openmetrics-text")];
    let text = stage.client.request("GET", "/metrics", &headers, None).unwrap().expect(200);
    assert!(text.header("content-type").starts_with("application/openmetrics-text"));
    let text = text.text();
    for (name, total) in [("accepted", 7), ("processed", 6), ("retried", 6)] {
        let line = format!("eventstream_events_{name}_total {total}");
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(text.trim_end().ends_with("# EOF"), "{text}");
}

fn a_host_that_serves_is_ready_and_says_what_it_serves(broker: Broker) {
    let stage = Stage::scripted(broker, &["work"]);
    stage.client.get("/livez").expect(200);
    stage.client.get("/readyz").expect(200);
    let output = stage.host.output();
    assert!(output.contains(stage.host.url()) && output.contains("fsync") && output.contains("work"), "{output}");
}

fn an_idle_host_leaves_the_processor_alone(broker: Broker) {
    let stage = Stage::scripted(broker, &["work"]);
    stage.client.wait_ended(&stage.client.post_event("work", &json!({})));
    let used = stage.host.cpu_time();
    let begun = std::time::Instant::now();
    std::thread::sleep(std::time::Duration::from_secs(4));
    let share = (stage.host.cpu_time() - used).as_secs_f64() / begun.elapsed().as_secs_f64();
    assert!(share < 0.15, "{share} of a core while nothing happens");
}

fn processed_events_are_kept_by_count_and_nothing_that_has_not_ended_is_trimmed(broker: Broker) {
    let stage = Stage::with(broker, PluginsDir::scripted(&["p"]), |options| {
        options.with("retention.processed_max", 20).with("retry.max_attempts", 1)
    });
    let later = stage.client.post(r#"{"type":"p","delayMs":600000,"payload":{}}"#).expect(202).json();
    let failed = stage.client.wait_ended(&stage.client.post_event("p", &json!({"do": "reject"})));
    let ids = stage.client.post_batch(&vec![json!({"type": "p", "payload": {}}); 100]);
    eventually("processed events past the limit are gone", || {
        let (metrics, kept) = (stage.client.metrics(), stage.client.processed().len());
        if metrics["processed"] == 100 && kept == 20 { Ok(()) } else { Err(format!("{kept} are kept: {metrics}")) }
    });
    assert!(ids.iter().filter(|id| stage.client.event(id).is_some()).count() == 20);
    assert_eq!(stage.client.event(later["eventId"].as_str().unwrap()).unwrap().state, "scheduled");
    assert_eq!(stage.client.event(&failed.id).unwrap().state, "failed");
}
