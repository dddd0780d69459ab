//! G7 and G10: a host ends in every way, and its events in progress survive.

use std::time::Duration;

use eventstream_tests::client::Event;
use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::Host;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::json;

on_both_brokers! {
    sigterm_lets_attempts_end_and_exits_with_0,
    what_does_not_end_within_the_drain_time_is_handed_back_without_burning_an_attempt,
    signals_of_one_moment_are_one_and_any_of_them_drains,
    a_second_signal_ends_at_once_and_loses_nothing,
    sigterm_under_load_loses_nothing_and_burns_no_attempt,
    a_restarted_host_takes_its_own_back_at_once,
    a_host_that_stood_still_past_its_lease_goes_on_and_each_event_counts_once,
    a_handler_slower_than_the_lease_runs_once,
    an_event_that_takes_its_host_down_again_and_again_fails_as_crash,
}

/// So long that no lease ends in a test: an event that is taken over was taken over for another reason.
const LONG_LEASE_MS: u64 = 600_000;

fn wait_until_running(stage: &Stage, id: &str) -> Event {
    stage.client.wait_for(id, &["running"])
}

fn sigterm_lets_attempts_end_and_exits_with_0(broker: Broker) {
    let mut stage =
        Stage::with(broker, PluginsDir::scripted(&["slow"]), |options| options.with("consumer.concurrency", 2));
    let ids = stage.client.post_batch(&vec![json!({"type": "slow", "payload": {"sleep-ms": 1_500}}); 6]);
    stage.client.wait_for(&ids[0], &["running", "processed"]);
    stage.host.terminate();
    assert_eq!(stage.host.wait().code(), Some(0), "{}", stage.host.output());
    stage.replace_host(|options| options);
    for id in &ids {
        let event = stage.client.wait_ended(id);
        assert_eq!((event.state.as_str(), event.attempts.len()), ("processed", 1), "{event:?}");
        assert_eq!(event.attempts[0].attempt, 1, "no attempt was burnt: {event:?}");
    }
    assert_eq!(stage.client.metrics()["recovered"], 0);
}

fn what_does_not_end_within_the_drain_time_is_handed_back_without_burning_an_attempt(broker: Broker) {
    let mut stage = Stage::with(broker, PluginsDir::scripted(&["slow"]), |options| {
        options.with("server.drain_ms", 200).with("consumer.lease_ms", LONG_LEASE_MS)
    });
    let id = stage.client.post_event("slow", &json!({"sleep-ms": 8_000}));
    wait_until_running(&stage, &id);
    stage.host.terminate();
    assert_eq!(stage.host.wait().code(), Some(0), "{}", stage.host.output());
    stage.replace_host(|options| options.with("consumer.lease_ms", LONG_LEASE_MS));
    let event = stage.client.wait_ended(&id);
    assert_eq!(
        (event.state.as_str(), event.attempts.len(), event.attempts[0].attempt),
        ("processed", 1, 1),
        "{event:?}"
    );
}

fn signals_of_one_moment_are_one_and_any_of_them_drains(broker: Broker) {
    let mut stage = Stage::scripted(broker, &["slow"]);
    let pairs: [[fn(&Host); 2]; 2] = [[Host::hang_up, Host::hang_up], [Host::terminate, Host::hang_up]];
    for signals in pairs {
        let id = stage.client.post_event("slow", &json!({"sleep-ms": 1_500}));
        wait_until_running(&stage, &id);
        for signal in signals {
            signal(&stage.host);
        }
        assert_eq!(stage.host.wait().code(), Some(0), "{}", stage.host.output());
        stage.replace_host(|options| options);
        let event = stage.client.wait_ended(&id);
        assert_eq!((event.state.as_str(), event.attempts.len()), ("processed", 1), "{event:?}");
        assert_eq!(event.attempts[0].attempt, 1, "it was waited for: {event:?}");
    }
}

fn a_second_signal_ends_at_once_and_loses_nothing(broker: Broker) {
    let mut stage = Stage::with(broker, PluginsDir::scripted(&["slow"]), |options| {
        options.with("consumer.lease_ms", LONG_LEASE_MS)
    });
    let id = stage.client.post_event("slow", &json!({"sleep-ms": 15_000}));
    wait_until_running(&stage, &id);
    // Signals within the first second count as one, so several are needed to stop the host at once.
    eventually("the host ends at once", || {
        stage.host.terminate();
        stage.host.exited().map(drop).ok_or("it drains")
    });
    stage.replace_host(|options| options.with("consumer.lease_ms", LONG_LEASE_MS));
    let event = stage.client.wait_ended(&id);
    let attempts: Vec<u32> = event.attempts.iter().map(|attempt| attempt.attempt).collect();
    assert_eq!((event.state.as_str(), attempts), ("processed", vec![2]), "the first attempt was waited for: {event:?}");
}

