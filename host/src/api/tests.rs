//! The API as clients meet it, through its router; the server's own limits are tested on sockets, in `server_tests`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::fake::{FakeBroker, FakePluginControl, api};
use super::{ApiState, Gateway, ServerOptions};
use crate::broker::{Error, Lane};
use crate::event::{EventEnd, EventLimits, EventState, FailureClass, Timestamp};

mod plugins;

struct TestResponse {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl TestResponse {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {:?}", self.text))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// That this is a problem document of the status and type.
    #[track_caller]
    fn is_problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!((self.status, self.header("content-type")), (status, "application/problem+json"), "{}", self.text);
        let document = self.json();
        assert_eq!(document["type"], format!("/problems/{kind}"), "{}", self.text);
        assert_eq!(document["status"], status);
        document
    }
}

fn options() -> ServerOptions {
    ServerOptions {
        max_body_bytes: 4_096,
        limits: EventLimits { max_payload_bytes: 1_024, max_batch_events: 3, max_json_depth: 8 },
        ..ServerOptions::default()
    }
}

async fn send(api: &ApiState, request: Request<Body>) -> TestResponse {
    answer_of(Gateway::new(api.clone()).for_peer(([127, 0, 0, 1], 1).into()).answer(request).await).await
}

async fn answer_of(response: Response<Body>) -> TestResponse {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    assert_eq!(parts.headers["x-content-type-options"], "nosniff");
    TestResponse {
        status: parts.status.as_u16(),
        headers: parts.headers,
        text: String::from_utf8(bytes.to_vec()).unwrap(),
    }
}

async fn get(api: &ApiState, path: &str) -> TestResponse {
    send(api, Request::get(path).header("host", "localhost").body(Body::empty()).unwrap()).await
}

async fn delete(api: &ApiState, path: &str) -> TestResponse {
    send(api, Request::delete(path).header("host", "localhost").body(Body::empty()).unwrap()).await
}

