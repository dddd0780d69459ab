//! Keys: who has none does nothing, who has one does what it says, and a key that was revoked ends on every host.

use std::fs;
use std::path::Path;
use std::process::Output;

use eventstream_tests::client::{Answer, Client};
use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::{Host, HostOptions, command};
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

use super::secrets::output_text;

on_both_brokers! {
    each_route_asks_for_its_scope,
    a_colleague_publishes_only_what_the_key_allows,
    a_key_survives_the_death_of_its_host_at_any_step,
    others_are_served_only_once_there_is_a_key,
}

const SCOPES: [&str; 5] = ["publish", "read", "operate", "deploy", "keys"];

/// Every route with its scope; none for those that are open, `any` for those that want any key.
const ROUTES: [(&str, &str, &str); 25] = [
    ("POST", "/events", "publish"),
    ("GET", "/events", "read"),
    ("GET", "/events/01890a5d-ac96-774b-bcce-b302099a8057", "read"),
    ("POST", "/events/01890a5d-ac96-774b-bcce-b302099a8057/run-now", "operate"),
    ("POST", "/events/01890a5d-ac96-774b-bcce-b302099a8057/cancel", "operate"),
    ("GET", "/failed-events", "read"),
    ("GET", "/failed-events/01890a5d-ac96-774b-bcce-b302099a8057", "read"),
    ("DELETE", "/failed-events/01890a5d-ac96-774b-bcce-b302099a8057?reason=x", "operate"),
    ("POST", "/failed-events/01890a5d-ac96-774b-bcce-b302099a8057/replay", "operate"),
    ("GET", "/metrics", "read"),
    ("GET", "/plugins", "read"),
    ("GET", "/plugins/nobody", "read"),
    ("DELETE", "/plugins/nobody", "deploy"),
    ("POST", "/plugins/nobody/approve", "deploy"),
    ("POST", "/plugins/nobody/rollback", "deploy"),
    ("POST", "/plugins/nobody/pause", "operate"),
    ("POST", "/plugins/nobody/resume", "operate"),
    ("GET", "/keys", "keys"),
    ("POST", "/keys", "keys"),
    ("DELETE", "/keys/0000000000", "keys"),
    ("POST", "/keys/0000000000/rotate", "keys"),
    ("GET", "/audit", "operate"),
    ("GET", "/whoami", "any"),
    ("GET", "/livez", ""),
    ("GET", "/readyz", ""),
];

fn send(client: &Client, method: &str, path: &str, key: Option<&str>, body: &str) -> Answer {
    let bearer = key.map(|key| format!("Bearer {key}"));
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
    let body = if method == "POST" { Some(body.as_bytes()) } else { None };
    client.request(method, path, &headers, body).unwrap_or_else(|error| panic!("{method} {path}: {}", error.0))
}

/// Runs `eventstream` with a key, if there is one.
fn run(folder: &Path, url: &str, key: Option<&str>, arguments: &[&str]) -> Output {
    let mut run = command(folder, arguments);
    run.env("EVENTSTREAM_URL", url);
    if let Some(key) = key {
        run.env("EVENTSTREAM_KEY", key);
    }
    run.output().unwrap()
}

