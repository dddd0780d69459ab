//! Showing, rolling back, approving, removing, pausing and resuming plugins.

use serde_json::json;

use super::client::{delete, get, new_api, post};
use crate::broker::{MAX_STORED_PAUSES, PauseNote, PluginPause};
use crate::event::Timestamp;

#[tokio::test]
async fn plugins_are_listed_and_shown() {
    let (api, _) = new_api();
    let listed = get(&api, "/plugins").await.json();
    assert_eq!(listed["plugins"][0]["types"], json!(["USER_SIGNUP"]));
    assert_eq!(get(&api, "/plugins/signup").await.json(), listed["plugins"][0]);
}

#[tokio::test]
async fn a_plugin_is_rolled_back_or_it_is_said_why_not() {
    let (api, _) = new_api();
    let back = post(&api, "/plugins/signup/rollback", &[], "").await;
    assert_eq!((back.status, &back.json()["rolledBackFrom"]), (200, &json!("abc")));
    assert_eq!(
        post(&api, "/plugins/old/rollback", &[], "").await.is_problem(409, "not-rolled-back")["detail"],
        "none before"
    );
    post(&api, "/plugins/none/rollback", &[], "").await.is_problem(404, "not-found");
    post(&api, "/plugins/signup/rollback?to=1", &[], "").await.is_problem(400, "bad-query");
    get(&api, "/plugins/signup/rollback").await.is_problem(405, "method-not-allowed");
}

#[tokio::test]
async fn a_build_is_approved_and_a_plugin_removed_or_it_is_said_why_not() {
    let (api, _) = new_api();
    let approved = post(&api, "/plugins/signup/approve?digest=abc", &[], "").await;
    assert_eq!((approved.status, &approved.json()["digest"]), (200, &json!("abc")));
    let unnamed = post(&api, "/plugins/signup/approve", &[], "").await.is_problem(400, "bad-query");
    assert_eq!(unnamed["detail"], "say ?digest=abc");
    post(&api, "/plugins/signup/approve?digest=def", &[], "").await.is_problem(409, "not-approved");
    post(&api, "/plugins/none/approve", &[], "").await.is_problem(404, "not-found");
    post(&api, "/plugins/signup/approve?digset=abc", &[], "").await.is_problem(400, "bad-query");

    let removed = delete(&api, "/plugins/signup").await;
    assert_eq!((removed.status, &removed.json()["state"]), (200, &json!("removed")));
    assert!(removed.json()["stateKeysRemoved"].is_null());
    for path in ["/plugins/signup?state=true", "/plugins/went?state"] {
        let removed = delete(&api, path).await;
        assert_eq!((removed.status, &removed.json()["stateKeysRemoved"]), (200, &json!(3)), "{path}");
    }
    delete(&api, "/plugins/none?state=true").await.is_problem(404, "not-found");
    delete(&api, "/plugins/signup?stat=true").await.is_problem(400, "bad-query");
    delete(&api, "/plugins/old").await.is_problem(409, "not-removed");
    delete(&api, "/plugins/none").await.is_problem(404, "not-found");
    delete(&api, "/plugins").await.is_problem(405, "method-not-allowed");
}

#[tokio::test]
async fn a_plugin_is_paused_and_resumed_and_shown_so() {
    let (api, fake) = new_api();
    let paused = post(&api, "/plugins/signup/pause", &[], r#"{"reason":"the bank is away","until":"2h"}"#).await;
    assert_eq!((paused.status, &paused.json()["name"]), (200, &json!("signup")));
    let pause = paused.json()["paused"].clone();
    assert_eq!((&pause["by"], &pause["reason"]), (&json!("local"), &json!("the bank is away")));
    assert!(pause["since"].as_str().unwrap() < pause["until"].as_str().unwrap(), "{pause}");
    assert_eq!(get(&api, "/plugins/signup").await.json()["paused"], pause);
    assert_eq!(get(&api, "/plugins").await.json()["plugins"][0]["paused"], pause);
    assert_eq!(get(&api, "/metrics").await.json()["paused"], json!(["signup"]));
    for path in ["/plugins/none/pause", "/plugins/none/resume", "/plugins/_/pause"] {
        post(&api, path, &[], "").await.is_problem(404, "not-found");
    }
    let wrong = post(&api, "/plugins/signup/pause", &[], r#"{"until":"soon"}"#).await.is_problem(422, "invalid-change");
    assert_eq!(wrong["errors"][0]["pointer"], "/until");
    post(&api, "/plugins/signup/resume", &[], r#"{"until":"2h"}"#).await.is_problem(422, "invalid-change");
    post(&api, "/plugins/signup/pause?reason=x", &[], "").await.is_problem(400, "bad-query");
    for _ in 0..2 {
        let resumed = post(&api, "/plugins/signup/resume", &[], "{}").await;
        assert_eq!((resumed.status, &resumed.json()["paused"]), (200, &json!(null)));
    }
    assert_eq!(get(&api, "/metrics").await.json()["paused"], json!([]));

    let mut pause = fake_pause("signup");
    fake.state.lock().pauses.insert("gone".parse().unwrap(), fake_pause("gone"));
    api.pauses.refresh().await.unwrap();
    assert_eq!(get(&api, "/plugins").await.json()["pausedElsewhere"][0]["plugin"], "gone");
    assert_eq!(post(&api, "/plugins/gone/resume", &[], "").await.status, 200);
    for n in 0..MAX_STORED_PAUSES {
        pause.plugin = format!("p{n}").parse().unwrap();
        fake.state.lock().pauses.insert(pause.plugin.clone(), pause.clone());
    }
    post(&api, "/plugins/signup/pause", &[], "").await.is_problem(409, "too-many-pauses");
}

fn fake_pause(name: &str) -> PluginPause {
    let note = PauseNote { since: Timestamp::from_unix_ms(1), by: "key:ops".into(), reason: None, until: None };
    PluginPause { plugin: name.parse().unwrap(), note }
}
