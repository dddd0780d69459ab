//! Interfaces of others that are mapped to ours.

use std::sync::Arc;

use eventstream::event::{LogLevel, StateWrite};
use eventstream::plugin::{AttemptInput, MemoryState};
use eventstream_tests::layout;
use serde_json::json;

use crate::{event, open, route, success, together};

#[tokio::test]
async fn keyvalue_config_and_logging_of_wasi_are_the_plugins_own() {
    let _turn = together().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(layout::guest("keyvalue"), dir.path().join("keyvalue.wasm")).unwrap();
    std::fs::write(dir.path().join("keyvalue.toml"), "config = { greeting = 'hello' }").unwrap();
    let registry = open(dir.path()).await;
    let attempt = AttemptInput { event: event("keyvalue", &json!({})).into(), attempt: 1 };
    let completed = route(&registry, "keyvalue").handle(attempt, Arc::new(MemoryState::default())).await;
    let log = completed.log.clone();
    let success = success(completed);
    let told = success.result.unwrap();
    let expected = [
        "another store: Err(Error::NoSuchStore)",
        "nothing: Ok(None)",
        "set: Ok(())",
        "get: Ok(Some([49]))",
        "exists: Ok(true)",
        "increment: Ok(3)",
        "below zero: Err(Error::Other(\"a counter of this interface is not negative\"))",
        "set many: Ok(())",
        "get many: Ok([Some((\"a\", [51])), None])",
        "delete many: Ok(())",
        "list: true",
        "increment: Ok(-1)",
        "get many: Ok([(\"a\", Some([45, 49])), (\"b\", None)])",
        "delete: Ok(())",
        "exists: Ok(false)",
        "current: Ok(Some([45, 49]))",
        "swap: true",
        "get: Ok(Some([115, 119, 97, 112, 112, 101, 100]))",
        "a key that is none: true",
        "setting: Ok(Some(\"hello\"))",
        "settings: Ok([(\"greeting\", \"hello\")])",
    ];
    assert_eq!(told.as_text().unwrap().lines().collect::<Vec<_>>(), expected);
    let context = vec![("context".to_owned(), "keyvalue".to_owned())];
    assert_eq!((log[0].level, log[0].message.as_str(), &log[0].fields), (LogLevel::Error, "logged", &context));
    assert_eq!((log[1].level, log[1].message.as_str(), log[1].fields.len()), (LogLevel::Info, "bare", 0));
    let step = success.state.unwrap();
    assert_eq!(step.expected.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "z"]);
    let swapped = StateWrite::Set { value: "swapped".into(), ttl_ms: None };
    let writes = [("a", swapped), ("b", StateWrite::Delete), ("c", StateWrite::Delete)];
    assert_eq!(step.writes, writes.map(|(key, write)| (key.to_owned(), write)));
}
