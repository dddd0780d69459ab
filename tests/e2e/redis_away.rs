//! Redis is away, at the start or later.

use std::io::Write;
use std::time::{Duration, Instant};

use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::{Host, HostOptions};
use eventstream_tests::redis::RedisServer;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::json;

/// How long a host may take to go on after its store is back; usually less than 8 s.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);
/// So long that no lease ends in a test.
const LONG_LEASE: Duration = Duration::from_secs(600);

#[test]
fn without_a_store_the_host_does_not_start_and_says_so_in_one_line() {
    // A port that the system does not give to another program meanwhile.
    let place = "127.0.0.1:1";
    let plugins = PluginsDir::empty();
    let options = HostOptions::new(&format!("redis://{place}"), plugins.path());
    let Err(exited) = Host::try_spawn(&options) else { panic!("the host serves without a store") };
    assert_eq!(exited.status.code(), Some(3), "{}", exited.output);
    let complaints: Vec<&str> = exited.output.lines().filter(|line| line.contains(place)).collect();
    assert_eq!(complaints.len(), 1, "one line names the place: {}", exited.output);
}

#[test]
fn a_store_that_may_lose_events_is_refused_with_the_line_that_mends_it() {
    for (arguments, named) in
        [(["--appendonly", "no"], "appendonly"), (["--maxmemory-policy", "allkeys-lru"], "maxmemory-policy")]
    {
        let redis = RedisServer::start_with(&arguments).unwrap();
        let plugins = PluginsDir::empty();
        let options = HostOptions::new(&redis.url(), plugins.path());
        let Err(exited) = Host::try_spawn(&options) else { panic!("the host serves with {arguments:?}") };
        assert!(matches!(exited.status.code(), Some(1..=3)), "{}", exited.output);
        assert!(exited.output.contains(named), "{}", exited.output);
        Host::spawn(&options.flags(&["--allow-unsafe"]));
    }
}

#[test]
fn the_beginning_of_a_transaction_that_a_power_cut_left_is_never_executed() {
    let mut stage = Stage::scripted(Broker::Redis, &["t"]);
    let before = stage.client.post_event("t", &json!({}));
    stage.client.wait_for(&before, &["processed"]);
    let redis = stage.store.redis();
    redis.kill9();
    let log = std::fs::read_dir(redis.directory().join("appendonlydir")).unwrap().flatten();
    let log = log.map(|file| file.path()).filter(|file| file.to_string_lossy().ends_with(".incr.aof"));
    let torn = b"*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$1\r\n1\r\n*3\r\n$3\r\nSE";
    std::fs::File::options().append(true).open(log.max().unwrap()).unwrap().write_all(torn).unwrap();
    redis.restart().unwrap();
    eventually("Redis writes its log anew", || {
        let facts: String = redis.command(&["INFO", "persistence"]).unwrap();
        let is = |fact: &str| facts.lines().any(|line| line == fact);
        if is("aof_rewrites:1") && is("aof_rewrite_in_progress:0") { Ok(()) } else { Err(facts) }
    });
    let after = stage.client.post_event("t", &json!({}));
    stage.client.wait_for(&after, &["processed"]);
    stage.host.kill9();
    stage.store.crash();
    let half: Option<String> = stage.store.redis().command(&["GET", "half"]).unwrap();
    assert_eq!(half, None, "half a transaction was executed");
    stage.replace_host(|options| options);
    for id in [before, after] {
        stage.client.wait_for(&id, &["processed"]);
    }
}

