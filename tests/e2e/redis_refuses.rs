//! A Redis that refuses, warns, or was replaced by its replica: what a host and its operator see.

use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::{Host, HostOptions};
use eventstream_tests::redis::RedisServer;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

const EVENT: &str = r#"{"type":"t","payload":{}}"#;

/// Waits until the host is not ready for a reason that contains `word`.
fn wait_unready(stage: &Stage, word: &str) -> Value {
    eventually("the host says what is wrong", || {
        let answer = stage.client.get("/readyz");
        let body = answer.json();
        if answer.status == 503 && body["detail"].as_str().unwrap_or_default().contains(word) {
            Ok(body)
        } else {
            Err(body)
        }
    })
}

fn wait_ready(stage: &Stage) {
    eventually("the host is ready", || match stage.client.get("/readyz") {
        answer if answer.status == 200 => Ok(()),
        answer => Err(answer.text()),
    });
}

#[test]
fn missing_replicas_are_told_and_totals_are_shown_meanwhile() {
    let stage = Stage::scripted(Broker::Redis, &["t"]);
    stage.client.wait_ended(&stage.client.post_event("t", &json!({})));
    let redis = stage.store.redis();
    let () = redis.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).unwrap();
    let body = wait_unready(&stage, "min-replicas-to-write");
    assert_eq!((&body["accepting"], &body["handling"]), (&json!(false), &json!(false)), "{body}");
    stage.client.post(EVENT).expect(503);
    assert_eq!(stage.client.metrics()["processed"], 1);
    assert_eq!(stage.host.wait_for_output("min-replicas-to-write").matches("NoReplicas").count(), 1);
    let () = redis.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).unwrap();
    wait_ready(&stage);
}

#[test]
fn a_full_memory_stops_accepting_and_not_handling() {
    let stage = Stage::scripted(Broker::Redis, &["t"]);
    let redis = stage.store.redis();
    let () = redis.command(&["CONFIG", "SET", "maxmemory", "1mb"]).unwrap();
    let body = wait_unready(&stage, "maxmemory");
    assert_eq!((&body["accepting"], &body["handling"]), (&json!(false), &json!(true)), "{body}");
    stage.client.post(EVENT).expect(503);
    let () = redis.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    wait_ready(&stage);
}

#[test]
fn a_host_that_finds_no_replicas_at_its_start_says_so() {
    let redis = RedisServer::start_with(&["--min-replicas-to-write", "1"]).unwrap();
    let plugins = PluginsDir::empty();
    let Err(exited) = Host::try_spawn(&HostOptions::new(&redis.url(), plugins.path())) else {
        panic!("the host serves without replicas")
    };
    assert_eq!(exited.status.code(), Some(3), "{}", exited.output);
    assert!(exited.output.contains("min-replicas-to-write"), "{}", exited.output);
    assert!(!exited.output.contains("cannot be reached"), "{}", exited.output);
}

#[test]
fn the_command_line_knows_every_scheme_of_the_broker() {
    let redis = RedisServer::start().unwrap();
    let plugins = PluginsDir::empty();
    let host = Host::spawn(&HostOptions::new(&redis.url().replace("redis://", "valkey://"), plugins.path()));
    host.client().post(EVENT).expect(202);
    let Err(exited) = Host::try_spawn(&HostOptions::new("redis-sentinel://127.0.0.1:1/main", plugins.path())) else {
        panic!("the host serves on Sentinel")
    };
    assert_eq!(exited.status.code(), Some(2), "{}", exited.output);
    assert!(exited.output.contains("name a primary"), "{}", exited.output);
}

#[test]
fn a_failover_that_lost_events_is_told_by_the_host_that_starts_on_the_new_primary() {
    let primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]).unwrap();
    let replica = RedisServer::start().unwrap();
    let () = replica.command(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).unwrap();
    let (plugins, data) = (PluginsDir::scripted(&["t"]), tempfile::tempdir().unwrap());
    let options = |redis: &RedisServer| {
        HostOptions::new(&redis.url(), plugins.path()).with("broker.data_dir", data.path().display())
    };
    let host = Host::spawn(&options(&primary));
    host.wait_for_output("a failover of Redis may lose");
    let verbose = eventually("the warning is part of the readiness", || {
        let facts = host.client().get("/readyz?verbose").json()["checks"][1]["facts"].clone();
        if facts["warning"].is_string() { Ok(facts) } else { Err(facts) }
    });
    assert!(verbose["warning"].as_str().unwrap().contains("min-replicas-to-write 1"), "{verbose}");
    host.client().post(EVENT).expect(202);
    eventually("the replica has the first event", || {
        let accepted: Option<u64> = replica.command(&["HGET", "{es:0}:counts", "accepted"]).unwrap();
        if accepted == Some(1) { Ok(()) } else { Err(format!("{accepted:?}")) }
    });
    let () = replica.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    host.client().post(EVENT).expect(202);
    eventually("the host has noted the second event", || {
        let known = std::fs::read_to_string(data.path().join("redis-es.json")).unwrap_or_default();
        if known.contains(r#""accepted":2"#) { Ok(()) } else { Err(known) }
    });
    host.kill9();
    primary.kill9();
    let host = Host::spawn(&options(&replica));
    host.wait_for_output("Redis lost data");
    assert_eq!(host.client().metrics()["dataLosses"], 1);
}
