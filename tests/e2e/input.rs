//! Bad input: each kind gets its status and its problem document, and nothing is stored.

use eventstream_tests::client::Client;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

on_both_brokers! {
    what_cannot_be_accepted_is_refused_with_its_reason_and_not_stored,
    a_wrong_content_type_or_header_is_refused,
    a_problem_tells_all_faults_at_once_and_the_likely_name,
    a_payload_comes_back_byte_for_byte,
    the_largest_of_everything_that_is_allowed_is_accepted,
    questions_that_make_no_sense_are_refused_and_unknown_places_not_found,
    lists_are_paged_without_gaps_and_filtered,
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// Sends a body and checks that the answer is a problem document with this status and, if given, a fault at this place.
#[track_caller]
fn assert_refused(client: &Client, headers: &[(&str, &str)], body: &[u8], status: u16, pointer: Option<&str>) {
    let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
    let answer = client.request("POST", "/events", headers, Some(body)).unwrap();
    assert_eq!(answer.status, status, "{shown}: {}", answer.text());
    assert_eq!(answer.header("content-type"), "application/problem+json", "{shown}");
    let problem = answer.json();
    assert_eq!(problem["status"], status, "{shown}: {problem}");
    for member in ["type", "title", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{shown}: no {member} in {problem}");
    }
    if let Some(pointer) = pointer {
        let faults = problem["errors"].as_array().cloned().unwrap_or_default();
        assert!(faults.iter().any(|fault| fault["pointer"] == pointer), "{shown}: no {pointer:?} in {problem}");
        assert!(faults.iter().all(|fault| fault["message"].as_str().is_some_and(|text| !text.is_empty())));
    }
}

fn what_cannot_be_accepted_is_refused_with_its_reason_and_not_stored(broker: Broker) {
    let stage = Stage::scripted(broker, &["t"]);
    let deep = format!(r#"{{"type":"t","payload":{}1{}}}"#, "[".repeat(64), "]".repeat(64));
    let deeper = format!(r#"{{"type":"t","payload":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let long_type = format!(r#"{{"type":"{}"}}"#, "t".repeat(129));
    let large_payload = format!(r#"{{"type":"t","payload":"{}"}}"#, "x".repeat(256 * 1024));
    let large_body = format!(r#"{{"type":"t","payload":"{}"}}"#, "x".repeat(1024 * 1024));
    let large_batch = json!(vec![json!({"type": "t"}); 1_001]).to_string();
    for (body, status, pointer) in [
        (&b""[..], 400, None),
        (b"  ", 400, None),
        (b"hello", 400, Some("")),
        (b"{\"type\":\"t\"", 400, Some("")),
        (b"{\"type\":\"t\"} trailing", 400, Some("")),
        (b"\"t\"", 400, Some("")),
        (b"null", 400, Some("")),
        (deep.as_bytes(), 400, Some("")),
        (deeper.as_bytes(), 400, Some("")),
        (b"{\"type\":\"\xff\"}", 400, Some("")),
        (b"{\"type\":\"t\",\"type\":\"u\"}", 400, Some("/type")),
        (b"{}", 422, Some("/type")),
        (b"{\"payload\":{}}", 422, Some("/type")),
        (b"{\"type\":\"\"}", 422, Some("/type")),
        (b"{\"type\":\"a b\"}", 422, Some("/type")),
        (b"{\"type\":17}", 422, Some("/type")),
        (b"{\"type\":null}", 422, Some("/type")),
        (long_type.as_bytes(), 422, Some("/type")),
        (b"{\"type\":\"t\",\"payloda\":{}}", 422, Some("/payloda")),
        (b"{\"type\":\"t\",\"delayMs\":-1}", 422, Some("/delayMs")),
        (b"{\"type\":\"t\",\"deliverAt\":\"tomorrow\"}", 422, Some("/deliverAt")),
        (b"{\"type\":\"t\",\"headers\":{\"Not-Lower\":\"x\"}}", 422, Some("/headers")),
        (b"[1]", 422, Some("/0")),
        (large_payload.as_bytes(), 413, Some("/payload")),
        (large_body.as_bytes(), 413, None),
        (large_batch.as_bytes(), 413, None),
    ] {
        assert_refused(&stage.client, JSON, body, status, pointer);
    }
    let metrics = stage.client.metrics();
    assert_eq!((&metrics["accepted"], stage.client.processed().len()), (&json!(0), 0), "{metrics}");
    assert_eq!(stage.store.idempotency_keys(), 0);
}

fn a_wrong_content_type_or_header_is_refused(broker: Broker) {
    let stage = Stage::scripted(broker, &["t"]);
    let body = br#"{"type":"t"}"#;
    for content_type in ["text/plain", "application/xml", "application/x-www-form-urlencoded", "nonsense"] {
        assert_refused(&stage.client, &[("content-type", content_type)], body, 415, None);
    }
    assert_refused(&stage.client, &[], body, 415, None);
    for key in ["", &"k".repeat(257)] {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        assert_refused(&stage.client, &headers, body, 400, None);
    }
    for good in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
        let answer = stage.client.request("POST", "/events", &[("content-type", good)], Some(body)).unwrap();
        answer.expect(202);
    }
    assert_eq!(stage.client.metrics()["accepted"], 3);
}

fn a_problem_tells_all_faults_at_once_and_the_likely_name(broker: Broker) {
    let stage = Stage::scripted(broker, &["t"]);
    let problem = stage.client.post(r#"{"payloda":{},"delayMs":"soon"}"#).expect(422).json();
    let faults = problem["errors"].as_array().unwrap();
    let pointers: Vec<&str> = faults.iter().filter_map(|fault| fault["pointer"].as_str()).collect();
    assert_eq!(pointers, ["/payloda", "/delayMs", "/type"], "{problem}");
    assert!(faults[0]["message"].as_str().unwrap().contains("payload"), "{problem}");
}

fn a_payload_comes_back_byte_for_byte(broker: Broker) {
    let stage = Stage::with(broker, PluginsDir::scripted(&["t"]), |options| options.with("retry.max_attempts", 1));
    for payload in [
        r#"{"do":"echo","message":"12345678901234567890.10"}"#,
        r#"[12345678901234567890, 9007199254740993, 1e400, -0, 0.1000]"#,
        r#"{ "b" : 1 , "a" : [ ] }"#,
        r#""é😀\u0000""#,
        "null",
        "18446744073709551616",
    ] {
        let answer = stage.client.post(&format!(r#"{{"type":"t","payload":{payload}}}"#)).expect(202).json();
        let id = answer["eventId"].as_str().unwrap();
        let event = stage.client.wait_ended(id);
        assert_eq!(event.payload.as_ref().map(|raw| raw.get()), Some(payload));
        assert!(stage.client.get(&format!("/events/{id}")).text().contains(payload), "{payload} as it was written");
        if event.state == "failed" {
            assert_eq!(stage.client.failed_event(id).unwrap().payload.unwrap().get(), payload);
        }
    }
}

fn the_largest_of_everything_that_is_allowed_is_accepted(broker: Broker) {
    let stage = Stage::scripted(broker, &["t"]);
    let payload = format!("\"{}\"", "x".repeat(256 * 1024 - 2));
    stage.client.post(&format!(r#"{{"type":"t","payload":{payload}}}"#)).expect(202);
    let batch: Vec<Value> = vec![json!({"type": "t", "payload": {}}); 1_000];
    assert_eq!(stage.client.post_batch(&batch).len(), 1_000);
    let nested = format!(r#"{{"type":"t","payload":{}1{}}}"#, "[".repeat(63), "]".repeat(63));
    stage.client.post(&nested).expect(202);
    let long_type = "t".repeat(128);
    stage.client.post(&format!(r#"{{"type":"{long_type}"}}"#)).expect(202);
}

fn questions_that_make_no_sense_are_refused_and_unknown_places_not_found(broker: Broker) {
    let stage = Stage::scripted(broker, &["t"]);
    for path in [
        "/events?limit=0",
        "/events?limit=many",
        "/events?cursor=nonsense",
        "/events?since=yesterday",
        "/events?until=x",
        "/events?lmit=5",
        "/failed-events?limit=100000",
        "/failed-events?class=nonsense",
    ] {
        let answer = stage.client.get(path);
        assert_eq!((answer.status, answer.header("content-type")), (400, "application/problem+json"), "{path}");
    }
    for cursor in ["0-0", "00-00", "0", "-1", "-9223372036854775808", "18446744073709551615-18446744073709551615"] {
        for list in ["/events", "/failed-events"] {
            let answer = stage.client.get(&format!("{list}?cursor={cursor}"));
            assert!(matches!(answer.status, 200 | 400), "{list} from {cursor}: {answer:?}");
        }
        stage.client.get("/readyz").expect(200);
    }
    let answer = stage.client.get("/nowhere").expect(404);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let answer = stage.client.request("DELETE", "/events", &[], None).unwrap().expect(405);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert!(answer.header("allow").contains("POST"), "{:?}", answer.header("allow"));
}

fn lists_are_paged_without_gaps_and_filtered(broker: Broker) {
    let stage = Stage::scripted(broker, &["a", "b"]);
    let events: Vec<Value> =
        (0..25).map(|n| json!({"type": if n % 5 == 0 { "b" } else { "a" }, "payload": {}})).collect();
    let ids = stage.client.post_batch(&events);
    for id in &ids {
        stage.client.wait_ended(id);
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = stage.client.get(&format!("/events?limit=7{cursor}")).expect(200).json();
        let events = page["events"].as_array().unwrap();
        assert!(events.len() <= 7);
        seen.extend(events.iter().map(|event| event["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 25);
    seen.sort();
    let mut expected = ids;
    expected.sort();
    assert_eq!(seen, expected);
    let filtered = stage.client.get("/events?type=b&limit=100").expect(200).json();
    assert_eq!(filtered["events"].as_array().unwrap().len(), 5, "{filtered}");
}
