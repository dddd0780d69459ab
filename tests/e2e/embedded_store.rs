//! A directory that cannot be served is refused with one line that says what to do, and stays unchanged. A damaged
//! event is reported and never reaches a handler.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::{ExitedHost, Host, HostOptions};
use eventstream_tests::machine::Machine;
use eventstream_tests::stage::{Broker, Stage};
use eventstream_tests::store::{database_in, embedded_url};
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

/// The exit code for settings or data that a person must repair.
const REFUSED: Option<i32> = Some(2);
/// The exit code for a store that is not available now.
const UNREACHABLE: Option<i32> = Some(3);

/// Starts a host on a directory that it must not serve.
#[track_caller]
fn try_to_serve(folder: &Path) -> ExitedHost {
    let plugins = PluginsDir::empty();
    match Host::try_spawn(&HostOptions::new(&embedded_url(folder), plugins.path())) {
        Err(exited) => exited,
        Ok(host) => panic!("the host serves from {}:\n{}", folder.display(), host.output()),
    }
}

/// Checks that a directory is refused with this exit code, and with one line that has these words in it.
#[track_caller]
fn assert_refused(folder: &Path, code: Option<i32>, words: &[&str]) {
    let exited = try_to_serve(folder);
    assert_eq!(exited.status.code(), code, "{}", exited.output);
    let lines: Vec<&str> = exited.output.lines().filter(|line| line.starts_with("eventstream: ")).collect();
    let [line] = lines[..] else { panic!("one line says why: {}", exited.output) };
    let place = folder.display().to_string();
    for word in words.iter().chain([&place.as_str()]) {
        assert!(line.contains(word), "{word:?} in {line}");
    }
}

/// The directory of a host that accepted delayed events and was stopped by SIGTERM, so that everything is in one file.
fn create_closed_store(payloads: &[&str]) -> (TempDir, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let plugins = PluginsDir::empty();
    let host = Host::spawn(&HostOptions::new(&embedded_url(folder.path()), plugins.path()));
    let events: Vec<_> =
        payloads.iter().map(|text| json!({"type": "t", "delayMs": 2_500, "payload": {"message": text}})).collect();
    let ids = host.client().post_batch(&events);
    host.terminate();
    assert!(host.wait().success(), "{}", host.output());
    (folder, ids)
}

#[test]
fn what_is_kept_of_plugins_is_beside_the_embedded_store() {
    for broker in [Broker::Embedded, Broker::Redis] {
        let stage = Stage::scripted(broker, &["p"]);
        let working = fs::read_link(format!("/proc/{}/cwd", stage.host.pid())).unwrap();
        let url = stage.store.url();
        let kept = match url.strip_prefix("embedded:") {
            Some(store) => Path::new(store).join("plugins"),
            None => working.join("data/plugins"),
        };
        assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o700, "{kept:?}");
        assert!(fs::read_dir(&kept).unwrap().count() > 0, "compiled code is in {kept:?}");
        assert_eq!(working.join("data").exists(), broker == Broker::Redis, "nothing is kept in two places");
    }
}

#[test]
fn a_directory_serves_one_host_and_the_next_once_that_is_gone() {
    let stage = Stage::scripted(Broker::Embedded, &["t"]);
    let folder = stage.store.url().strip_prefix("embedded:").unwrap().to_owned();
    assert_refused(Path::new(&folder), UNREACHABLE, &["another eventstream uses", "stop it"]);
    let id = stage.client.post_event("t", &json!({}));
    assert_eq!(stage.client.wait_ended(&id).state, "processed", "the first one goes on");
    stage.host.kill9();
    let next = stage.another(|options| options);
    assert_eq!(next.client().event(&id).unwrap().state, "processed");
}

#[test]
fn a_place_where_no_directory_can_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data");
    fs::write(&file, "a shopping list").unwrap();
    assert_refused(&file, REFUSED, &["cannot be used"]);
    assert_eq!(fs::read(&file).unwrap(), b"a shopping list", "left as it was");
    assert_refused(&file.join("below"), REFUSED, &["cannot be used"]);
    // Not even the superuser makes directories there.
    assert_refused(Path::new("/proc/eventstream"), REFUSED, &["cannot be used"]);
}

#[test]
fn a_directory_without_write_permission_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
    if fs::write(folder.path().join("try"), "").is_ok() {
        // Nothing is denied to the superuser, but in this directory the kernel lets nobody make a file.
        assert_refused(Path::new("/proc/self/fd"), REFUSED, &["cannot be used"]);
        return;
    }
    assert_refused(folder.path(), REFUSED, &["cannot be used", "denied"]);
}

#[test]
fn a_database_that_was_cut_short_is_refused_and_left_as_it_is() {
    let (folder, _) = create_closed_store(&["a"; 200]);
    let file = database_in(folder.path());
    let whole = fs::read(&file).unwrap();
    for kept in [0, 100, 4_096, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..kept]).unwrap();
        assert_refused(folder.path(), REFUSED, &["cannot be served", "restore a backup"]);
        assert_eq!(fs::read(&file).unwrap(), whole[..kept], "left as it was");
    }
    fs::write(&file, &whole).unwrap();
    let plugins = PluginsDir::empty();
    let host = Host::spawn(&HostOptions::new(&embedded_url(folder.path()), plugins.path()));
    assert_eq!(host.client().metrics()["accepted"], 200, "whole again, it serves");
}

