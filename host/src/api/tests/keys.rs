//! Keys: every route with every key, and what is done with keys themselves.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};

use super::client::{JSON, TestResponse, answer_of, get, new_api, options, post};
use super::fake::fake_api;
use super::fake_keys::{key, rights, token, with_keys};
use crate::api::routes::{ROUTES, RouteAccess};
use crate::api::{ApiState, Gateway, ServerOptions};
use crate::api_key::{ConfiguredKey, KeyToken, Scope};
use crate::broker::Error;
use crate::event::Timestamp;

/// Sends a request from another machine; each path has one of its own, since a client may not try too many keys.
pub(super) async fn send(
    api: &ApiState,
    method: &Method,
    path: &str,
    key: Option<&KeyToken>,
    body: &str,
) -> TestResponse {
    let client = [10, 0, 0, u8::try_from(path.len()).unwrap()];
    let mut request = Request::builder().method(method).uri(path).header("host", "es.example").header(JSON.0, JSON.1);
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {}", key.expose()));
    }
    let request = request.body(Body::from(body.to_owned())).unwrap();
    answer_of(Gateway::new(api.clone()).for_client((client, 1).into()).answer(request).await).await
}

pub(super) async fn send_as(api: &ApiState, number: u8, method: Method, path: &str, body: &str) -> TestResponse {
    send(api, &method, path, Some(&token(number)), body).await
}

pub(super) async fn publish(api: &ApiState, key: Option<&KeyToken>, body: &str) -> TestResponse {
    send(api, &Method::POST, "/events", key, body).await
}

fn path_of(pattern: &str) -> String {
    pattern.replace("{id}", "01890a5d-ac96-774b-bcce-b302099a8057").replace("{name}", "nobody")
}

