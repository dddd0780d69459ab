//! Moves from one broker to another, and backups: accepted events go on in the other store, none lost and none doubled.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use eventstream::event::Timestamp;
use eventstream_tests::client::{Client, Event};
use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::{Host, HostOptions, command};
use eventstream_tests::redis::RedisServer;
use serde_json::{Value, json};
use tempfile::TempDir;

/// So long that export and import end before an event is due.
const DELAY_MS: i64 = 12_000;

/// A host and its plugins.
struct ServedStore {
    host: Host,
    client: Client,
    _plugins: PluginsDir,
}

impl ServedStore {
    fn on(broker: &str, plugins: PluginsDir) -> Self {
        let options = HostOptions::new(broker, plugins.path()).with("retry.max_ms", DELAY_MS);
        // Events without a handler must be moved before they fail, and a guest may get no processor for seconds.
        let options = options.with("retry.no-handler.max_attempts", 1_000).with("plugins.limits.wall_ms", 30_000);
        let host = Host::spawn(&options.with("server.drain_ms", 100).with("consumer.concurrency", 1));
        Self { client: host.client(), host, _plugins: plugins }
    }

    fn stop(self) {
        self.host.terminate();
        assert_eq!(self.host.wait().code(), Some(0), "{}", self.host.output());
    }
}