#[test]
fn a_database_whose_structure_is_damaged_is_refused() {
    let (folder, _) = create_closed_store(&["a"; 200]);
    let file = database_in(folder.path());
    let mut bytes = fs::read(&file).unwrap();
    bytes[4_096..4_160].fill(0xa5);
    fs::write(&file, &bytes).unwrap();
    assert_refused(folder.path(), REFUSED, &["cannot be served", "damaged", "restore a backup"]);
}

#[test]
fn an_event_with_a_flipped_byte_is_failed_and_said_and_no_handler_sees_it() {
    let (folder, ids) = create_closed_store(&["first", "flip me here", "last"]);
    let file = database_in(folder.path());
    let mut bytes = fs::read(&file).unwrap();
    let place = bytes.windows(12).position(|window| window == b"flip me here").expect("the payload is in the file");
    bytes[place] ^= 1;
    fs::write(&file, &bytes).unwrap();

    let plugins = PluginsDir::scripted(&["t"]);
    let host = Host::spawn(&HostOptions::new(&embedded_url(folder.path()), plugins.path()));
    let client = host.client();
    for id in [&ids[0], &ids[2]] {
        assert_eq!(client.wait_ended(id).state, "processed");
    }
    let damaged = client.wait_ended(&ids[1]);
    assert_eq!((damaged.state.as_str(), damaged.class.as_deref()), ("failed", Some("bad-entry")), "{damaged:?}");
    assert!(damaged.attempts.iter().all(|attempt| attempt.plugin.is_none()), "{damaged:?}");
    host.wait_for_output(&ids[1]);
}

#[test]
fn a_database_of_a_newer_version_or_of_another_program_is_refused() {
    let (folder, _) = create_closed_store(&["a"]);
    let file = database_in(folder.path());
    let set = |pragma: &str, value: i32| {
        let database = Connection::open(&file).unwrap();
        database.pragma_update(None, pragma, value).unwrap();
        database.close().unwrap();
    };
    set("user_version", 99);
    assert_refused(folder.path(), REFUSED, &["newer version (format 99", "start that version"]);
    set("application_id", 7);
    assert_refused(folder.path(), REFUSED, &["another program"]);
}

#[test]
fn a_database_that_is_gone_is_counted_as_a_loss_and_the_new_one_is_served() {
    let (folder, ids) = create_closed_store(&["a"]);
    for suffix in ["", "-wal", "-shm"] {
        // A database that was closed may have left no log.
        let _ = fs::remove_file(folder.path().join(format!("eventstream.db{suffix}")));
    }
    let plugins = PluginsDir::scripted(&["t"]);
    let host = Host::spawn(&HostOptions::new(&embedded_url(folder.path()), plugins.path()));
    let client = host.client();
    assert_eq!(client.metrics()["dataLosses"], 1);
    host.wait_for_output("lost data");
    assert!(client.event(&ids[0]).is_none());
    assert_eq!(client.wait_ended(&client.post_event("t", &json!({}))).state, "processed");
}

#[test]
fn a_database_that_is_removed_in_use_is_noticed_and_nothing_is_accepted_into_nowhere() {
    let stage = Stage::scripted(Broker::Embedded, &["t"]);
    stage.client.wait_ended(&stage.client.post_event("t", &json!({})));
    let folder = stage.store.url().strip_prefix("embedded:").unwrap().to_owned();
    fs::remove_file(database_in(Path::new(&folder))).unwrap();
    eventually("accepting stops", || {
        let answer = stage.client.post(r#"{"type":"t","payload":{}}"#);
        if answer.status == 503 { Ok(()) } else { Err(answer.status) }
    });
    let answer = stage.client.get("/readyz").expect(503);
    assert!(answer.text().contains("removed or replaced"), "{}", answer.text());
    stage.client.get("/livez").expect(200);
}

#[test]
fn a_host_does_not_start_on_a_full_disk_says_so_and_starts_once_there_is_room() {
    let (store, plugins, machine) = (Broker::Embedded.start(), PluginsDir::scripted(&["t"]), Machine::new());
    let mut options = HostOptions::new(&store.url(), plugins.path());
    for (name, value) in machine.variables(store.directory()) {
        options = options.variable(&name, &value);
    }
    let host = Host::spawn(&options);
    let id = host.client().post_event("t", &json!({}));
    host.kill9();
    machine.cut_power(store.directory(), &mut fastrand::Rng::with_seed(1));
    machine.fill_disk(true);
    let Err(exited) = Host::try_spawn(&options) else { panic!("the host serves on a full disk") };
    assert_eq!(exited.status.code(), UNREACHABLE, "{}", exited.output);
    assert!(exited.output.contains("is full: free some of it"), "{}", exited.output);
    machine.fill_disk(false);
    Host::spawn(&options).client().wait_for(&id, &["processed"]);
}
