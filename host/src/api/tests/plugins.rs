//! Showing, rolling back, approving and removing plugins.

use serde_json::json;

use super::client::{delete, get, new_api, post};

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