fn run_in(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

#[track_caller]
fn run_successfully(folder: &Path, arguments: &[&str]) -> String {
    let output = run_in(folder, arguments);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {text}");
    text
}

fn embedded_url(folder: &TempDir, name: &str) -> String {
    format!("embedded:{}", folder.path().join(name).display())
}

fn id_of(answer: &Value) -> String {
    answer["eventId"].as_str().unwrap().to_owned()
}

fn started_ms(event: &Event) -> i64 {
    event.attempts.last().unwrap().started_at.parse::<Timestamp>().unwrap().unix_ms()
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

const KEYED: &str = r#"{"type":"quick","payload":{"do":"echo","key":"first"}}"#;

fn post_keyed(client: &Client) -> Value {
    client.try_post_keyed(KEYED, "order-17").unwrap().expect(202).json()
}

/// Fills one broker with events in every state, moves them, and checks that all of them end on the other one.
fn check_move(from: &str, to: &str) {
    let folder = tempfile::tempdir().unwrap();
    let here = ServedStore::on(from, PluginsDir::scripted(&["quick", "slow"]));
    let client = here.client.clone();
    let first = id_of(&post_keyed(&client));
    client.wait_ended(&first);
    let bad = client.post_event("quick", &json!({"do": "reject", "message": "no"}));
    client.wait_ended(&bad);
    let begun_ms = now_ms();
    let later = json!({"type": "quick", "delayMs": DELAY_MS, "payload": {"do": "echo", "key": "later"}});
    let later = id_of(&client.post(&later.to_string()).expect(202).json());
    let flaky = client.post_event("quick", &json!({"flaky": 3, "after-ms": DELAY_MS}));
    let absent = client.post_event("absent", &json!({}));
    let slow = client.post_batch(&vec![json!({"type": "slow", "payload": {"sleep-ms": 400}}); 8]);
    for id in [&flaky, &absent] {
        eventually("it was tried once", || match client.event(id) {
            Some(event) if !event.attempts.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    client.wait_for(&slow[0], &["running", "processed"]);
    here.stop();

    let file = folder.path().join("events.ndjson");
    let file = file.to_str().unwrap();
    let reported = run_successfully(folder.path(), &["export", "--broker", from, "--out", file]);
    assert!(reported.contains("1 failed, 1 keys"), "{reported}");
    let ended_here = ServedStore::on(from, PluginsDir::empty());
    let n_ended = slow.iter().filter(|id| ended_here.client.event(id).unwrap().state == "processed").count();
    ended_here.stop();
    let n_moved = slow.len() - n_ended + 3;
    assert!(reported.contains(&format!("exported {n_moved} events")), "{reported}");
    let reported = run_successfully(folder.path(), &["import", file, "--broker", to]);
    assert!(reported.contains(&format!("imported {n_moved} events, 1 failed, 1 keys")), "{reported}");
    let reported = run_successfully(folder.path(), &["import", file, "--broker", to, "--json"]);
    let reported: Value = serde_json::from_str(&reported).unwrap();
    assert_eq!((&reported["events"], &reported["known"]), (&json!(0), &json!(n_moved + 2)), "{reported}");

    let there = ServedStore::on(to, PluginsDir::scripted(&["quick", "slow", "absent"]));
    let client = &there.client;
    let again = post_keyed(client);
    assert_eq!((id_of(&again), &again["duplicate"]), (first, &json!(true)));
    let kept = client.failed_event(&bad).unwrap();
    assert_eq!((kept.class.as_deref(), kept.reason.as_deref(), kept.attempts.len()), (Some("reject"), Some("no"), 1));
    client.replay(&bad).expect(202);
    let refused_again = eventually("it is refused again", || match client.failed_event(&bad) {
        Some(event) if event.attempts.len() == 2 => Ok(event),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(refused_again.replays, 1);

    let mut ended = Vec::new();
    for id in slow.iter().chain([&absent, &later, &flaky]) {
        // Events that had ended stay in the old store.
        if let Some(event) = client.event(id) {
            ended.push(client.wait_ended(&event.id));
        }
    }
    assert_eq!(ended.len(), n_moved);
    assert!(ended.iter().all(|event| event.state == "processed"), "{ended:?}");
    let [absent, later, flaky] = ended.last_chunk().unwrap();
    // On a busy machine there was more than one attempt before the move.
    let (last, before) = absent.attempts.split_last().unwrap();
    assert!(last.class.is_none() && !before.is_empty(), "{absent:?}");
    assert!(before.iter().all(|attempt| attempt.class.as_deref() == Some("no-handler")), "{absent:?}");
    assert!(started_ms(later) >= begun_ms + DELAY_MS, "it came before its time");
    assert_eq!(later.result.as_ref().unwrap().get(), r#"{"do":"echo","key":"later"}"#);
    let attempts: Vec<u32> = flaky.attempts.iter().map(|attempt| attempt.attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
    assert!(started_ms(flaky) >= begun_ms + 2 * DELAY_MS, "it came before its time");
    assert_eq!(client.metrics()["waiting"], 0);
}

#[test]
fn everything_that_has_not_ended_goes_on_in_redis() {
    let (folder, redis) = (tempfile::tempdir().unwrap(), RedisServer::start().unwrap());
    check_move(&embedded_url(&folder, "data"), &redis.url());
}

#[test]
fn and_back_in_an_embedded_store() {
    let (folder, redis) = (tempfile::tempdir().unwrap(), RedisServer::start().unwrap());
    check_move(&redis.url(), &embedded_url(&folder, "data"));
}

/// Kills the import again and again, at its beginning or while it waits for more input; then lets it end.
fn import_with_kills(source: &str, to: &str, folder: &Path, n_there: impl Fn() -> u64) {
    let file = folder.join("events.ndjson");
    let file = file.to_str().unwrap();
    run_successfully(folder, &["export", "--broker", source, "--out", file]);
    let export = std::fs::read(file).unwrap();
    for part in 1..=9 {
        let mut import = command(folder, &["import", "-", "--broker", to]);
        let mut import = import.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut input = import.stdin.take().unwrap();
        input.write_all(&export[..export.len() * part / 10]).unwrap();
        if part % 3 == 0 {
            // A batch is 500 events; the last one waits for the rest of them.
            let least = part as u64 * 1_000 - 500;
            eventually("the import waits for more", || match n_there() {
                n if n >= least => Ok(()),
                n => Err(n),
            });
        }
        import.kill().unwrap();
        import.wait().unwrap();
    }
    let before = n_there();
    assert!((8_500..10_000).contains(&before), "{before} are there");
    let reported: Value =
        serde_json::from_str(&run_successfully(folder, &["import", file, "--broker", to, "--json"])).unwrap();
    assert_eq!((&reported["events"], &reported["known"]), (&json!(10_000 - before), &json!(before)), "{reported}");
    assert_eq!(n_there(), 10_000);
    assert_eq!(
        list_event_ids(&run_successfully(folder, &["export", "--broker", to])),
        list_event_ids(&String::from_utf8(export).unwrap())
    );
}

/// The ids of the events in an export. Each must be there once.
fn list_event_ids(export: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for line in export.lines().filter(|line| line.contains(r#""kind":"event""#)) {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(ids.insert(line["id"].as_str().unwrap().to_owned()), "{line} is there twice");
    }
    ids
}

/// 10,000 events that are due in an hour.
fn fill_source(folder: &TempDir) -> String {
    let source = embedded_url(folder, "source");
    let server = ServedStore::on(&source, PluginsDir::empty());
    for _ in 0..10 {
        server.client.post_batch(&vec![json!({"type": "later", "delayMs": 3_600_000, "payload": {}}); 1_000]);
    }
    server.stop();
    source
}

#[test]
fn an_import_into_redis_that_is_killed_again_and_again_loses_and_doubles_nothing() {
    let (folder, redis) = (tempfile::tempdir().unwrap(), RedisServer::start().unwrap());
    let source = fill_source(&folder);
    import_with_kills(&source, &redis.url(), folder.path(), || redis.command(&["ZCARD", "{es:0}:due"]).unwrap());
}

#[test]
fn an_import_into_an_embedded_store_that_is_killed_again_and_again_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (source, database) = (fill_source(&folder), folder.path().join("other/eventstream.db"));
    import_with_kills(&source, &embedded_url(&folder, "other"), folder.path(), || {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
        let count = rusqlite::Connection::open_with_flags(&database, flags)
            .and_then(|db| db.query_row("SELECT count(*) FROM event", [], |row| row.get::<_, i64>(0)));
        count.map_or(0, i64::unsigned_abs)
    });
}

#[test]
fn a_backup_made_under_load_opens_and_holds_what_was_accepted_before() {
    let folder = tempfile::tempdir().unwrap();
    let (source, copy) = (embedded_url(&folder, "data"), folder.path().join("backups/monday"));
    let server = ServedStore::on(&source, PluginsDir::scripted(&["quick"]));
    let (client, is_over) = (&server.client, AtomicBool::new(false));
    let post = |client: &Client| client.post_batch(&vec![json!({"type": "quick", "payload": {"do": "echo"}}); 50]);
    let before: Vec<String> = (0..10).flat_map(|_| post(client)).collect();
    let reported = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // Not more events than the host processes while the test waits.
                match client.metrics()["waiting"].as_u64() {
                    Some(..1_000) => drop(post(client)),
                    _ => std::thread::yield_now(),
                }
            }
        });
        let reported = run_successfully(folder.path(), &["backup", copy.to_str().unwrap(), "--broker", &source]);
        is_over.store(true, Ordering::Relaxed);
        load.join().unwrap();
        reported
    });
    assert!(reported.contains("to restore it") && reported.contains("backups/monday"), "{reported}");
    assert_eq!(client.get("/readyz").status, 200, "the host goes on");
    drop(server);

    let restored = ServedStore::on(&format!("embedded:{}", copy.display()), PluginsDir::scripted(&["quick"]));
    for id in &before {
        assert_eq!(restored.client.wait_ended(id).state, "processed");
    }
    eventually("everything in the copy ends", || match &restored.client.metrics() {
        metrics if metrics["waiting"] == 0 && metrics["processed"] == metrics["accepted"] => Ok(()),
        metrics => Err(metrics.to_string()),
    });
    assert_eq!(restored.client.metrics()["dataLosses"], 1, "what came after the backup is not in it");
}

#[test]
fn what_cannot_be_moved_is_told_with_the_code_of_its_kind() {
    let folder = tempfile::tempdir().unwrap();
    let source = embedded_url(&folder, "data");
    let server = ServedStore::on(&source, PluginsDir::empty());
    server.client.post(r#"{"type":"later","delayMs":3600000,"payload":{}}"#).expect(202);
    let reported = |arguments: &[&str], code: i32, word: &str| {
        let output = run_in(folder.path(), arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(word), "{word:?} in {error}");
    };
    // A store that a host serves can be exported, but not imported into.
    run_successfully(folder.path(), &["export", "--broker", &source, "--out", "whole.ndjson"]);
    reported(&["import", "whole.ndjson", "--broker", &source], 3, "another eventstream uses");
    reported(&["export", "--broker", "embedded:./nowhere"], 3, "no store");
    reported(&["export", "--broker", "redis://127.0.0.1:1", "--out", "away.ndjson"], 3, "127.0.0.1:1");
    reported(&["export", "--broker", "rabbit://localhost"], 2, "--broker");
    reported(&["export", "--out", "no/such/folder/x", "--broker", &source], 2, "no/such/folder/x");
    reported(&["import", "nothing.ndjson"], 2, "nothing.ndjson");
    reported(&["import", "whole.ndjson", "--broker", "redis://127.0.0.1:1"], 3, "127.0.0.1:1");
    let whole = std::fs::read_to_string(folder.path().join("whole.ndjson")).unwrap();
    for (content, word) in [
        ("hello\n".to_owned(), "not an export"),
        (whole.replacen("\"version\":2", "\"version\":9", 1), "newer version"),
        (whole[..whole.len() - 10].to_owned(), "cut short"),
        (whole.replacen("later", "not a type", 1), "line 2"),
    ] {
        std::fs::write(folder.path().join("bad.ndjson"), content).unwrap();
        reported(&["import", "bad.ndjson", "--broker", "embedded:./other"], 1, word);
    }
    reported(&["export", "--out", "/dev/zero", "--broker", &source], 2, "it is a device, not a regular file");
    reported(&["backup", "copy", "--broker", "redis://127.0.0.1:1"], 2, "BGSAVE");
    reported(&["backup", "copy", "--broker", "embedded:./nowhere"], 3, "no store");
    run_successfully(folder.path(), &["backup", "copy", "--broker", &source]);
    reported(&["backup", "copy", "--broker", &source], 2, "there is a store");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("partial") || name == "away.ndjson"), "{left:?}");
}

#[test]
fn an_export_can_be_piped_into_an_import() {
    let (folder, redis) = (tempfile::tempdir().unwrap(), RedisServer::start().unwrap());
    let source = embedded_url(&folder, "data");
    let server = ServedStore::on(&source, PluginsDir::empty());
    let ids = server.client.post_batch(&vec![json!({"type": "later", "delayMs": 3_600_000, "payload": {}}); 700]);
    server.stop();
    let mut export = command(folder.path(), &["export", "--broker", &source]);
    let mut export = export.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let piped = export.stdout.take().unwrap();
    let import = command(folder.path(), &["import", "-", "--broker", &redis.url()]).stdin(piped).output().unwrap();
    assert!(export.wait().unwrap().success() && import.status.success());
    assert_eq!(String::from_utf8_lossy(&import.stdout), "imported 700 events, 0 failed, 0 keys\n");
    let there = ServedStore::on(&redis.url(), PluginsDir::empty());
    for id in &ids {
        assert_eq!(there.client.event(id).unwrap().state, "scheduled");
    }
}