async fn post(api: &ApiState, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> TestResponse {
    let mut request = Request::post(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(api, request.body(body.into()).unwrap()).await
}

const JSON: (&str, &str) = ("content-type", "application/json");

async fn publish(api: &ApiState, body: &str) -> TestResponse {
    post(api, "/events", &[JSON], body.to_owned()).await
}

fn new() -> (ApiState, Arc<FakeBroker>) {
    api(options())
}

#[tokio::test]
async fn an_event_is_accepted_and_can_be_asked_for() {
    let (api, fake) = new();
    let answer = publish(&api, r#"{"type":"USER_SIGNUP","payload":{ "n": 9007199254740993 },"key":"k"}"#).await;
    let id = fake.only().record.event.id;
    assert_eq!(answer.status, 202);
    let expected = format!(
        r#"{{"message":"Event accepted and queued (Fake)","eventId":"{id}","durability":"fsync","duplicate":false}}"#
    );
    assert_eq!(answer.text, expected);
    assert_eq!(answer.header("location"), format!("/events/{id}"));
    assert_eq!(fake.state.lock().lanes[&id].as_str(), "signup");

    let shown = get(&api, answer.header("location")).await;
    assert!(shown.text.contains(r#""payload":{ "n": 9007199254740993 }"#), "{}", shown.text);
    let shown = shown.json();
    assert_eq!((&shown["state"], &shown["key"], &shown["attempts"]), (&json!("queued"), &json!("k"), &json!([])));
}

#[tokio::test]
async fn a_type_that_no_plugin_handles_waits_in_a_lane_of_its_own() {
    let (api, fake) = new();
    publish(&api, r#"{"type":"OTHER"}"#).await;
    assert_eq!(fake.state.lock().lanes.values().next(), Some(&Lane::unrouted()));
}

#[tokio::test]
async fn an_array_is_accepted_whole_or_not_at_all() {
    let (api, fake) = new();
    let answer = publish(&api, r#"[{"type":"a"},{"type":"b","delayMs":60000}]"#).await.json();
    assert_eq!(answer["message"], "2 events accepted and queued (Fake)");
    assert_eq!(answer["duplicates"], json!([false, false]));
    let second = get(&api, &format!("/events/{}", answer["eventIds"][1].as_str().unwrap())).await.json();
    assert_eq!((&second["type"], &second["state"]), (&json!("b"), &json!("scheduled")));
    assert!(second["dueAt"].is_string());

    let document = publish(&api, r#"[{"type":"a"},{"type":" "}]"#).await.is_problem(422, "invalid-event");
    assert_eq!(document["errors"][0]["pointer"], "/1/type");
    assert_eq!(fake.len(), 2);
    assert_eq!(publish(&api, "[]").await.json()["eventIds"], json!([]));
}

#[tokio::test]
async fn a_repeated_key_gives_the_first_id_and_another_body_is_refused() {
    let (api, fake) = new();
    let keyed = |body: &'static str| post(&api, "/events", &[JSON, ("idempotency-key", "\"k1\"")], body);
    let first = keyed(r#"{"type":"a"}"#).await.json();
    let again = keyed(r#"{"type":"a"}"#).await.json();
    assert_eq!((&first["eventId"], &again["duplicate"]), (&again["eventId"], &json!(true)));
    let document = keyed(r#"{"type":"b"}"#).await.is_problem(422, "idempotency-key-reused");
    assert_eq!(document["errors"][0]["pointer"], "");
    let batch = r#"[{"type":"c"},{"type":"b","id":"1"}]"#;
    assert_eq!(publish(&api, r#"{"type":"a","id":"1"}"#).await.status, 202);
    let document = publish(&api, batch).await.is_problem(422, "idempotency-key-reused");
    assert_eq!(document["errors"][0]["pointer"], "/1");
    assert_eq!(fake.len(), 2);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_and_nothing_is_stored() {
    let (api, fake) = new();
    let deep = format!("{{\"type\":\"a\",\"payload\":{}{}}}", "[".repeat(8), "]".repeat(8));
    let large = format!("{{\"type\":\"a\",\"payload\":\"{}\"}}", "x".repeat(1_024));
    let too_large = format!("{{\"type\":\"a\",\"payload\":\"{}\"}}", "x".repeat(5_000));
    for (headers, body, status, kind) in [
        (vec![JSON], "", 400, "malformed-body"),
        (vec![JSON], "not JSON", 400, "malformed-body"),
        (vec![JSON], "{\"type\":\"a\"} x", 400, "malformed-body"),
        (vec![JSON], "{\"type\":\"a\",\"type\":\"b\"}", 400, "malformed-body"),
        (vec![JSON], &deep, 400, "malformed-body"),
        (vec![JSON], "7", 400, "malformed-body"),
        (vec![JSON], "{}", 422, "invalid-event"),
        (vec![JSON], "{\"type\":\"a b\"}", 422, "invalid-event"),
        (vec![JSON], "{\"type\":\"a\",\"paylod\":1}", 422, "invalid-event"),
        (vec![JSON], &large, 413, "too-large"),
        (vec![JSON], &too_large, 413, "too-large"),
        (vec![JSON], "[{},{},{},{}]", 413, "too-large"),
        (vec![], "{\"type\":\"a\"}", 415, "unsupported-media-type"),
        (vec![("content-type", "text/plain")], "{\"type\":\"a\"}", 415, "unsupported-media-type"),
        (vec![JSON, ("content-encoding", "gzip")], "{\"type\":\"a\"}", 415, "unsupported-media-type"),
        (vec![JSON, ("idempotency-key", "a b")], "{\"type\":\"a\"}", 400, "bad-idempotency-key"),
        (vec![JSON, ("sec-fetch-site", "cross-site")], "{\"type\":\"a\"}", 403, "cross-site"),
        (vec![JSON, ("host", "b")], "{\"type\":\"a\"}", 400, "bad-request"),
    ] {
        post(&api, "/events", &headers, body.to_owned()).await.is_problem(status, kind);
    }
    post(&api, "/events", &[JSON], vec![b'"', 0xff, b'"']).await.is_problem(400, "malformed-body");
    post(&api, "/events?x=1", &[JSON], "{\"type\":\"a\"}").await.is_problem(400, "bad-query");
    let inner = fake.state.lock();
    assert_eq!((inner.events.len(), inner.calls), (0, 0));
}

#[tokio::test]
async fn a_body_without_a_length_is_limited_as_well() {
    let (api, fake) = new();
    let chunk = || Ok::<_, std::io::Error>(bytes::Bytes::from_static(&[b' '; 1_000]));
    let body = Body::from_stream(futures_util::stream::iter((0..5).map(move |_| chunk())));
    let answer = post(&api, "/events", &[JSON], body).await;
    answer.is_problem(413, "too-large");
    assert_eq!((answer.header("connection"), fake.len()), ("close", 0));
}

#[tokio::test]
async fn a_body_that_does_not_end_is_refused_after_its_time() {
    let (api, _) = api(ServerOptions { body_timeout_ms: 20, ..options() });
    let body = Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    post(&api, "/events", &[JSON], body).await.is_problem(408, "request-timeout");
}

#[tokio::test]
async fn requests_that_others_could_read_differently_are_refused() {
    let (api, _) = new();
    let bare = |uri: &str| Request::get(uri).body(Body::empty()).unwrap();
    send(&api, bare("/livez")).await.is_problem(400, "bad-request");
    let with = |uri: &str, hosts: &[&str]| {
        let request = hosts.iter().fold(Request::get(uri), |request, host| request.header("host", *host));
        send(&api, request.body(Body::empty()).unwrap())
    };
    with("/livez", &["localhost", "localhost"]).await.is_problem(400, "bad-request");
    with("/livez", &["a b"]).await.is_problem(400, "bad-request");
    with("http://b/livez", &["localhost"]).await.is_problem(400, "bad-request");
    assert_eq!(with("http://localhost/livez", &["localhost"]).await.status, 200);
}

#[tokio::test]
async fn a_server_for_its_own_machine_has_no_other_name() {
    let asked_as = async |api: &ApiState, host: &str| {
        let request = Request::get("/livez").header("host", host);
        send(api, request.body(Body::empty()).unwrap()).await
    };
    let (local, _) = new();
    for host in [
        "localhost:3000",
        "LOCALHOST",
        "a.localhost",
        "127.0.0.1:3000",
        "127.1.2.3",
        "[::1]:3000",
        "[::ffff:127.0.0.1]",
    ] {
        assert_eq!(asked_as(&local, host).await.status, 200, "{host}");
    }
    let (open, _) = api(ServerOptions { only_local: false, ..options() });
    for host in ["evil.example:3000", "localhost.example", "10.0.0.1", "[::2]:3000", "127.0.0.1.example"] {
        asked_as(&local, host).await.is_problem(403, "foreign-host");
        assert_eq!(asked_as(&open, host).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing() {
    let (api, _) = new();
    let statuses = async |headers: &[(&str, &str)]| post(&api, "/plugins/signup/rollback", headers, "").await.status;
    for headers in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site"), ("origin", "http://localhost")],
        &[("origin", "http://evil.example")],
        &[("origin", "http://localhost:8080")],
        &[("origin", "null")],
    ] {
        assert_eq!(statuses(headers).await, 403, "{headers:?}");
    }
    for headers in [&[][..], &[("sec-fetch-site", "same-origin")], &[("origin", "http://localhost")]] {
        assert_eq!(statuses(headers).await, 200, "{headers:?}");
    }
}

#[tokio::test]
async fn too_much_of_head_or_address_is_refused() {
    let (api, _) = new();
    let address = format!("/events/{}", "x".repeat(9_000));
    get(&api, &address).await.is_problem(414, "uri-too-long");
    let many = (0..64)
        .fold(Request::get("/livez").header("host", "localhost"), |request, n| request.header(format!("h{n}"), ""));
    send(&api, many.body(Body::empty()).unwrap()).await.is_problem(431, "headers-too-large");
    let long = Request::get("/livez").header("host", "localhost").header("long", "x".repeat(33_000));
    send(&api, long.body(Body::empty()).unwrap()).await.is_problem(431, "headers-too-large");
}

#[tokio::test]
async fn the_wrong_path_and_the_wrong_method_are_problems_too() {
    let (api, _) = new();
    get(&api, "/").await.is_problem(404, "not-found");
    get(&api, "/events/1").await.is_problem(404, "not-found");
    get(&api, "/events/01890a5d-ac96-774b-bcce-b302099a8057").await.is_problem(404, "not-found");
    for path in ["/plugins/none", "/events/%ff", "/failed-events/%ff", "/plugins/%ff", "//events"] {
        get(&api, path).await.is_problem(404, "not-found");
    }
    for (path, allow) in [("/events", "POST,GET,HEAD"), ("/failed-events/x/replay", "POST"), ("/metrics", "GET,HEAD")] {
        let request = Request::delete(path).header("host", "localhost").body(Body::empty()).unwrap();
        let answer = send(&api, request).await;
        answer.is_problem(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), allow);
    }
}

#[tokio::test]
async fn errors_of_the_broker_become_problems() {
    let (api, fake) = new();
    for (error, status, kind) in [
        (Error::Full { waiting: 1, limit: 1 }, 429, "queue-full"),
        (Error::NoRoom("OOM".into()), 503, "store-full"),
        (Error::refused("connection refused"), 503, "store-unavailable"),
        (Error::unknown("cut"), 503, "store-unavailable"),
        (Error::Unsafe("the store evicts".into()), 503, "store-unsafe"),
        (Error::Misconfigured("WRONGTYPE".into()), 500, "store-misconfigured"),
    ] {
        fake.state.lock().failure = Some(error);
        publish(&api, r#"{"type":"a"}"#).await.is_problem(status, kind);
        for path in ["/events", "/failed-events", "/metrics", "/events/01890a5d-ac96-774b-bcce-b302099a8057"] {
            get(&api, path).await.is_problem(status, kind);
        }
    }
}

#[tokio::test]
async fn a_panic_in_a_handler_is_an_answer() {
    let (api, fake) = new();
    fake.state.lock().panics = true;
    publish(&api, r#"{"type":"a"}"#).await.is_problem(500, "internal");
    assert_eq!(get(&api, "/livez").await.status, 200);
}

/// Publishes events of these types and ends them.
async fn ended(
    api: &ApiState,
    fake: &FakeBroker,
    types: &[&str],
    failure: Option<(FailureClass, &str)>,
) -> Vec<String> {
    let mut ids = Vec::new();
    for event_type in types {
        let answer = publish(api, &format!("{{\"type\":\"{event_type}\"}}")).await.json();
        let id = answer["eventId"].as_str().unwrap();
        let failure = failure.map(|(class, reason)| (class, reason.to_owned()));
        fake.change(id.parse().unwrap(), |found| {
            found.state = if failure.is_some() { EventState::Failed } else { EventState::Processed };
            found.record.attempts_made = 1;
            found.record.end =
                Some(EventEnd { at: Timestamp::from_unix_ms(1), failure, result: None, children: Vec::new() });
        });
        ids.push(id.to_owned());
    }
    ids
}

#[tokio::test]
async fn processed_events_are_listed_in_pages() {
    let (api, fake) = new();
    let ids = ended(&api, &fake, &["a", "b", "a"], None).await;
    ended(&api, &fake, &["c"], Some((FailureClass::Trap, "bug"))).await;
    let first = get(&api, "/events?limit=2").await.json();
    let listed = |page: &Value| -> Vec<String> {
        page["events"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed(&first), [ids[2].clone(), ids[1].clone()]);
    let cursor = first["nextCursor"].as_str().unwrap();
    let second = get(&api, &format!("/events?limit=2&cursor={cursor}")).await.json();
    assert_eq!((listed(&second), &second["nextCursor"]), (vec![ids[0].clone()], &Value::Null));
    assert_eq!(listed(&get(&api, "/events?type=b").await.json()), [ids[1].clone()]);
    get(&api, "/events?cursor=never-given").await.is_problem(400, "bad-query");
    let document = get(&api, "/events?limit=0&tpye=a").await.is_problem(400, "bad-query");
    assert_eq!(document["errors"].as_array().unwrap().len(), 2);
    assert!(document["errors"][0]["message"].as_str().unwrap().contains("type, since, until, limit, cursor"));
}

#[tokio::test]
async fn a_failed_event_is_shown_with_its_reason_and_replayed_once() {
    let (api, fake) = new();
    let id = ended(&api, &fake, &["USER_SIGNUP"], Some((FailureClass::Reject, "no e-mail"))).await.remove(0);
    let listed = get(&api, "/failed-events").await.json();
    assert_eq!(listed["nextCursor"], Value::Null);
    let shown = get(&api, &format!("/failed-events/{id}")).await.json();
    assert_eq!(listed["failedEvents"], json!([shown]));
    assert_eq!((&shown["class"], &shown["reason"]), (&json!("reject"), &json!("no e-mail")));
    assert_eq!((&shown["attemptCount"], &shown["failedAt"]), (&json!(1), &json!("1970-01-01T00:00:00.001Z")));

    let replay = format!("/failed-events/{id}/replay");
    post(&api, &replay, &[JSON], "{\"payload\":1}").await.is_problem(400, "bad-request");
    let answer = post(&api, &replay, &[JSON], " {}").await;
    assert_eq!((answer.status, &answer.json()["eventId"]), (202, &json!(id)));
    assert_eq!(get(&api, &format!("/events/{id}")).await.json()["replays"], 1);
    post(&api, &replay, &[], "").await.is_problem(409, "not-failed");
    get(&api, &format!("/failed-events/{id}")).await.is_problem(404, "not-found");
    let unknown = "/failed-events/01890a5d-ac96-774b-bcce-b302099a8057/replay";
    post(&api, unknown, &[], "").await.is_problem(404, "not-found");
    post(&api, "/failed-events/x/replay", &[], "").await.is_problem(404, "not-found");
}

#[tokio::test]
async fn metrics_are_json_unless_text_is_asked_for() {
    let (api, fake) = new();
    {
        let mut inner = fake.state.lock();
        inner.stats.counters.processed = 10;
        inner.stats.counters.failed = 2;
        inner.stats.counters.failed_by_class.insert(FailureClass::NoHandler, 2);
        inner.stats.depth.queued.insert("signup".into(), 3);
    }
    let metrics = get(&api, "/metrics").await.json();
    assert_eq!((&metrics["processed"], &metrics["failed"], &metrics["waiting"]), (&json!(10), &json!(2), &json!(3)));
    assert_eq!((&metrics["failedByClass"], &metrics["lanes"]), (&json!({ "no-handler": 2 }), &json!({ "signup": 3 })));
    let request = Request::get("/metrics").header("host", "localhost").header("accept", "application/openmetrics-text");
    let answer = send(&api, request.body(Body::empty()).unwrap()).await;
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"));
    assert!(answer.text.contains("eventstream_events_processed_total 10\n"), "{}", answer.text);
}

#[tokio::test]
async fn readiness_follows_the_broker_and_the_end_of_the_host() {
    let (api, fake) = new();
    let ready = json!({ "status": "ready", "accepting": true, "handling": true });
    assert_eq!(get(&api, "/readyz").await.json(), ready);
    let verbose = get(&api, "/readyz?verbose").await.json();
    assert_eq!(verbose["checks"][1]["facts"], json!({ "kind": "Fake", "durability": "fsync" }));

    fake.state.lock().trouble = Some("the store is away".into());
    let document = get(&api, "/readyz").await.is_problem(503, "not-ready");
    assert_eq!((&document["detail"], &document["checks"][1]["ready"]), (&json!("the store is away"), &json!(false)));
    assert_eq!((&document["accepting"], &document["handling"]), (&json!(false), &json!(true)));
    fake.state.lock().trouble = None;
    api.draining.cancel();
    let document = get(&api, "/readyz").await.is_problem(503, "not-ready");
    assert_eq!(document["detail"], "the server is stopping");
    assert_eq!((&document["accepting"], &document["handling"]), (&json!(false), &json!(false)));
    assert_eq!(get(&api, "/livez").await.status, 200);
}

#[tokio::test]
async fn plugins_that_are_awaited_keep_the_host_from_being_ready() {
    let (api, _) = new();
    let routes = Arc::new(FakePluginControl { trouble: Some("plugins are being loaded: a".into()) });
    let document = get(&ApiState { routes, ..api }, "/readyz").await.is_problem(503, "not-ready");
    assert_eq!(document["detail"], "plugins are being loaded: a");
    assert_eq!((&document["checks"][2]["name"], &document["checks"][2]["ready"]), (&json!("plugins"), &json!(false)));
}

#[tokio::test]
async fn until_the_broker_is_there_the_server_lives_and_takes_nothing() {
    let peer = ([127, 0, 0, 1], 1).into();
    let entrance = Gateway::starting(options(), "the broker is being opened".into()).for_peer(peer);
    let ask = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        answer_of(entrance.clone().answer(request.body(Body::from("{}")).unwrap()).await).await
    };
    assert_eq!(ask("GET", "/livez").await.status, 200);
    for (method, path) in [("GET", "/readyz"), ("POST", "/events"), ("GET", "/metrics"), ("DELETE", "/plugins/a")] {
        let refusal = ask(method, path).await;
        assert_eq!(refusal.header("retry-after"), "1", "{path}");
        let document = refusal.is_problem(503, "not-ready");
        assert!(document["detail"].as_str().unwrap().starts_with("the broker is being opened"), "{document}");
    }
    entrance.open(new().0);
    assert_eq!(ask("GET", "/readyz").await.status, 200);
}

#[tokio::test]
async fn a_slash_at_the_end_of_a_path_changes_nothing() {
    let (api, _) = new();
    let answer = post(&api, "/events/", &[("content-type", "application/json")], r#"{"type":"USER_SIGNUP"}"#).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let id = answer.json()["eventId"].as_str().unwrap().to_owned();
    for path in [format!("/events/{id}/"), "/events/?limit=1".into(), "/metrics//".into(), "/livez/".into()] {
        assert_eq!(get(&api, &path).await.status, 200, "{path}");
    }
    get(&api, "/").await.is_problem(404, "not-found");
}

#[tokio::test]
async fn whoever_sends_no_json_is_told_the_flag_of_curl() {
    let (api, _) = new();
    for headers in [&[][..], &[("content-type", "application/x-www-form-urlencoded")]] {
        let document = post(&api, "/events", headers, "{}").await.is_problem(415, "unsupported-media-type");
        assert!(document["detail"].as_str().unwrap().contains("-H 'Content-Type: application/json'"), "{document}");
    }
}
