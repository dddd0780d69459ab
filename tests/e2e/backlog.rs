//! G8, G12: the backlog, the state and the history of one plugin take nothing from the others.

use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

on_both_brokers! {
    a_plugin_that_multiplies_its_events_refuses_and_displaces_nobody,
    a_plugin_that_can_end_no_event_is_named_and_removing_it_ends_them_all,
    what_other_plugins_publish_leaves_half_of_a_lane_to_its_clients,
    a_flood_for_one_plugin_is_refused_for_that_plugin_only,
    a_chain_of_causes_ends_at_its_greatest_length,
    a_plugin_keeps_no_more_than_it_may_and_what_it_keeps_can_be_removed,
}

/// An event that publishes events of its own type, which do the same for some generations.
fn breeding(event_type: &str, children: u32, generations: u32) -> Value {
    let payload = json!({});
    (0..generations).fold(
        payload,
        |payload, _| json!({"publish": children, "publish-type": event_type, "publish-payload": payload}),
    )
}

fn a_plugin_that_multiplies_its_events_refuses_and_displaces_nobody(broker: Broker) {
    let stage = Stage::with(broker, PluginsDir::scripted(&["loop", "quiet"]), |options| {
        options.with("broker.max_waiting", 200).with("retention.processed_max", 100)
    });
    let client = &stage.client;
    let first = client.post_event("quiet", &json!({}));
    client.wait_for(&first, &["processed"]);
    client.post_event("loop", &breeding("loop", 2, 20));
    eventually("it comes to a halt", || {
        let metrics = client.metrics();
        let is_halted = metrics["deferred"].as_u64() > Some(0) && metrics["waitingByLane"]["loop"].as_u64() > Some(200);
        if is_halted { Ok(()) } else { Err(metrics) }
    });
    let ids: Vec<String> = (0..20).map(|_| client.post_event("quiet", &json!({}))).collect();
    client.post(&json!({"type": "loop", "payload": {}}).to_string()).expect(429);
    for id in &ids {
        client.wait_for(id, &["processed"]);
    }
    eventually("history is trimmed", || {
        let metrics = client.metrics();
        let is_trimmed = metrics["processed"].as_u64() > Some(200) && metrics["processedKept"].as_u64() <= Some(100);
        if is_trimmed { Ok(()) } else { Err(metrics) }
    });
    for id in ids.iter().chain([&first]) {
        assert!(client.event(id).is_some(), "{id} has left the history");
    }
    assert_eq!(client.metrics()["failed"], 0);
}

fn a_plugin_that_can_end_no_event_is_named_and_removing_it_ends_them_all(broker: Broker) {
    let stage = Stage::with(broker, PluginsDir::scripted(&["loop"]), |options| {
        options.with("broker.max_waiting", 50).with("retry.no-handler.max_attempts", 1)
    });
    let client = &stage.client;
    let first = client.post_event("loop", &breeding("loop", 2, 20));
    let output = stage.host.wait_for_output("every attempt of the plugin loop");
    let warning = output.lines().find(|line| line.contains("every attempt of the plugin loop")).unwrap_or_default();
    for words in [
        "events wait, ",
        "wait in all",
        "plugins.loop.max_waiting",
        "broker.max_waiting",
        "eventstream plugin remove loop",
    ] {
        assert!(warning.contains(words), "{warning}");
    }
    let waiting = client.metrics()["waitingByLane"]["loop"].as_u64();
    assert!((Some(100)..=Some(101)).contains(&waiting), "twice the limit, and what one attempt publishes: {waiting:?}");
    // The oldest children have ended, and theirs wait.
    let mut event = client.event(&first).unwrap_or_else(|| panic!("{first} was accepted"));
    while let Some(child) = event.children.first() {
        let child = child.clone();
        event = client.event(&child).unwrap_or_else(|| panic!("{child} was published"));
    }
    let reason = event.reason.clone().unwrap_or_default();
    assert!(event.deferrals > 0 && event.attempts.is_empty() && reason.contains("deferred"), "{event:?}");

    client.request("DELETE", "/plugins/loop", &[], None).unwrap().expect(200);
    let metrics = eventually("all have ended", || {
        let metrics = client.metrics();
        if metrics["waiting"] == 0 { Ok(metrics) } else { Err(metrics) }
    });
    assert_eq!((&metrics["failed"], &metrics["failedByClass"]["no-handler"]), (&json!(waiting), &json!(waiting)));
}