pub(super) fn scoped(number: u8, scope: Scope) -> crate::api_key::ApiKey {
    key(number, &format!(r#"{{"scopes":["{scope}"]}}"#))
}

#[tokio::test]
async fn every_route_wants_its_scope() {
    let (api, fake) = new_api();
    let all = Scope::ALL.iter().zip(1..).map(|(scope, number)| scoped(number, *scope));
    let mut expired = key(21, r#"{"scopes":["publish","read","operate","deploy","keys"]}"#);
    expired.rights.expires_at = Some(Timestamp::from_unix_ms(2));
    let revoked = key(22, r#"{"scopes":["publish","read","operate","deploy","keys"]}"#);
    let revoked = revoked.revoked(Timestamp::from_unix_ms(2));
    let (api, _) = with_keys(api, &fake, all.chain([expired, revoked]), Vec::new()).await;
    for route in ROUTES {
        let path = path_of(route.path);
        let what = format!("{} {path}", route.method);
        let is_open = route.access == RouteAccess::Open;
        let anonymous = send(&api, &route.method, &path, None, "{}").await;
        assert_eq!(anonymous.status == 401, !is_open, "{what}: {}", anonymous.text);
        if !is_open {
            anonymous.is_problem(401, "key-missing");
            assert_eq!(anonymous.header("www-authenticate"), "Bearer realm=\"eventstream\"");
        }
        for (number, word) in [(21, "expired at"), (22, "was revoked at"), (23, "not known here")] {
            let answer = send(&api, &route.method, &path, Some(&token(number)), "{}").await;
            if !is_open {
                let detail = answer.is_problem(401, "key-refused")["detail"].to_string();
                assert!(detail.contains(word) && !detail.contains(&token(number).expose()[15..]), "{what}: {detail}");
            }
        }
        for (scope, number) in Scope::ALL.iter().zip(1..) {
            let answer = send(&api, &route.method, &path, Some(&token(number)), "{}").await;
            let wanted = match route.access {
                RouteAccess::Open | RouteAccess::AnyCaller => *scope,
                RouteAccess::Metrics => Scope::Read,
                RouteAccess::Needs(wanted) => wanted,
            };
            // What the handler says of a request that has nothing to do.
            let is_handled = !matches!(answer.status, 401 | 403 | 405) && !answer.text.contains("there is nothing at");
            assert_eq!(is_handled, wanted == *scope, "{what} with {scope}: {}", answer.text);
            if wanted != *scope {
                let detail = answer.is_problem(403, "not-permitted")["detail"].to_string();
                assert!(detail.contains(&format!("{} {}", route.method, route.path)), "{detail}");
                assert!(detail.contains(&format!("needs a key with the scope {wanted}")), "{detail}");
                let challenge =
                    format!("Bearer realm=\"eventstream\", error=\"insufficient_scope\", scope=\"{wanted}\"");
                assert_eq!(answer.header("www-authenticate"), challenge);
            }
        }
    }
}

#[tokio::test]
async fn without_a_route_nobody_learns_anything() {
    let (api, fake) = new_api();
    let (api, _) = with_keys(api, &fake, [scoped(1, Scope::Read)], Vec::new()).await;
    for (method, path, status) in [
        (Method::GET, "/nothing", 404),
        (Method::PUT, "/events", 405),
        (Method::OPTIONS, "/events", 405),
        (Method::POST, "/%65vents", 404),
        (Method::GET, "//events", 404),
    ] {
        send(&api, &method, path, None, "").await.is_problem(401, "key-missing");
        assert_eq!(send_as(&api, 1, method, path, "").await.status, status, "{path}");
    }
}

#[tokio::test]
async fn a_key_publishes_only_its_types_and_a_batch_is_accepted_whole_or_not_at_all() {
    let (api, fake) = new_api();
    let (api, _) = with_keys(api, &fake, [key(1, r#"{"scopes":["publish"],"types":["order.*"]}"#)], Vec::new()).await;
    let publish = async |body: &str| publish(&api, Some(&token(1)), body).await;
    assert_eq!(publish(r#"{"type":"order.paid"}"#).await.status, 202);
    assert_eq!(publish(r#"[{"type":"order.paid"},{"type":"order.a.b"}]"#).await.status, 202);
    for (body, places) in [
        (r#"{"type":"orders"}"#, json!(["/type"])),
        (r#"[{"type":"order.paid"},{"type":"order"},{"type":"x"}]"#, json!(["/1/type", "/2/type"])),
    ] {
        let problem = publish(body).await.is_problem(403, "not-permitted");
        let pointers: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| &error["pointer"]).collect();
        assert_eq!(json!(pointers), places);
        assert!(problem["detail"].to_string().contains("order.*"), "{problem}");
    }
    assert_eq!(fake.len(), 3);
}

#[tokio::test]
async fn a_rate_counts_events_and_tells_what_is_left() {
    let (api, fake) = new_api();
    let key = key(1, r#"{"scopes":["publish","read"],"rate":"4/h"}"#);
    let (api, _) = with_keys(api, &fake, [key], Vec::new()).await;
    let answer = publish(&api, Some(&token(1)), r#"{"type":"a"}"#).await;
    assert_eq!((answer.status, answer.header("ratelimit-policy")), (202, "\"key\";q=4;w=3600"));
    assert_eq!(answer.header("ratelimit"), "\"key\";r=3;t=900");
    assert_eq!(send_as(&api, 1, Method::GET, "/events", "").await.header("ratelimit"), "\"key\";r=2;t=1800");
    // Two are left, and a batch always fits.
    assert_eq!(publish(&api, Some(&token(1)), r#"[{"type":"a"},{"type":"a"},{"type":"a"}]"#).await.status, 202);
    for answer in
        [publish(&api, Some(&token(1)), r#"{"type":"a"}"#).await, send_as(&api, 1, Method::GET, "/events", "").await]
    {
        answer.is_problem(429, "rate-limited");
        let wait_s: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1_700..=1_800).contains(&wait_s), "{wait_s}");
        assert_eq!(answer.header("connection"), "", "the next request may come on the same connection");
    }
    // Keys without a rate have no such headers, and open routes count nothing.
    assert_eq!(send_as(&api, 1, Method::GET, "/livez", "").await.status, 200);
}

#[tokio::test]
async fn each_request_with_a_valid_key_counts_for_its_rate_whatever_its_answer() {
    let (api, fake) = new_api();
    let key = key(1, r#"{"scopes":["read","publish"],"rate":"5/h"}"#);
    let (api, _) = with_keys(api, &fake, [key], Vec::new()).await;
    for (method, path, body, status) in [
        (Method::GET, "/nothing", "", 404),
        (Method::PUT, "/events", "", 405),
        (Method::DELETE, "/plugins/a", "", 403),
        (Method::POST, "/events", "no JSON", 400),
        (Method::GET, "/events", "", 200),
        (Method::GET, "/events", "", 429),
        (Method::GET, "/nothing", "", 429),
        (Method::DELETE, "/plugins/a", "", 429),
        (Method::POST, "/events", "no JSON", 429),
        (Method::GET, "/livez", "", 200),
    ] {
        assert_eq!(send_as(&api, 1, method.clone(), path, body).await.status, status, "{method} {path}");
    }
    assert_eq!(send_as(&api, 1, Method::GET, "/nothing", "").await.header("ratelimit").split(';').nth(1), Some("r=0"));
    send(&api, &Method::GET, "/nothing", None, "").await.is_problem(401, "key-missing");
}

#[tokio::test]
async fn hosts_share_a_rate_from_the_first_request_on() {
    let (api, fake) = new_api();
    fake.state.lock().stats.depth.consumers = 2;
    let (api, _) = with_keys(api, &fake, [key(1, r#"{"scopes":["read"],"rate":"4/h"}"#)], Vec::new()).await;
    for status in [200, 200, 429] {
        assert_eq!(send_as(&api, 1, Method::GET, "/events", "").await.status, status);
    }
}

#[tokio::test]
async fn the_first_key_closes_the_door_behind_it() {
    let (api, fake) = new_api();
    let (api, store) = with_keys(api, &fake, [], Vec::new()).await;
    assert_eq!(get(&api, "/whoami").await.json()["caller"], "local");
    let make = async |body: Value| post(&api, "/keys", &[JSON], body.to_string()).await;
    // Whoever is elsewhere makes no key.
    send(&api, &Method::POST, "/keys", None, "{}").await.is_problem(403, "foreign-host");
    let problem = make(json!({"name": "a", "scopes": ["publish"]})).await.is_problem(422, "invalid-key");
    assert!(problem["detail"].to_string().contains("scope keys first"), "{problem}");
    let made = make(json!({"name": "ada", "scopes": ["keys", "read"]})).await;
    assert_eq!((made.status, made.header("cache-control")), (201, "no-store"), "{}", made.text);
    let (text, id) = (made.json()["key"].as_str().unwrap().to_owned(), made.json()["id"].as_str().unwrap().to_owned());
    assert_eq!(made.header("location"), format!("/keys/{id}"));
    make(json!({"name": "b", "scopes": ["read"]})).await.is_problem(401, "key-missing");
    get(&api, "/events").await.is_problem(401, "key-missing");
    let admin: KeyToken = text.parse().unwrap();
    let whoami = send(&api, &Method::GET, "/whoami", Some(&admin), "").await.json();
    assert_eq!(
        whoami,
        json!({"caller": "key", "id": id, "name": "ada", "scopes": ["read", "keys"], "types": [],
                              "rate": null, "expiresAt": null})
    );
    // A store that lost its keys opens nothing.
    store.state.lock().keys.clear();
    store.state.lock().writes += 1;
    api.keys.refresh().await.unwrap();
    make(json!({"name": "b", "scopes": ["keys"]})).await.is_problem(401, "key-missing");
    send(&api, &Method::GET, "/whoami", Some(&admin), "").await.is_problem(401, "key-refused");
}

#[tokio::test]
async fn anonymous_access_opens_publishing_and_reading_only() {
    let (api, fake) = fake_api(ServerOptions { allow_anonymous: true, ..options() });
    let (api, _) = with_keys(api, &fake, [scoped(1, Scope::Deploy)], Vec::new()).await;
    for route in ROUTES {
        let answer = send(&api, &route.method, &path_of(route.path), None, "{}").await;
        let is_closed = matches!(route.access, RouteAccess::Needs(Scope::Operate | Scope::Deploy | Scope::Keys));
        assert_eq!(answer.status == 401, is_closed, "{} {}: {}", route.method, route.path, answer.text);
    }
    let (api, fake) = fake_api(ServerOptions { open_metrics: true, ..options() });
    let (api, _) = with_keys(api, &fake, [scoped(1, Scope::Deploy)], Vec::new()).await;
    assert_eq!(send(&api, &Method::GET, "/metrics", None, "").await.status, 200);
    send(&api, &Method::GET, "/events", None, "").await.is_problem(401, "key-missing");
}

#[tokio::test]
async fn a_key_makes_and_changes_only_lesser_keys() {
    let (api, fake) = new_api();
    let small = key(1, r#"{"scopes":["publish","keys"],"types":["order.*"]}"#);
    let (api, _) = with_keys(api, &fake, [small, scoped(2, Scope::Deploy)], Vec::new()).await;
    let make = async |body: Value| send_as(&api, 1, Method::POST, "/keys", &body.to_string()).await;
    for body in [
        json!({"name": "x", "scopes": ["deploy"]}),
        json!({"name": "x", "scopes": ["publish"]}),
        json!({"name": "x", "scopes": ["publish"], "types": ["order.*", "a"]}),
    ] {
        let detail = make(body).await.is_problem(403, "not-permitted")["detail"].to_string();
        assert!(detail.contains("a key makes only lesser keys"), "{detail}");
    }
    let made = make(json!({"name": "x", "scopes": ["publish"], "types": ["order.paid"], "rate": "5/m"})).await;
    assert_eq!(made.json()["createdBy"], token(1).id().as_str(), "{}", made.text);
    let greater = token(2).id();
    for (method, path) in
        [(Method::DELETE, format!("/keys/{greater}")), (Method::POST, format!("/keys/{greater}/rotate"))]
    {
        let detail = send_as(&api, 1, method, &path, "").await.is_problem(403, "not-permitted")["detail"].to_string();
        assert!(detail.contains("your key has no scope deploy"), "{detail}");
    }
    let own = format!("/keys/{}", token(1).id());
    assert_eq!(send_as(&api, 1, Method::DELETE, &own, "").await.status, 200, "a key may end itself");
    send_as(&api, 1, Method::GET, "/whoami", "").await.is_problem(401, "key-refused");
}

#[tokio::test]
async fn a_rotated_key_has_two_secrets_until_the_overlap_is_over() {
    let (api, fake) = new_api();
    let (api, _) = with_keys(api, &fake, [scoped(1, Scope::Keys)], Vec::new()).await;
    let path = format!("/keys/{}/rotate", token(1).id());
    let rotated = send_as(&api, 1, Method::POST, &path, "").await;
    assert_eq!(rotated.status, 200, "{}", rotated.text);
    let second: KeyToken = rotated.json()["key"].as_str().unwrap().parse().unwrap();
    assert_eq!(second.id(), token(1).id());
    assert!(rotated.json()["overlapUntil"].is_string());
    for key in [&token(1), &second] {
        assert_eq!(send(&api, &Method::GET, "/whoami", Some(key), "").await.status, 200);
    }
    let third = send(&api, &Method::POST, &path, Some(&second), r#"{"overlap":"0s"}"#).await.json();
    let third: KeyToken = third["key"].as_str().unwrap().parse().unwrap();
    assert_eq!(send(&api, &Method::GET, "/whoami", Some(&third), "").await.status, 200);
    for key in [&token(1), &second] {
        send(&api, &Method::GET, "/whoami", Some(key), "").await.is_problem(401, "key-refused");
    }
    for body in [r#"{"overlap":1}"#, r#"{"overlap":"soon"}"#, r#"{"over":"1h"}"#] {
        send(&api, &Method::POST, &path, Some(&third), body).await.is_problem(422, "invalid-key");
    }
}

#[tokio::test]
async fn keys_are_listed_without_their_secrets() {
    let (api, fake) = new_api();
    let configured =
        ConfiguredKey { name: "ci".into(), sha256: token(9).hash(), rights: rights(r#"{"scopes":["deploy"]}"#) };
    let (api, _) = with_keys(api, &fake, [scoped(1, Scope::Keys), scoped(2, Scope::Read)], vec![configured]).await;
    assert_eq!(send_as(&api, 9, Method::GET, "/whoami", "").await.json()["name"], "ci");
    let answer = send_as(&api, 1, Method::GET, "/keys", "").await;
    for number in [1, 2, 9] {
        assert!(!answer.text.contains(&token(number).hash().to_string()), "{}", answer.text);
        assert!(!answer.text.contains(&token(number).expose()[15..]), "{}", answer.text);
    }
    let keys = answer.json()["keys"].as_array().unwrap().clone();
    assert_eq!((&keys[0]["name"], &keys[0]["source"], keys.len()), (&json!("ci"), &json!("configuration"), 3));
    let used: Vec<_> = keys.iter().filter(|key| key["lastUsedAt"].is_string()).map(|key| &key["name"]).collect();
    assert_eq!(used, ["key-1"]);
    send_as(&api, 1, Method::DELETE, "/keys/ci", "").await.is_problem(409, "key-not-changed");
    let unknown = format!("/keys/{}", token(7).id());
    send_as(&api, 1, Method::DELETE, &unknown, "").await.is_problem(404, "not-found");
    let misplaced = format!("/keys/{}", token(2).expose());
    let answer = send_as(&api, 1, Method::DELETE, &misplaced, "").await;
    answer.is_problem(404, "not-found");
    assert!(!answer.text.contains(token(2).expose()), "{}", answer.text);
}

#[tokio::test]
async fn a_description_is_refused_with_each_fault() {
    let (api, fake) = new_api();
    let (api, store) =
        with_keys(api, &fake, [key(1, r#"{"scopes":["publish","read","operate","deploy","keys"]}"#)], Vec::new()).await;
    let make = async |body: &str| send_as(&api, 1, Method::POST, "/keys", body).await;
    for (body, places) in [
        ("{}", json!(["/name", "/scopes"])),
        (
            r#"{"name":"a b","scopes":[],"rate":5,"expiresIn":"0s","types":["a b"],"secret":"x"}"#,
            json!(["/expiresIn", "/name", "/rate", "/secret", "/types", "/scopes"]),
        ),
        (r#"{"name":"a","scopes":["admin"]}"#, json!(["/scopes"])),
    ] {
        let problem = make(body).await.is_problem(422, "invalid-key");
        let pointers: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| &error["pointer"]).collect();
        assert_eq!(json!(pointers), places);
    }
    make("[]").await.is_problem(400, "malformed-body");
    assert_eq!(store.state.lock().keys.len(), 1);
    let made = make(r#"{"name":"a","scopes":["read"],"expiresIn":"90d"}"#).await;
    assert!(made.json()["expiresAt"].is_string(), "{}", made.text);
}

#[tokio::test]
async fn a_full_store_forgets_the_key_that_ended_first() {
    let (api, fake) = new_api();
    let ended = |number, ms| scoped(number, Scope::Read).revoked(Timestamp::from_unix_ms(ms));
    let stored = [scoped(1, Scope::Keys), ended(2, 20), ended(3, 10)];
    let (api, store) = with_keys(api, &fake, stored, Vec::new()).await;
    store.state.lock().room = Some(3);
    let make = async || send_as(&api, 1, Method::POST, "/keys", r#"{"name":"a","scopes":["keys"]}"#).await;
    for forgotten in [3, 2] {
        assert_eq!(make().await.status, 201);
        assert!(!store.state.lock().keys.contains_key(&token(forgotten).id()));
    }
    make().await.is_problem(409, "too-many-keys");
}

#[tokio::test]
async fn a_store_that_is_away_changes_no_key_and_known_keys_serve() {
    let (api, fake) = new_api();
    let (api, store) = with_keys(api, &fake, [scoped(1, Scope::Keys)], Vec::new()).await;
    store.state.lock().failure = Some(Error::unknown("cut"));
    let path = format!("/keys/{}", token(1).id());
    send_as(&api, 1, Method::GET, "/keys", "").await.is_problem(503, "store-unavailable");
    let problem = send_as(&api, 1, Method::DELETE, &path, "").await.is_problem(503, "store-unavailable");
    assert_eq!(problem["outcome"], "unknown");
    assert!(api.keys.refresh().await.is_err());
    assert_eq!(send_as(&api, 1, Method::GET, "/whoami", "").await.status, 200);
    store.state.lock().failure = None;
    let revoked = send_as(&api, 1, Method::DELETE, &path, "").await;
    assert_eq!(revoked.json()["state"], "revoked", "{}", revoked.text);
    send_as(&api, 1, Method::GET, "/whoami", "").await.is_problem(401, "key-refused");
}
