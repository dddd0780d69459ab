//! G6: the same event sent twice is one event. A batch is accepted as a whole or not at all.

use eventstream_tests::client::Client;
use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

on_both_brokers! {
    the_same_key_gives_the_first_events_id_and_appends_nothing,
    a_key_survives_a_restart_of_everything,
    a_key_with_another_body_is_refused_and_nothing_is_stored,
    source_and_id_of_the_sender_are_a_key_as_well,
    a_batch_is_accepted_in_order_and_known_again_by_its_key,
    of_a_batch_with_a_fault_nothing_is_accepted_and_the_fault_names_its_place,
    past_the_depth_limit_nothing_is_accepted_until_there_is_room,
    handlers_publish_past_the_limit_of_clients_and_not_without_end,
    plugins_whose_events_have_too_many_keys_leave_room_for_the_keys_of_others,
}

fn post_keyed(client: &Client, body: &str, key: &str) -> (u16, Value) {
    let answer = client.try_post_keyed(body, key).unwrap();
    (answer.status, answer.json())
}

fn the_same_key_gives_the_first_events_id_and_appends_nothing(broker: Broker) {
    let stage = Stage::scripted(broker, &["once"]);
    let body = r#"{"type":"once","payload":{}}"#;
    let (_, first) = post_keyed(&stage.client, body, "order-17");
    let other = broker.is_shared().then(|| stage.another(|options| options));
    for client in [stage.client.clone(), other.as_ref().unwrap_or(&stage.host).client()] {
        let (status, again) = post_keyed(&client, body, "order-17");
        assert_eq!((status, &again["eventId"], &again["duplicate"]), (202, &first["eventId"], &json!(true)));
    }
    let (_, fresh) = post_keyed(&stage.client, body, "order-18");
    assert_ne!(fresh["eventId"], first["eventId"]);
    for answer in [&first, &fresh] {
        stage.client.wait_ended(answer["eventId"].as_str().unwrap());
    }
    let metrics = stage.client.metrics();
    assert_eq!((&metrics["accepted"], &metrics["duplicates"]), (&json!(2), &json!(2)), "{metrics}");
}

fn a_key_survives_a_restart_of_everything(broker: Broker) {
    let mut stage = Stage::scripted(broker, &["once"]);
    let body = r#"{"type":"once","payload":{}}"#;
    let (_, first) = post_keyed(&stage.client, body, "k");
    stage.host.kill9();
    stage.store.crash();
    stage.replace_host(|options| options);
    assert_eq!(post_keyed(&stage.client, body, "k").1["eventId"], first["eventId"]);
}

