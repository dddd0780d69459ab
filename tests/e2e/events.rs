//! The life of an event: accepted, handled, retried, rejected, failed, replayed; and what the API shows of it.

use std::collections::BTreeSet;

use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::layout;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::json;

on_both_brokers! {
    an_event_is_accepted_handled_and_told_about,
    an_event_that_is_to_be_tried_again_is_and_tells_its_attempts,
    an_event_that_is_rejected_fails_at_once_and_one_that_never_succeeds_after_its_last_attempt,
    a_failed_event_that_is_replayed_once_the_cause_is_gone_is_processed,
    an_event_that_is_not_there_is_not_found,
    what_a_handler_publishes_comes_to_be_with_its_success_and_names_its_cause,
    an_event_without_a_handler_fails_and_is_taken_up_when_its_plugin_comes,
    the_example_plugins_do_what_they_say,
}

fn an_event_is_accepted_handled_and_told_about(broker: Broker) {
    let stage = Stage::scripted(broker, &["greeting"]);
    let answer = stage.client.post(r#"{"type":"greeting","subject":"dog","payload":{"do":"echo"}}"#).expect(202);
    let body = answer.json();
    assert_eq!(body["message"], format!("Event accepted and queued ({})", broker.name()));
    assert_eq!(body["durability"], "fsync");
    assert_eq!(body["duplicate"], false);
    let id = body["eventId"].as_str().unwrap();
    assert_eq!(id.as_bytes()[14], b'7', "{id} is a UUID of version 7");
    assert_eq!(answer.header("location"), format!("/events/{id}"));

    let event = stage.client.wait_ended(id);
    assert_eq!((event.state.as_str(), event.event_type.as_str()), ("processed", "greeting"));
    assert_eq!(event.result.unwrap().get(), r#"{"do":"echo"}"#);
    let [attempt] = &event.attempts[..] else { panic!("one attempt: {:?}", event.attempts) };
    assert_eq!((attempt.attempt, attempt.class.as_deref(), attempt.plugin.as_deref()), (1, None, Some("greeting")));
    assert_eq!(attempt.digest.as_ref().map(String::len), Some(64));
    assert_eq!(stage.client.processed().iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), [id]);
    assert_eq!(stage.client.failed().len(), 0);
}

fn an_event_that_is_to_be_tried_again_is_and_tells_its_attempts(broker: Broker) {
    let stage = Stage::scripted(broker, &["flaky"]);
    let id = stage.client.post_event("flaky", &json!({"flaky": 3, "after-ms": 30, "message": "not yet"}));
    let event = stage.client.wait_ended(&id);
    assert_eq!(event.state, "processed");
    let reported: Vec<_> = event.attempts.iter().map(|a| (a.attempt, a.class.as_deref(), a.error.as_deref())).collect();
    assert_eq!(reported, [(1, Some("retry"), Some("not yet")), (2, Some("retry"), Some("not yet")), (3, None, None)]);
    assert_eq!(event.attempts[0].retry_in_ms, Some(30), "the handler's wish is honored");
}

fn an_event_that_is_rejected_fails_at_once_and_one_that_never_succeeds_after_its_last_attempt(broker: Broker) {
    let stage = Stage::with(broker, PluginsDir::scripted(&["bad"]), |options| options.with("retry.max_attempts", 3));
    let rejected = stage.client.post_event("bad", &json!({"do": "reject", "message": "the card is declined"}));
    let hopeless = stage.client.post_event("bad", &json!({"do": "retry", "message": "the provider is down"}));

    let event = stage.client.wait_ended(&rejected);
    assert_eq!((event.state.as_str(), event.class.as_deref()), ("failed", Some("reject")));
    assert_eq!(event.reason.as_deref(), Some("the card is declined"));
    assert_eq!(event.attempts.len(), 1);

    let event = stage.client.wait_ended(&hopeless);
    assert_eq!((event.state.as_str(), event.class.as_deref()), ("failed", Some("retry")));
    assert_eq!(event.attempts.len(), 3);
    let failed: BTreeSet<String> = stage.client.failed().into_iter().map(|event| event.id).collect();
    assert_eq!(failed, BTreeSet::from([rejected.clone(), hopeless]));
    assert_eq!(stage.client.failed_event(&rejected).unwrap().class.as_deref(), Some("reject"));
    assert_eq!(stage.client.processed().len(), 0);
}

fn a_failed_event_that_is_replayed_once_the_cause_is_gone_is_processed(broker: Broker) {
    let plugins =
        PluginsDir::scripted(&["slow"]).with_settings("slow", "[limits]\nwall_ms = 4000\n[retry]\nmax_attempts = 1\n");
    let mut stage = Stage::with(broker, plugins, |options| options);
    let id = stage.client.post_event("slow", &json!({"sleep-ms": 6_000}));
    let failed = stage.client.wait_ended(&id);
    assert_eq!((failed.state.as_str(), failed.class.as_deref()), ("failed", Some("timeout")));

    stage.plugins.write("slow.toml", b"[limits]\nwall_ms = 60000\n");
    stage.host.terminate();
    assert!(stage.host.wait().success());
    stage.replace_host(|options| options);
    stage.client.replay(&id).expect(202);
    let event = stage.client.wait_for(&id, &["processed"]);
    assert_eq!((event.replays, event.attempts.len()), (1, 2), "{:?}", event.attempts);
    assert_eq!(stage.client.failed().len(), 0);
    assert!(stage.client.failed_event(&id).is_none());
    stage.client.replay(&id).expect(409);
}

fn an_event_that_is_not_there_is_not_found(broker: Broker) {
    let stage = Stage::scripted(broker, &["any"]);
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    for path in [format!("/events/{unknown}"), format!("/failed-events/{unknown}"), "/events/nonsense".into()] {
        let answer = stage.client.get(&path).expect(404);
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
    }
    stage.client.replay(unknown).expect(404);
}

fn what_a_handler_publishes_comes_to_be_with_its_success_and_names_its_cause(broker: Broker) {
    let stage = Stage::scripted(broker, &["parent", "child"]);
    let payload = json!({"publish": 2, "publish-type": "child", "publish-payload": {"do": "facts"}});
    let parent = stage.client.wait_ended(&stage.client.post_event("parent", &payload));
    assert_eq!((parent.state.as_str(), parent.children.len()), ("processed", 2));
    for id in &parent.children {
        let child = stage.client.wait_ended(id);
        assert_eq!((child.state.as_str(), child.cause.as_deref()), ("processed", Some(parent.id.as_str())));
        assert_eq!(child.source, "/plugins/parent");
    }

    let failing = json!({"publish": 2, "publish-type": "child", "do": "reject"});
    let parent = stage.client.wait_ended(&stage.client.post_event("parent", &failing));
    assert_eq!((parent.state.as_str(), parent.children.len()), ("failed", 0));
    let metrics = stage.client.metrics();
    assert_eq!((&metrics["published"], &metrics["processed"]), (&json!(2), &json!(3)), "{metrics}");
}

fn an_event_without_a_handler_fails_and_is_taken_up_when_its_plugin_comes(broker: Broker) {
    let stage = Stage::with(broker, PluginsDir::empty(), |options| options.with("retry.max_attempts", 2));
    let id = stage.client.post_event("late", &json!({"do": "ok"}));
    let event = stage.client.wait_for(&id, &["failed"]);
    assert_eq!(event.class.as_deref(), Some("no-handler"));
    stage.plugins.put("late", &layout::guest("scripted"));
    let event = stage.client.wait_for(&id, &["processed"]);
    assert_eq!(event.replays, 1);
}

#[test]
fn several_hosts_share_the_work() {
    let stage =
        Stage::with(Broker::Redis, PluginsDir::scripted(&["work"]), |options| options.with("consumer.concurrency", 2));
    let other = stage.another(|options| options.with("consumer.concurrency", 2));
    let events: Vec<_> = (0..60).map(|_| json!({"type": "work", "payload": {"sleep-ms": 30}})).collect();
    let (client, mut ids) = (other.client(), BTreeSet::new());
    // One of them may get no processor while the other works all of them off.
    let processed = eventually("both hosts take part", || {
        let sent = stage.client.post_batch(&events);
        for id in &sent {
            client.wait_ended(id);
        }
        ids.extend(sent);
        let processed = client.processed();
        let consumers: BTreeSet<_> = processed.iter().map(|event| event.attempts[0].consumer.clone()).collect();
        if consumers.len() == 2 { Ok(processed) } else { Err(format!("{consumers:?} did")) }
    });
    assert_eq!(processed.into_iter().map(|event| event.id).collect::<BTreeSet<_>>(), ids);
}

fn the_example_plugins_do_what_they_say(broker: Broker) {
    let plugins = PluginsDir::empty();
    for name in ["user-signup", "user-welcome", "payment"] {
        plugins.put(name, &layout::example_plugin(name));
    }
    let stage = Stage::with(broker, plugins, |options| options);
    let user = json!({"name": " Ada Lovelace ", "email": "ada@EXAMPLE.com"});
    let signup = stage.client.wait_ended(&stage.client.post_event("USER_SIGNUP", &user));
    assert_eq!(signup.state, "processed", "{signup:?}");
    assert!(signup.result.unwrap().get().contains("ada@example.com"));
    let welcome = stage.client.wait_ended(&signup.children[0]);
    assert_eq!((welcome.state.as_str(), welcome.event_type.as_str()), ("processed", "user.welcome"));
    let refused = stage.client.wait_ended(&stage.client.post_event("USER_SIGNUP", &json!({"name": "", "email": "x"})));
    assert_eq!((refused.state.as_str(), refused.class.as_deref()), ("failed", Some("reject")));
}
