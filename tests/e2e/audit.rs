//! The audit: each change of a person is there once, with who, from where and why, and nothing in it is secret.

use eventstream_tests::client::{Answer, Client};
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::command;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

on_both_brokers! {
    each_change_of_a_person_is_kept_with_who_and_why,
    an_import_is_noted_in_the_store_that_it_changed,
    the_audit_is_read_page_by_page_and_bounded,
}

#[track_caller]
fn send(client: &Client, method: &str, path: &str, key: &str, body: Option<&str>) -> Answer {
    let bearer = format!("Bearer {key}");
    let mut headers = vec![("content-type", "application/json")];
    if !key.is_empty() {
        headers.push(("authorization", bearer.as_str()));
    }
    let body = body.map(str::as_bytes).or((method == "POST").then_some(b"".as_slice()));
    client.request(method, path, &headers, body).unwrap_or_else(|error| panic!("{method} {path}: {}", error.0))
}

#[track_caller]
fn make_key(client: &Client, by: &str, name: &str, scope: &str) -> String {
    let body = json!({ "name": name, "scopes": [scope, "keys"] }).to_string();
    send(client, "POST", "/keys", by, Some(&body)).expect(201).json()["key"].as_str().unwrap().to_owned()
}

fn id_of(key: &str) -> &str {
    &key[4..14]
}

/// An event that is due in an hour.
fn schedule(client: &Client) -> String {
    let body = r#"{"type":"work","payload":{"card":"4111"},"delayMs":3600000}"#;
    client.post(body).expect(202).json()["eventId"].as_str().unwrap().to_owned()
}

fn fail(client: &Client) -> String {
    client.wait_ended(&client.post_event("work", &json!({ "do": "reject", "message": "card 4111" }))).id
}

/// The parts of an entry that a change determines.
fn brief(entry: &Value) -> Value {
    json!([entry["by"], entry["action"], entry["target"], entry["reason"], entry["outcome"]])
}

fn each_change_of_a_person_is_kept_with_who_and_why(broker: Broker) {
    let mut stage = Stage::scripted(broker, &["work"]);
    let client = stage.client.clone();
    let [early, cancelled] = [(); 2].map(|()| schedule(&client));
    let [replayed, discarded] = [(); 2].map(|()| fail(&client));
    let all = json!({ "name": "admin", "scopes": ["publish", "read", "operate", "deploy", "keys"] }).to_string();
    let made = send(&client, "POST", "/keys", "", Some(&all)).expect(201).json();
    let admin = made["key"].as_str().unwrap().to_owned();
    let why = |reason: &str| Some(json!({ "reason": reason }).to_string());
    let post = |path: &str, reason: &str| send(&client, "POST", path, &admin, why(reason).as_deref());
    post(&format!("/events/{early}/run-now"), "the customer waits").expect(202);
    post(&format!("/events/{cancelled}/cancel"), "sent by mistake").expect(200);
    post(&format!("/events/{cancelled}/cancel"), "again").expect(409);
    post(&format!("/failed-events/{replayed}/replay"), "mended").expect(202);
    let path = format!("/failed-events/{discarded}?reason=of%20no%20use");
    send(&client, "DELETE", &path, &admin, None).expect(200);
    send(&client, "DELETE", &path, &admin, None).expect(409);
    let pause = r#"{"reason":"the bank is away","until":"2h"}"#;
    send(&client, "POST", "/plugins/work/pause", &admin, Some(pause)).expect(200);
    post("/plugins/work/resume", "it is back").expect(200);
    post("/plugins/work/resume", "it is not paused").expect(200);
    let shop = make_key(&client, &admin, "shop", "publish");
    send(&client, "POST", &format!("/keys/{}/rotate", id_of(&shop)), &admin, None).expect(200);
    for _ in 0..2 {
        send(&client, "DELETE", &format!("/keys/{}?reason=she%20left", id_of(&shop)), &admin, None).expect(200);
    }
    send(&client, "DELETE", "/plugins/work?reason=replaced", &admin, None).expect(200);
    send(&client, "DELETE", "/plugins/nobody", &admin, None).expect(404);

    stage.host.kill9();
    stage.replace_host(|options| options);
    let client = stage.client.clone();
    let answer = send(&client, "GET", "/audit", &admin, None).expect(200);
    let (text, document) = (answer.text(), answer.json());
    let entries = document["entries"].as_array().unwrap();
    let (admin_id, shop_id) = (id_of(&admin), id_of(&shop));
    let expected = [
        json!(["key:admin", "plugin.remove", "work", "replaced", "done"]),
        json!(["key:admin", "key.revoke", shop_id, "she left", "done"]),
        json!(["key:admin", "key.rotate", shop_id, null, "done"]),
        json!(["key:admin", "key.create", shop_id, null, "done"]),
        json!(["key:admin", "plugin.resume", "work", "it is back", "done"]),
        json!(["key:admin", "plugin.pause", "work", "the bank is away", "done"]),
        json!(["key:admin", "event.discard", discarded, "of no use", "done"]),
        json!(["key:admin", "event.replay", replayed, "mended", "done"]),
        json!(["key:admin", "event.cancel", cancelled, "sent by mistake", "done"]),
        json!(["key:admin", "event.run-now", early, "the customer waits", "done"]),
        json!(["local", "key.create", admin_id, null, "done"]),
    ];
    assert_eq!(entries.iter().map(brief).collect::<Vec<_>>(), expected);
    for entry in &entries[..10] {
        assert_eq!((&entry["key"], &entry["from"]), (&json!(admin_id), &json!("127.0.0.1")), "{entry}");
    }
    assert_eq!((&entries[10]["key"], &document["nextCursor"]), (&Value::Null, &Value::Null));
    assert!(entries[5]["detail"].as_str().unwrap().starts_with("until 2"), "{text}");
    assert_eq!(entries[3]["detail"], "shop: publish,keys");
    for secret in [&admin[15..47], &shop[15..47], "4111"] {
        assert!(!text.contains(secret), "{text}");
    }
    // The command line shows the same, and whoever may only publish sees nothing.
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut run = command(folder.path(), &[&["audit", "--url", stage.host.url()], arguments].concat());
        let output = run.env("EVENTSTREAM_KEY", &admin).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(serde_json::from_str::<Value>(&run(&["--json"])).unwrap()["entries"], document["entries"]);
    let shown = run(&["--action", "event.run-now", "--by", admin_id, "--target", &early, "--since", "1h"]);
    assert!(shown.contains(": the customer waits") && shown.lines().count() == 1, "{shown}");
    assert_eq!(run(&["--action", "plugin"]).lines().count(), 3);
    let publisher = make_key(&client, &admin, "publisher", "publish");
    send(&client, "GET", "/audit", &publisher, None).expect(403);
}