fn sigterm_under_load_loses_nothing_and_burns_no_attempt(broker: Broker) {
    let mut stage = Stage::scripted(broker, &["work"]);
    let ids = stage.client.post_batch(&vec![json!({"type": "work", "payload": {"sleep-ms": 20}}); 400]);
    for _ in 0..3 {
        stage.host.terminate();
        assert_eq!(stage.host.wait().code(), Some(0));
        stage.replace_host(|options| options);
    }
    for id in &ids {
        let event = stage.client.wait_ended(id);
        assert_eq!((event.state.as_str(), event.attempts.len(), event.attempts[0].attempt), ("processed", 1, 1));
    }
    let metrics = stage.client.metrics();
    assert_eq!((&metrics["processed"], &metrics["retried"]), (&json!(400), &json!(0)), "{metrics}");
}

fn a_restarted_host_takes_its_own_back_at_once(broker: Broker) {
    let mut stage = Stage::with(broker, PluginsDir::scripted(&["slow"]), |options| {
        options.with("consumer.lease_ms", LONG_LEASE_MS)
    });
    let id = stage.client.post_event("slow", &json!({"sleep-ms": 8_000}));
    wait_until_running(&stage, &id);
    stage.host.kill9();
    stage.replace_host(|options| options.with("consumer.lease_ms", LONG_LEASE_MS));
    // The patience of a test is shorter than the lease.
    let event = stage.client.wait_ended(&id);
    assert_eq!(
        (event.state.as_str(), event.attempts.len(), event.attempts[0].attempt),
        ("processed", 1, 2),
        "{event:?}"
    );
    assert_eq!(stage.client.metrics()["recovered"], 1);
}

fn a_host_that_stood_still_past_its_lease_goes_on_and_each_event_counts_once(broker: Broker) {
    let stage =
        Stage::with(broker, PluginsDir::scripted(&["slow"]), |options| options.with("consumer.lease_ms", 2_000));
    let payload = json!({"sleep-ms": 1_500, "publish": 1, "publish-type": "nobody"});
    for _ in 0..3 {
        let id = stage.client.post_event("slow", &payload);
        stage.client.wait_for(&id, &["running", "processed"]);
        stage.host.stop();
        // The end of a lease cannot be seen from outside.
        std::thread::sleep(Duration::from_millis(2_500));
        stage.host.cont();
        let event = stage.client.wait_ended(&id);
        assert_eq!((event.state.as_str(), event.children.len()), ("processed", 1), "{event:?}");
    }
    let metrics = stage.client.metrics();
    assert_eq!((&metrics["processed"], &metrics["published"]), (&json!(3), &json!(3)), "{metrics}");
    assert_eq!(stage.client.processed().len(), 3);
}

#[test]
fn work_of_a_host_that_stands_still_is_taken_over_and_counts_once() {
    let stage =
        Stage::with(Broker::Redis, PluginsDir::scripted(&["slow"]), |options| options.with("consumer.lease_ms", 8_000));
    let id = stage.client.post_event("slow", &json!({"sleep-ms": 6_000, "publish": 1, "publish-type": "nobody"}));
    wait_until_running(&stage, &id);
    stage.host.stop();
    let other = stage.another(|options| options.with("consumer.lease_ms", 8_000));
    let event = other.client().wait_ended(&id);
    stage.host.cont();
    assert_eq!((event.state.as_str(), event.attempts[0].attempt), ("processed", 2), "{event:?}");
    // The first host notices this, and its own outcome changes nothing.
    stage.client.wait_ended(&stage.client.post_event("slow", &json!({})));
    let metrics = stage.client.metrics();
    assert_eq!((&metrics["processed"], &metrics["published"]), (&json!(2), &json!(1)), "{metrics}");
    assert_eq!(other.client().processed().iter().filter(|event| event.id == id).count(), 1);
}

fn a_handler_slower_than_the_lease_runs_once(broker: Broker) {
    let stage =
        Stage::with(broker, PluginsDir::scripted(&["slow"]), |options| options.with("consumer.lease_ms", 8_000));
    let _other = broker.is_shared().then(|| stage.another(|options| options.with("consumer.lease_ms", 8_000)));
    let ids = stage.client.post_batch(&vec![json!({"type": "slow", "payload": {"sleep-ms": 12_000}}); 4]);
    for id in &ids {
        let event = stage.client.wait_ended(id);
        assert_eq!((event.attempts.len(), event.attempts[0].attempt), (1, 1), "{event:?}");
    }
    assert_eq!(stage.client.metrics()["recovered"], 0);
}

fn an_event_that_takes_its_host_down_again_and_again_fails_as_crash(broker: Broker) {
    let mut stage = Stage::with(broker, PluginsDir::scripted(&["deadly", "good"]), |options| options);
    let id = stage.client.post_event("deadly", &json!({"sleep-ms": 25_000}));
    let good = stage.client.post_event("good", &json!({}));
    // Were it under way when the host dies, it would be taken over as well, and before the other.
    assert_eq!(stage.client.wait_ended(&good).state, "processed");
    for takeovers in 0..5 {
        eventually("the event is delivered again", || match stage.client.metrics()["recovered"].as_u64() {
            Some(count) if count == takeovers => Ok(()),
            other => Err(format!("{other:?} of {takeovers}")),
        });
        wait_until_running(&stage, &id);
        stage.host.kill9();
        stage.replace_host(|options| options);
    }
    let event = stage.client.wait_ended(&id);
    assert_eq!((event.state.as_str(), event.class.as_deref()), ("failed", Some("crash")), "{event:?}");
}