fn what_other_plugins_publish_leaves_half_of_a_lane_to_its_clients(broker: Broker) {
    let plugins = PluginsDir::scripted(&["source", "sink"]);
    let stage = Stage::with(broker, plugins, |options| options.with("broker.max_waiting", 1_000));
    let client = &stage.client;
    let flood = json!({"publish": 10, "publish-type": "sink", "publish-delay-ms": 3_600_000});
    client.post_batch(&vec![json!({"type": "source", "payload": flood}); 100]);
    eventually("the sources are put off", || {
        let metrics = client.metrics();
        if metrics["deferred"].as_u64() >= Some(90) { Ok(()) } else { Err(metrics) }
    });
    let waiting = client.metrics()["waitingByLane"]["sink"].as_u64();
    assert!(waiting <= Some(109), "half of the lane, and what one attempt publishes: {waiting:?}");
    client.post(&json!({"type": "sink", "payload": {}, "delayMs": 3_600_000}).to_string()).expect(202);
}

fn a_flood_for_one_plugin_is_refused_for_that_plugin_only(broker: Broker) {
    let plugins = PluginsDir::scripted(&["flooded", "quiet"]).with_settings("flooded", "max_waiting = 7");
    let stage = Stage::with(broker, plugins, |options| options.with("broker.max_waiting", 100));
    let later = json!({"type": "flooded", "payload": {}, "delayMs": 3_600_000});
    let refusal = eventually("the flood is refused", || {
        let answer = stage.client.post(&later.to_string());
        if answer.status == 429 { Ok(answer) } else { Err("not yet") }
    });
    assert!(refusal.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));
    let detail = refusal.json()["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains("plugin flooded") && detail.contains("plugins.flooded.max_waiting"), "{detail}");
    // A limit applies shortly after its plugin serves, so the first events may exceed it.
    let waiting = stage.client.metrics()["waitingByLane"]["flooded"].as_u64();
    assert!(waiting >= Some(7) && waiting < Some(100), "{waiting:?}");
    let id = stage.client.post_event("quiet", &json!({}));
    stage.client.wait_for(&id, &["processed"]);
}

fn a_chain_of_causes_ends_at_its_greatest_length(broker: Broker) {
    let stage =
        Stage::with(broker, PluginsDir::scripted(&["there", "back"]), |options| options.with("events.max_depth", 5));
    // Two plugins that publish for each other make a chain as well.
    let payload = (0..10).fold(json!({}), |payload, n| {
        let event_type = if n % 2 == 0 { "there" } else { "back" };
        json!({"publish": 1, "publish-type": event_type, "publish-payload": payload})
    });
    stage.client.post_event("there", &payload);
    let failed = eventually("the chain ends", || stage.client.failed().pop().ok_or("it has not yet"));
    assert_eq!(failed.class.as_deref(), Some("output"));
    let said = failed.attempts[0].error.as_deref().unwrap_or_default();
    assert!(said.contains("events.max_depth"), "{said}");
    let metrics = stage.client.metrics();
    assert_eq!((&metrics["processed"], &metrics["published"], &metrics["waiting"]), (&json!(5), &json!(5), &json!(0)));
}

fn a_plugin_keeps_no_more_than_it_may_and_what_it_keeps_can_be_removed(broker: Broker) {
    let settings = "limits = { state_bytes = 10000 }\nretry = { initial_ms = 1, max_ms = 1 }";
    let plugins = PluginsDir::scripted(&["hoarder"]).with_settings("hoarder", settings);
    let stage = Stage::with(broker, plugins, |options| options);
    let set = |key: &str, bytes: usize| json!({"state": [{"set": {"key": key, "bytes": bytes}}]});
    let id = stage.client.post_event("hoarder", &set("a", 6_000));
    stage.client.wait_for(&id, &["processed"]);
    let id = stage.client.post_event("hoarder", &set("b", 6_000));
    let failed = stage.client.wait_for(&id, &["failed"]);
    assert_eq!(failed.class.as_deref(), Some("limit"));
    let said = failed.attempts[0].error.as_deref().unwrap_or_default();
    assert!(said.contains("plugins.hoarder.limits.state_bytes"), "{said}");
    let id = stage.client.post_event("hoarder", &set("a", 5_000));
    stage.client.wait_for(&id, &["processed"]);

    let remove = || stage.client.request("DELETE", "/plugins/hoarder?state=true", &[], None).unwrap();
    let removed = remove().expect(200).json();
    assert_eq!((&removed["state"], &removed["stateKeysRemoved"]), (&json!("removed"), &json!(1)), "{removed}");
    assert_eq!(stage.client.metrics()["stateKeys"], 0);
    remove().expect(404);
}