fn a_key_with_another_body_is_refused_and_nothing_is_stored(broker: Broker) {
    let stage = Stage::scripted(broker, &["once"]);
    post_keyed(&stage.client, r#"{"type":"once","payload":1}"#, "k");
    let (status, problem) = post_keyed(&stage.client, r#"{"type":"once","payload":2}"#, "k");
    assert_eq!((status, &problem["status"]), (422, &json!(422)), "{problem}");
    assert_eq!(stage.client.metrics()["accepted"], 1);

    let one = r#"{"type":"once","payload":1}"#;
    post_keyed(&stage.client, &format!("[{one},{one}]"), "batch");
    for other in [format!("[{one},{one},{one}]"), format!("[{one}]"), one.to_owned()] {
        let (status, problem) = post_keyed(&stage.client, &other, "batch");
        assert_eq!((status, &problem["type"]), (422, &json!("/problems/idempotency-key-reused")), "{other}: {problem}");
    }
    assert_eq!(stage.client.metrics()["accepted"], 3);
}

fn source_and_id_of_the_sender_are_a_key_as_well(broker: Broker) {
    let stage = Stage::scripted(broker, &["once"]);
    let body = r#"{"type":"once","source":"/shop","id":"17","payload":{}}"#;
    let first = stage.client.post(body).expect(202).json();
    let again = stage.client.post(body).expect(202).json();
    assert_eq!((&again["eventId"], &again["duplicate"]), (&first["eventId"], &json!(true)));
    let other = stage.client.post(&body.replace("/shop", "/bank")).expect(202).json();
    assert_ne!(other["eventId"], first["eventId"]);
}

fn a_batch_is_accepted_in_order_and_known_again_by_its_key(broker: Broker) {
    let stage = Stage::scripted(broker, &["item"]);
    let items: Vec<Value> =
        (0..5).map(|n| json!({"type": "item", "payload": {"do": "echo", "key": n.to_string()}})).collect();
    let body = json!(items).to_string();
    let (status, first) = post_keyed(&stage.client, &body, "batch");
    assert_eq!((status, &first["message"]), (202, &json!(format!("5 events accepted and queued ({})", broker.name()))));
    for (n, id) in first["eventIds"].as_array().unwrap().iter().enumerate() {
        let event = stage.client.wait_ended(id.as_str().unwrap());
        assert!(event.payload.unwrap().get().contains(&format!("\"{n}\"")), "the ids stand in the order sent");
    }
    let (_, again) = post_keyed(&stage.client, &body, "batch");
    assert_eq!(
        (&again["eventIds"], &again["duplicates"]),
        (&first["eventIds"], &json!([true, true, true, true, true]))
    );
}

fn of_a_batch_with_a_fault_nothing_is_accepted_and_the_fault_names_its_place(broker: Broker) {
    let stage = Stage::scripted(broker, &["item"]);
    let bad = r#"[{"type":"item","payload":1},{"type":"not a type"},{"type":"item","payloda":2}]"#;
    let problem = stage.client.post(bad).expect(422).json();
    let pointers: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().filter_map(|e| e["pointer"].as_str()).collect();
    assert_eq!(pointers, ["/1/type", "/2/payloda"], "{problem}");

    stage.client.try_post_keyed(r#"[{"type":"item","payload":1}]"#, "k").unwrap().expect(202);
    let conflict = r#"[{"type":"item","payload":2},{"type":"item","payload":3}]"#;
    let problem = stage.client.try_post_keyed(conflict, "k").unwrap().expect(422).json();
    assert_eq!(problem["errors"][0]["pointer"], "/0", "{problem}");
    assert_eq!(stage.client.metrics()["accepted"], 1);
}

fn past_the_depth_limit_nothing_is_accepted_until_there_is_room(broker: Broker) {
    let stage = Stage::with(broker, PluginsDir::scripted(&["item"]), |options| {
        options.with("broker.max_waiting", 50).with("consumer.concurrency", 1)
    });
    // One at a time, and the first one takes its time.
    let slow = |n| json!({"sleep-ms": if n == 0 { 15_000 } else { 1 }});
    let events: Vec<Value> = (0..10).map(|n| json!({"type": "item", "payload": slow(n)})).collect();
    let ids = stage.client.post_batch(&events);
    let answer = stage.client.post(&json!(events).to_string()).expect(429);
    assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));
    for id in &ids {
        stage.client.wait_ended(id);
    }
    stage.client.post_event("item", &json!({}));
    assert_eq!(stage.client.metrics()["accepted"], 11);
}

fn handlers_publish_past_the_limit_of_clients_and_not_without_end(broker: Broker) {
    let stage = Stage::with(broker, PluginsDir::scripted(&["breeder"]), |options| {
        options.with("broker.max_waiting", 60).with("retry.retry.max_attempts", 1)
    });
    let breed = json!({"publish": 30, "publish-type": "child", "publish-delay-ms": 3_600_000});
    // One after the other, since what waits is looked at once in a second.
    let events = (0..8).map(|n| json!({"type": "breeder", "payload": breed, "delayMs": 700 * n}));
    let ids = stage.client.post_batch(&events.collect::<Vec<_>>());
    let metrics = eventually("some are put off", || {
        let metrics = stage.client.metrics();
        if metrics["deferred"].as_u64() >= Some(8) { Ok(metrics) } else { Err(metrics) }
    });
    assert!(metrics["processed"].as_u64() > Some(0), "the store was empty before the first: {metrics}");
    assert_eq!((&metrics["failed"], &metrics["retried"]), (&json!(0), &json!(0)), "{metrics}");
    for id in ids {
        let event = stage.client.event(&id).unwrap();
        assert!(event.attempts.len() <= 1 && event.state != "failed", "{event:?}");
    }
}

fn plugins_whose_events_have_too_many_keys_leave_room_for_the_keys_of_others(broker: Broker) {
    const LIMIT: &str = "retention.idempotency_max_bytes";
    let plugins = PluginsDir::scripted(&["hog", "hog2", "innocent"]);
    let mut stage = Stage::on(broker.start(), plugins, |options| options.with(LIMIT, 200_000));
    let event = |kind: &str, id: &str| json!({"type": kind, "source": format!("/{kind}"), "id": id, "payload": {}});
    let post = |client: &Client, body: &Value| {
        let answer = client.post(&body.to_string());
        (answer.status, answer.text())
    };
    let innocents_are_accepted = |client: &Client, id: &str| {
        let (status, said) = post(client, &event("innocent", id));
        assert_eq!(status, 202, "{id}: {said}");
    };
    let mut refused = 0;
    for round in 0..30 {
        for hog in ["hog", "hog2"] {
            let batch: Vec<Value> = (0..100).map(|place| event(hog, &format!("{round}-{place}"))).collect();
            let (status, said) = post(&stage.client, &json!(batch));
            assert!(status == 202 || status == 429 && said.contains(LIMIT) && said.contains(hog), "{status} {said}");
            refused += u32::from(status == 429);
        }
        innocents_are_accepted(&stage.client, &round.to_string());
    }
    assert!(refused >= 30, "{refused} batches of 60");

    let duplicate = stage.client.post(&event("hog", "0-0").to_string()).expect(202).json();
    assert_eq!(duplicate["duplicate"], true, "{duplicate}");
    stage.client.post_event("hog", &json!({}));
    let is_within_limit = |client: &Client| {
        let metrics = client.metrics();
        let by_lane = metrics["idempotencyBytesByLane"].as_object().unwrap();
        let all: u64 = by_lane.values().map(|bytes| bytes.as_u64().unwrap()).sum();
        assert!(all <= 200_000 && by_lane["hog"].as_u64() > Some(50_000), "{metrics}");
    };
    is_within_limit(&stage.client);

    stage.host.kill9();
    stage.store.crash();
    stage.replace_host(|options| options.with(LIMIT, 200_000));
    is_within_limit(&stage.client);
    innocents_are_accepted(&stage.client, "after");
    let more: Vec<Value> = (0..100).map(|place| event("hog", &format!("after-{place}"))).collect();
    assert_eq!(post(&stage.client, &json!(more)).0, 429);
    stage.host.terminate();
    stage.host.wait();
    stage.replace_host(|options| options.with(LIMIT, 1_000_000));
    assert_eq!(post(&stage.client, &json!(more)).0, 202, "a higher limit helps at once");
}
