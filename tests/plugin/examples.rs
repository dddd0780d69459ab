//! The example plugins do what their READMEs say.

use std::sync::Arc;

use eventstream::event::FailureClass;
use eventstream::plugin::{AttemptInput, MemoryState, PluginRegistry};
use eventstream_tests::layout;
use serde_json::json;

use crate::{event, failure, open, result, route, success, together};

async fn examples() -> Arc<PluginRegistry> {
    open(layout::example_plugin("payment").parent().unwrap()).await
}

async fn handle(
    registry: &PluginRegistry,
    event_type: &str,
    payload: serde_json::Value,
) -> eventstream::plugin::CompletedAttempt {
    route(registry, event_type)
        .handle(
            AttemptInput { event: event(event_type, &payload).into(), attempt: 1 },
            Arc::new(MemoryState::default()),
        )
        .await
}

#[tokio::test]
async fn a_sign_up_is_followed_by_a_welcome() {
    let _turn = together().await;
    let registry = examples().await;
    let payload = json!({"id": 7, "name": " Ada  Lovelace", "email": "ada@Example.COM"});
    let success = success(handle(&registry, "USER_SIGNUP", payload).await);
    let user = String::from_utf8(success.result.unwrap().bytes.to_vec()).unwrap();
    assert_eq!(user, r#"{"email":"ada@example.com","id":7,"name":"Ada Lovelace"}"#);

    let follow_up = success.published.into_iter().next().unwrap().event;
    let key = follow_up.id.to_string();
    let welcome = route(&registry, follow_up.event_type.as_str());
    assert_eq!(welcome.name(), "user-welcome");
    let message = result(
        welcome.handle(AttemptInput { event: follow_up.into(), attempt: 1 }, Arc::new(MemoryState::default())).await,
    );
    assert_eq!(message["to"], "\"Ada Lovelace\" <ada@example.com>");
    assert!(message["messageId"].as_str().is_some_and(|id| id.contains(&key)), "{message}");
}

#[tokio::test]
async fn a_sign_up_with_an_id_alone_is_processed_and_welcomes_nobody() {
    let _turn = together().await;
    let registry = examples().await;
    let success = success(handle(&registry, "USER_SIGNUP", json!({"userId": "123"})).await);
    assert_eq!(&success.result.unwrap().bytes[..], br#"{"userId":"123"}"#);
    assert!(success.published.is_empty());
}

#[tokio::test]
async fn a_sign_up_that_is_wrong_is_rejected_with_the_reasons() {
    let _turn = together().await;
    let registry = examples().await;
    let failure = failure(handle(&registry, "USER_SIGNUP", json!({"email": "nobody", "name": ""})).await);
    assert_eq!(failure.class, FailureClass::Reject);
    assert!(failure.message.contains("needs an @") && failure.message.contains("\"name\""), "{failure:?}");
}

#[tokio::test]
async fn a_payment_ends_in_each_of_the_three_ways() {
    let _turn = together().await;
    let registry = examples().await;
    let pay = |card: &str| json!({"order": "A-1", "amountCents": 1_999, "currency": "EUR", "card": card});
    let receipt = result(handle(&registry, "payment.requested", pay("tok_visa")).await);
    assert_eq!(receipt["capturedCents"], 1_999);
    let down = failure(handle(&registry, "payment.requested", pay("tok_provider_down")).await);
    assert_eq!((down.class, down.after_ms), (FailureClass::Retry, Some(2_000)));
    let declined = failure(handle(&registry, "payment.requested", pay("tok_declined")).await);
    assert_eq!(declined.class, FailureClass::Reject);
}

#[tokio::test]
async fn a_customer_becomes_a_regular_once() {
    let _turn = together().await;
    let registry = examples().await;
    let plugin = route(&registry, "order.paid");
    let state = Arc::new(MemoryState::default());
    let mut told = Vec::new();
    for (customer, amount_cents) in [("a", 60_000), ("b", 10), ("a", 60_000), ("a", 60_000)] {
        let event = event("order.paid", &json!({"customer": customer, "amountCents": amount_cents}));
        let success = success(plugin.handle(AttemptInput { event: event.into(), attempt: 1 }, state.clone()).await);
        state.commit(&success.state.unwrap());
        let total: serde_json::Value = serde_json::from_slice(&success.result.unwrap().bytes).unwrap();
        told.push((total["cents"].as_u64().unwrap(), success.published.len()));
    }
    assert_eq!(told, [(60_000, 0), (10, 0), (120_000, 1), (180_000, 0)]);
}

#[tokio::test]
async fn examples_say_what_they_are() {
    let _turn = together().await;
    let registry = examples().await;
    let statuses = registry.statuses();
    let told: Vec<_> = statuses.iter().map(|status| (status.name.as_str(), status.types[0].to_string())).collect();
    let expected = [
        ("customer-total", "order.paid"),
        ("payment", "payment.requested"),
        ("user-signup", "USER_SIGNUP"),
        ("user-welcome", "user.welcome"),
        ("webhook", "webhook"),
    ];
    assert_eq!(told, expected.map(|(name, event_type)| (name, event_type.to_owned())));
    assert!(statuses.iter().all(|status| status.version.is_some() && status.description.is_some()));
}
