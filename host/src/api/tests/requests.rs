//! Requests that are refused whatever their handler: by their body, head, host, path or method.

use axum::body::Body;
use axum::http::Request;

use super::client::{JSON, get, new_api, options, post, send};
use super::fake::fake_api;
use crate::api::{ApiState, ServerOptions};

#[tokio::test]
async fn a_body_without_a_length_is_limited_as_well() {
    let (api, fake) = new_api();
    let chunk = || Ok::<_, std::io::Error>(bytes::Bytes::from_static(&[b' '; 1_000]));
    let body = Body::from_stream(futures_util::stream::iter((0..5).map(move |_| chunk())));
    let answer = post(&api, "/events", &[JSON], body).await;
    answer.is_problem(413, "too-large");
    assert_eq!((answer.header("connection"), fake.len()), ("close", 0));
}

#[tokio::test]
async fn a_body_that_does_not_end_is_refused_after_its_time() {
    let (api, _) = fake_api(ServerOptions { body_timeout_ms: 20, ..options() });
    let body = Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    post(&api, "/events", &[JSON], body).await.is_problem(408, "request-timeout");
}

#[tokio::test]
async fn requests_that_others_could_read_differently_are_refused() {
    let (api, _) = new_api();
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
    let (local, _) = new_api();
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
    let (open, _) = fake_api(ServerOptions { allow_anonymous: true, ..options() });
    for host in ["evil.example:3000", "localhost.example", "10.0.0.1", "[::2]:3000", "127.0.0.1.example"] {
        asked_as(&local, host).await.is_problem(403, "foreign-host");
        assert_eq!(asked_as(&open, host).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing() {
    let (api, _) = new_api();
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
    let (api, _) = new_api();
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
    let (api, _) = new_api();
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
async fn a_slash_at_the_end_of_a_path_changes_nothing() {
    let (api, _) = new_api();
    let answer = post(&api, "/events/", &[("content-type", "application/json")], r#"{"type":"USER_SIGNUP"}"#).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let id = answer.json()["eventId"].as_str().unwrap().to_owned();
    for path in [format!("/events/{id}/"), "/events/?limit=1".into(), "/metrics//".into(), "/livez/".into()] {
        assert_eq!(get(&api, &path).await.status, 200, "{path}");
    }
    get(&api, "/").await.is_problem(404, "not-found");
}