fn an_import_is_noted_in_the_store_that_it_changed(broker: Broker) {
    let stage = Stage::scripted(broker, &["work"]);
    fail(&stage.client);
    let (folder, target) = (tempfile::tempdir().unwrap(), broker.start());
    let run = |arguments: &[&str]| {
        let output = command(folder.path(), arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["export", "--broker", &stage.store.url(), "--out", "events.ndjson"]);
    for _ in 0..2 {
        run(&["import", "events.ndjson", "--broker", &target.url()]);
    }
    let other = Stage::on(target, PluginsDir::scripted(&["work"]), |options| options);
    let entries = other.client.get("/audit").expect(200).json()["entries"].clone();
    let expected = json!(["command-line", "store.import", "store", null, "done"]);
    assert_eq!(entries.as_array().unwrap().iter().map(brief).collect::<Vec<_>>(), [expected], "{entries}");
    assert_eq!(entries[0]["count"], 1);
    assert_eq!(stage.client.get("/audit").expect(200).json()["entries"], json!([]));
}

fn the_audit_is_read_page_by_page_and_bounded(broker: Broker) {
    let stage = Stage::with(broker, PluginsDir::scripted(&["work"]), |options| options.with("retention.audit_max", 20));
    for n in 0..15 {
        let body = json!({ "reason": n.to_string() }).to_string();
        for action in ["pause", "resume"] {
            send(&stage.client, "POST", &format!("/plugins/work/{action}"), "", Some(&body)).expect(200);
        }
    }
    let get = |query: &str| stage.client.get(&format!("/audit?{query}"));
    eventstream_tests::eventually::eventually("the oldest entries are deleted", || {
        match get("limit=1000").expect(200).json()["entries"].as_array().map(Vec::len) {
            Some(20) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let (mut reasons, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(&format!("action=plugin.pause&limit=3{cursor}")).expect(200).json();
        let entries = page["entries"].as_array().unwrap();
        assert!(entries.len() <= 3);
        reasons.extend(entries.iter().map(|entry| entry["reason"].as_str().unwrap().to_owned()));
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(reasons, ["14", "13", "12", "11", "10", "9", "8", "7", "6", "5"]);
    for wrong in ["cursor=x", "limit=0", "since=today", "who=me", "action="] {
        get(wrong).expect(400);
    }
}
