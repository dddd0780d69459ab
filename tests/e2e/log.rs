//! G12 for the log: it is bounded whatever fails, and the host never waits for its reader.

use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

on_both_brokers! {
    a_log_that_nobody_reads_holds_up_nobody,
    of_lines_of_one_kind_some_are_written_and_the_rest_is_counted,
}

/// More lines than the queue of the log and a pipe can hold.
const FLOOD: usize = 12_000;

fn send_to_no_plugin(stage: &Stage, events: usize) {
    let batch = vec![json!({"type": "nobody", "payload": {}}); 1_000.min(events)];
    (0..events.div_ceil(batch.len())).for_each(|_| drop(stage.client.post_batch(&batch)));
}

fn wait_until_failed(stage: &Stage, events: usize) -> Value {
    eventually("all that no plugin handles has failed", || {
        let metrics = stage.client.metrics();
        if metrics["failed"] == json!(events) { Ok(metrics) } else { Err(metrics) }
    })
}

fn a_log_that_nobody_reads_holds_up_nobody(broker: Broker) {
    let stage = Stage::with(broker, PluginsDir::scripted(&["work"]), |options| {
        options.with("retry.no-handler.max_attempts", 1).with("log.lines_per_second", 0).with_unread_log()
    });
    send_to_no_plugin(&stage, FLOOD);
    let metrics = wait_until_failed(&stage, FLOOD);
    assert!(metrics["logLinesUnwritten"].as_u64().is_some_and(|lines| lines > 0), "{metrics}");
    let id = stage.client.post_event("work", &json!({}));
    stage.client.wait_for(&id, &["processed"]);
    stage.host.terminate();
    assert_eq!(stage.host.wait().code(), Some(0));
}

fn of_lines_of_one_kind_some_are_written_and_the_rest_is_counted(broker: Broker) {
    let stage = Stage::with(broker, PluginsDir::scripted(&["work"]), |options| {
        options.with("retry.no-handler.max_attempts", 1).with("log.lines_per_second", 1)
    });
    send_to_no_plugin(&stage, 1_000);
    let metrics = wait_until_failed(&stage, 1_000);
    let unwritten = metrics["logLinesUnwritten"].as_u64().unwrap_or_default();
    assert!((1..=990).contains(&unwritten), "ten may come at once: {metrics}");
    stage.host.terminate();
    assert_eq!(stage.host.wait().code(), Some(0));
    let output = stage.host.wait_for_output("were left out of the log");
    let lines: Vec<Value> = output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let those = |words: &'static str| lines.iter().filter(move |line| line["message"].to_string().contains(words));
    let reported: u64 = those("were left out of the log").filter_map(|line| line["lines"].as_u64()).sum();
    let written = those("\"event failed: no plugin").count() as u64;
    assert_eq!((written >= 10, written + reported), (true, 1_000), "{output}");
}