#[track_caller]
fn printed(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Makes a key by the command line and returns it.
#[track_caller]
fn make_key(url: &str, maker: Option<&str>, arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let key = printed(&run(folder.path(), url, maker, &[&["key", "new"], arguments].concat()));
    assert!(key.starts_with("es1_") && key.len() == 53, "{key}");
    key
}

fn id_of(key: &str) -> &str {
    &key[4..14]
}

fn each_route_asks_for_its_scope(broker: Broker) {
    let stage = Stage::scripted(broker, &["p"]);
    let (client, url) = (&stage.client, stage.host.url());
    let admin = make_key(url, None, &["admin", "--scopes", "all"]);
    let keys = SCOPES.map(|scope| make_key(url, Some(&admin), &[scope, "--scopes", scope]));
    let expired = make_key(url, Some(&admin), &["short", "--scopes", "all", "--expires", "1ms"]);
    let revoked = make_key(url, Some(&admin), &["gone", "--scopes", "all"]);
    let folder = tempfile::tempdir().unwrap();
    printed(&run(folder.path(), url, Some(&admin), &["key", "revoke", id_of(&revoked)]));
    for (method, path, scope) in ROUTES {
        // A body that says too little: what is allowed gets its answer from the handler.
        let send = |key: Option<&str>| send(client, method, path, key, "");
        let answer = send(None);
        assert_eq!(answer.status == 401, !scope.is_empty(), "{method} {path}: {}", answer.text());
        for key in [&expired, &revoked] {
            let answer = send(Some(key));
            assert_eq!(answer.status == 401, !scope.is_empty(), "{method} {path}: {}", answer.text());
        }
        for (own, key) in SCOPES.iter().zip(&keys) {
            let answer = send(Some(key));
            let may = scope.is_empty() || scope == "any" || scope == *own;
            assert_eq!(answer.status != 403, may, "{method} {path} with {own}: {}", answer.text());
            assert_ne!(answer.status, 401, "{method} {path} with {own}: {}", answer.text());
        }
    }
    let whoami = send(client, "GET", "/whoami", Some(&keys[1]), "").expect(200).json();
    assert_eq!((&whoami["name"], &whoami["scopes"]), (&json!("read"), &json!(["read"])));
}

fn a_colleague_publishes_only_what_the_key_allows(broker: Broker) {
    let stage = Stage::scripted(broker, &["order.paid"]);
    let url = stage.host.url();
    let admin = make_key(url, None, &["admin", "--scopes", "all"]);
    let shop = make_key(url, Some(&admin), &["shop", "--scopes", "publish", "--types", "order.*", "--rate", "1000/h"]);
    let (client, folder) = (&stage.client, tempfile::tempdir().unwrap());
    let post = |body: &str| send(client, "POST", "/events", Some(&shop), body);
    let accepted = post(r#"{"type":"order.paid","payload":{}}"#).expect(202);
    assert!(accepted.header("ratelimit").starts_with("\"key\";r=999"), "{}", accepted.header("ratelimit"));
    let refused = post(r#"[{"type":"order.paid"},{"type":"invoice.paid"}]"#).expect(403).json();
    assert_eq!(refused["errors"][0]["pointer"], "/1/type", "{refused}");
    assert_eq!(send(client, "GET", "/metrics", Some(&admin), "").expect(200).json()["accepted"], 1);
    // The same by the command line, with the key in a file.
    fs::write(folder.path().join("key"), format!("{shop}\n")).unwrap();
    let sent = |event_type: &str, key: &str| {
        let mut send = command(folder.path(), &["send", event_type, "{}", "--url", url]);
        send.env("EVENTSTREAM_KEY_FILE", folder.path().join(key)).output().unwrap()
    };
    printed(&sent("order.paid", "key"));
    let refused = sent("invoice.paid", "key");
    let reason = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{reason}");
    assert!(reason.contains("order.*") && !reason.contains(&shop), "{reason}");
    assert_eq!(sent("order.paid", "no-such-file").status.code(), Some(2));
    let status = run(folder.path(), url, Some(&shop), &["status"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&status.stderr).contains("needs a key with the scope read"), "{status:?}");
    printed(&run(folder.path(), url, Some(&admin), &["status"]));
    // A new secret, and the old one within its overlap and after it.
    let rotated = printed(&run(folder.path(), url, Some(&admin), &["key", "rotate", id_of(&shop)]));
    let by = |key: &str| send(client, "POST", "/events", Some(key), r#"{"type":"order.paid","payload":{}}"#).status;
    assert_eq!((by(&shop), by(&rotated)), (202, 202));
    let again = printed(&run(folder.path(), url, Some(&admin), &["key", "rotate", id_of(&shop), "--overlap", "0s"]));
    assert_eq!((by(&shop), by(&rotated), by(&again)), (401, 401, 202));
    let list = printed(&run(folder.path(), url, Some(&admin), &["key", "list"]));
    assert!(list.contains("publish for order.*, at most 1000/h") && !list.contains(&again), "{list}");
}

fn a_key_survives_the_death_of_its_host_at_any_step(broker: Broker) {
    let mut stage = Stage::scripted(broker, &["p"]);
    let url = stage.host.url().to_owned();
    let admin = make_key(&url, None, &["admin", "--scopes", "all"]);
    let shop = make_key(&url, Some(&admin), &["shop", "--scopes", "publish"]);
    for round in 0..6 {
        let client = stage.client.clone();
        // The host is killed while others make, rotate and revoke keys, each of which is done or not done afterwards.
        let answered: Vec<(String, Option<Value>)> = std::thread::scope(|threads| {
            let changes: Vec<_> = (0..8)
                .map(|n| {
                    let (client, admin, shop) = (&client, &admin, &shop);
                    threads.spawn(move || {
                        let headers =
                            [("content-type", "application/json"), ("authorization", &*format!("Bearer {admin}"))];
                        let path =
                            if n % 2 == 0 { "/keys".to_owned() } else { format!("/keys/{}/rotate", id_of(shop)) };
                        let body =
                            if n % 2 == 0 { r#"{"name":"x","scopes":["publish"]}"# } else { r#"{"overlap":"1h"}"# };
                        let answer = client.request("POST", &path, &headers, Some(body.as_bytes()));
                        let made = answer.ok().filter(|answer| matches!(answer.status, 200 | 201));
                        (path, made.map(|answer| answer.json()))
                    })
                })
                .collect();
            std::thread::sleep(std::time::Duration::from_millis(round * 3));
            stage.host.kill9();
            changes.into_iter().map(|change| change.join().unwrap()).collect()
        });
        stage.replace_host(|options| options);
        let client = stage.client.clone();
        let by = |key: &str| send(&client, "POST", "/events", Some(key), r#"{"type":"p","payload":{}}"#).status;
        for (path, made) in answered {
            if let Some(made) = made {
                assert_eq!(by(made["key"].as_str().unwrap()), 202, "round {round}: what {path} answered is stored");
            }
        }
        assert_eq!(by(&admin), 202, "round {round}");
        assert_eq!(send(&client, "GET", "/keys", None, "").status, 401, "round {round}: the door stays closed");
        // At most four secrets are valid, so those of this round end.
        let path = format!("/keys/{}/rotate", id_of(&shop));
        send(&client, "POST", &path, Some(&admin), r#"{"overlap":"0s"}"#).expect(200);
    }
}

fn others_are_served_only_once_there_is_a_key(broker: Broker) {
    let (store, plugins) = (broker.start(), PluginsDir::scripted(&["p"]));
    let folder = tempfile::tempdir().unwrap();
    let exposed = ["serve", "--listen", "0.0.0.0:0", "--broker", &store.url()];
    let refused = command(folder.path(), &exposed).output().unwrap();
    let reason = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{reason}");
    for remedy in ["eventstream key new admin --scopes all --broker", "--allow-anonymous"] {
        assert!(reason.contains(remedy), "{reason}");
    }
    let make = ["key", "new", "admin", "--scopes", "all", "--broker", &store.url()];
    let admin = printed(&command(folder.path(), &make).output().unwrap());
    let host = Host::spawn(&HostOptions::new(&store.url(), plugins.path()).listening("127.0.0.2:0"));
    let client = host.client();
    send(&client, "GET", "/events", None, "").expect(401);
    assert_eq!(send(&client, "GET", "/whoami", Some(&admin), "").expect(200).json()["name"], "admin");
}

#[test]
fn a_key_that_is_revoked_on_one_host_ends_on_the_other() {
    let stage = Stage::scripted(Broker::Redis, &["p"]);
    let other = stage.another(|options| options);
    let (one, two) = (&stage.client, other.client());
    let admin = make_key(stage.host.url(), None, &["admin", "--scopes", "all"]);
    let shop = make_key(stage.host.url(), Some(&admin), &["shop", "--scopes", "publish"]);
    let body = r#"{"type":"p","payload":{}}"#;
    let by_shop = |client: &Client| send(client, "POST", "/events", Some(&shop), body);
    eventually("the other host wants a key, too", || match send(&two, "GET", "/events", None, "").status {
        401 => Ok(()),
        status => Err(status),
    });
    eventually("it knows the key", || match by_shop(&two).status {
        202 => Ok(()),
        status => Err(status),
    });
    send(one, "DELETE", &format!("/keys/{}", id_of(&shop)), Some(&admin), "").expect(200);
    by_shop(one).expect(401);
    eventually("the key ends on the other host", || match by_shop(&two).status {
        401 => Ok(()),
        status => Err(status),
    });
}

#[test]
fn the_log_names_a_host_that_knows_no_keys() {
    let stage =
        Stage::with(Broker::Redis, PluginsDir::scripted(&["p"]), |options| options.with("consumer.lease_ms", 2_000));
    let other = stage.another(|options| options);
    let redis = stage.store.redis();
    let hb = "{es:0}:hb";
    let () = redis.command(&["HSET", hb, "c:left-1", "7", "s:left-1", r#"{"lanes":{}}"#]).unwrap();
    let words = "host old-1 is of an earlier version and knows no keys and no pauses";
    // The host of the earlier version: a heartbeat that moves, and an announcement without features.
    eventually("the warning is logged", || {
        let () = redis.command(&["HSET", hb, "s:old-1", r#"{"lanes":{},"record_versions":[1,3]}"#]).unwrap();
        let _: i64 = redis.command(&["HINCRBY", hb, "c:old-1", "1"]).unwrap();
        if stage.host.output().contains(words) { Ok(()) } else { Err(stage.host.output()) }
    });
    let output = stage.host.output();
    assert_eq!(output.matches("is of an earlier version and").count(), 1, "{output}");
    drop(other);
}

#[test]
fn known_keys_serve_while_the_store_is_away_and_none_changes() {
    let stage = Stage::scripted(Broker::Redis, &["p"]);
    let admin = make_key(stage.host.url(), None, &["admin", "--scopes", "all"]);
    stage.store.redis().kill9();
    let path = format!("/keys/{}", id_of(&admin));
    eventually("the store is missed", || match send(&stage.client, "DELETE", &path, Some(&admin), "").status {
        503 => Ok(()),
        status => Err(status),
    });
    send(&stage.client, "GET", "/whoami", Some(&admin), "").expect(200);
    send(&stage.client, "GET", "/whoami", None, "").expect(401);
}

#[test]
fn a_store_that_lost_its_keys_while_its_host_was_down_opens_nothing() {
    let data = tempfile::tempdir().unwrap();
    let kept = |options: HostOptions| options.with("broker.data_dir", data.path().display());
    let mut stage = Stage::with(Broker::Redis, PluginsDir::scripted(&["p"]), kept);
    make_key(stage.host.url(), None, &["admin", "--scopes", "all"]);
    stage.host.terminate();
    stage.host.wait();
    let () = stage.store.redis().command(&["FLUSHALL"]).unwrap();
    stage.replace_host(kept);
    send(&stage.client, "GET", "/events", None, "").expect(401);
    stage.host.wait_for_output("the store has lost its keys");
    let make = ["key", "new", "admin", "--scopes", "all", "--broker", &stage.store.url()];
    let admin = printed(&command(data.path(), &make).output().unwrap());
    eventually("the new key is known", || match send(&stage.client, "GET", "/whoami", Some(&admin), "").status {
        200 => Ok(()),
        status => Err(status),
    });
    // A host that never saw a key cannot know.
    let newcomer = tempfile::tempdir().unwrap();
    let () = stage.store.redis().command(&["FLUSHALL"]).unwrap();
    let other = stage.another(|options| options.with("broker.data_dir", newcomer.path().display()));
    send(&other.client(), "GET", "/events", None, "").expect(200);
}

#[test]
fn keys_of_the_configuration_need_no_store() {
    let (store, plugins) = (Broker::Embedded.start(), PluginsDir::scripted(&["p"]));
    let folder = tempfile::tempdir().unwrap();
    // The variable with the address of a server is not in the way.
    let made = run(
        folder.path(),
        "http://127.0.0.1:1",
        None,
        &["key", "new", "ci", "--scopes", "publish", "--types", "p", "--for-config"],
    );
    let (key, note) = (printed(&made), String::from_utf8(made.stderr).unwrap());
    let entry = &note[note.find("[[auth.keys]]").unwrap()..];
    let file = folder.path().join("eventstream.toml");
    fs::write(&file, entry).unwrap();
    let options = HostOptions::new(&store.url(), plugins.path()).flags(&["--config", file.to_str().unwrap()]);
    let host = Host::spawn(&options);
    let client = host.client();
    send(&client, "POST", "/events", Some(&key), r#"{"type":"p","payload":{}}"#).expect(202);
    send(&client, "POST", "/events", Some(&key), r#"{"type":"q","payload":{}}"#).expect(403);
    send(&client, "POST", "/events", None, r#"{"type":"p","payload":{}}"#).expect(401);
}

#[test]
fn a_key_is_shown_once_and_nowhere_else() {
    for broker in [Broker::Embedded, Broker::Redis] {
        let stage = Stage::with(broker, PluginsDir::scripted(&["p"]), |options| {
            options.with("log.level", "trace").with("log.lines_per_second", 0)
        });
        let folder = tempfile::tempdir().unwrap();
        let run = |key: &str, arguments: &[&str]| {
            let mut run = command(folder.path(), arguments);
            run.env("EVENTSTREAM_KEY", key).env("EVENTSTREAM_BROKER_URL", stage.store.url());
            if !matches!(arguments[0], "export" | "backup") {
                run.env("EVENTSTREAM_URL", stage.host.url());
            }
            run.output().unwrap()
        };
        let key = String::from_utf8(run("", &["key", "new", "admin", "--scopes", "all"]).stdout).unwrap();
        let (key, secret) = (key.trim(), &key[15..47]);
        let mistyped = format!("{}x", &key[..52]);
        let is_silent = |place: &str, reported: &str| assert!(!reported.contains(secret), "{place}: {reported}");
        for arguments in [
            &["key", "list"][..],
            &["key", "list", "--json"],
            &["key", "whoami"],
            &["status", "--json"],
            &["send", "p", "{}", "--wait"],
            &["send", "p", "{}", "--json"],
            &["plugin", "list"],
            &["plugin", "remove", "nobody"],
            &["key", "revoke", key],
            &["key", "new", key, "--scopes", "read"],
            &["key", "rotate", "0000000000"],
            &["export", "--out", "events.ndjson"],
            &["backup", "copy"],
        ] {
            for sent in [key, &mistyped] {
                let output = run(sent, arguments);
                let reported = output_text(&output);
                is_silent(&format!("{arguments:?}"), &reported);
            }
        }
        let bearer = format!("Bearer {key}");
        for path in ["/keys", "/whoami", "/metrics", "/plugins", "/events", "/readyz?verbose", "/nothing"] {
            let answer = stage.client.request("GET", path, &[("authorization", &bearer)], None).unwrap();
            is_silent(path, &answer.text());
        }
        let wrong = format!("Bearer {mistyped}");
        let refused = stage.client.request("GET", "/events", &[("authorization", &wrong)], None).unwrap().expect(401);
        is_silent("a refusal", &refused.text());
        for entry in fs::read_dir(folder.path()).unwrap() {
            let path = entry.unwrap().path();
            let files = if path.is_dir() {
                fs::read_dir(&path).unwrap().map(|it| it.unwrap().path()).collect()
            } else {
                vec![path]
            };
            for file in files {
                is_silent(&file.display().to_string(), &String::from_utf8_lossy(&fs::read(&file).unwrap()));
            }
        }
        stage.host.wait_for_output("sent a key that is refused");
        is_silent("the log", &stage.host.output());
    }
}