#[test]
fn a_store_that_goes_away_is_waited_for_without_a_busy_loop() {
    let stage = Stage::with(Broker::Redis, PluginsDir::scripted(&["t"]), |options| {
        options.with("consumer.lease_ms", LONG_LEASE.as_millis())
    });
    let before = stage.client.post_event("t", &json!({}));
    stage.store.redis().kill9();
    let refused = eventually("accepting stops", || {
        let answer = stage.client.post(r#"{"type":"t","payload":{}}"#);
        if answer.status == 503 { Ok(answer) } else { Err(answer.status) }
    });
    assert_eq!(refused.header("content-type"), "application/problem+json");
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0), "{}", refused.text());
    eventually("the host says that it is not ready", || match stage.client.get("/readyz").status {
        503 => Ok(()),
        status => Err(status),
    });
    stage.client.get("/livez").expect(200);

    let (begun, used) = (Instant::now(), stage.host.cpu_time());
    let answers = std::iter::repeat_with(|| {
        let asked = Instant::now();
        stage.client.post(r#"{"type":"t","payload":{}}"#).expect(503);
        std::thread::sleep(Duration::from_millis(250));
        asked.elapsed()
    });
    let slowest = answers.take(12).max().unwrap();
    assert!(slowest < Duration::from_secs(15), "a refusal took {slowest:?}");
    let share = (stage.host.cpu_time() - used).as_secs_f64() / begun.elapsed().as_secs_f64();
    assert!(share < 0.25, "{share} of a core while there is nothing to do");
    let lines = stage.host.output().lines().count();
    assert!(lines < 200, "{lines} lines of log");

    stage.store.redis().restart().unwrap();
    let back = Instant::now();
    let after = eventually("accepting goes on", || {
        let answer = stage.client.post(r#"{"type":"t","payload":{}}"#);
        if answer.status == 202 {
            Ok(answer.json()["eventId"].as_str().unwrap().to_owned())
        } else {
            Err(answer.text())
        }
    });
    for id in [before, after] {
        assert_eq!(stage.client.wait_ended(&id).state, "processed");
    }
    assert!(back.elapsed() < RECOVERY_LIMIT, "recovered after {:?}", back.elapsed());
    eventually("the host is ready", || match stage.client.get("/readyz").status {
        200 => Ok(()),
        status => Err(status),
    });
}

#[test]
fn a_store_that_stands_still_is_not_waited_for_by_clients() {
    let stage = Stage::scripted(Broker::Redis, &["t"]);
    stage.store.redis().stop().unwrap();
    let body = r#"{"type":"t","payload":{}}"#;
    let asked = Instant::now();
    let answer = stage.client.try_post_keyed(body, "k").unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(asked.elapsed() < Duration::from_secs(20), "answered after {:?}", asked.elapsed());
    stage.store.redis().cont().unwrap();
    // The client cannot know whether the first request took effect. With the same key it is one event in any case.
    let id = eventually("accepting goes on", || {
        let answer = stage.client.try_post_keyed(body, "k").map_err(|error| error.0)?;
        if answer.status == 202 {
            Ok(answer.json()["eventId"].as_str().unwrap().to_owned())
        } else {
            Err(answer.text())
        }
    });
    stage.client.wait_ended(&id);
    assert_eq!(stage.client.metrics()["accepted"], 1);
}

#[test]
fn a_store_that_lost_its_data_is_noticed_and_served_from_then_on() {
    let stage = Stage::scripted(Broker::Redis, &["t"]);
    stage.client.wait_ended(&stage.client.post_event("t", &json!({})));
    let () = stage.store.redis().command(&["FLUSHALL"]).unwrap();
    let id = eventually("accepting goes on", || {
        let answer = stage.client.post(r#"{"type":"t","payload":{}}"#);
        if answer.status == 202 {
            Ok(answer.json()["eventId"].as_str().unwrap().to_owned())
        } else {
            Err(answer.text())
        }
    });
    assert_eq!(stage.client.wait_ended(&id).state, "processed");
    assert_eq!(stage.client.metrics()["dataLosses"], 1);
    let alarms = stage.host.wait_for_output("lost data").lines().filter(|line| line.contains("lost data")).count();
    assert_eq!(alarms, 1, "{}", stage.host.output());
}

#[test]
fn a_store_without_room_refuses_events_and_lets_what_is_there_be_worked_off() {
    let stage =
        Stage::with(Broker::Redis, PluginsDir::scripted(&["t"]), |options| options.with("consumer.concurrency", 1));
    let ids = stage.client.post_batch(&vec![json!({"type": "t", "payload": {"sleep-ms": 100}}); 10]);
    let () = stage.store.redis().command(&["CONFIG", "SET", "maxmemory", "1mb"]).unwrap();
    let answer = stage.client.post(r#"{"type":"t","payload":{}}"#).expect(503);
    assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));
    for id in &ids {
        assert_eq!(stage.client.wait_ended(id).state, "processed");
    }
    let () = stage.store.redis().command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    eventually("accepting goes on", || match stage.client.post(r#"{"type":"t","payload":{}}"#).status {
        202 => Ok(()),
        status => Err(status),
    });
}
