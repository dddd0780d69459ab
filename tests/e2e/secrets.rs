//! A plugin knows its secrets, and whatever it says of them is told nobody.

use eventstream_tests::guests::PluginsDir;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::json;

#[test]
fn a_secret_reaches_the_plugin_and_nobody_else() {
    let plugins = PluginsDir::scripted(&["p"]);
    plugins.write("token.txt", b"from-a-file-1\n");
    let file = plugins.path().join("token.txt");
    let settings =
        format!("[secrets]\ntext = \"as-a-text-2\"\nfile = {{ file = {file:?} }}\nenv = {{ env = \"A_TOKEN\" }}\n");
    let plugins = plugins.with_settings("p", &settings);
    // A variable of somebody else's: what begins with EVENTSTREAM_ is a setting.
    let stage = Stage::with(Broker::Embedded, plugins, |options| options.variable("A_TOKEN", "from-the-environment-3"));
    for (key, value) in [("text", "as-a-text-2"), ("file", "from-a-file-1"), ("env", "from-the-environment-3")] {
        let event = stage.client.wait_ended(&stage.client.post_event("p", &json!({"do": "secret", "key": key})));
        let hidden = format!("[secret {key}]");
        assert_eq!(event.reason.as_deref(), Some(format!("the secret is {hidden}").as_str()), "{event:?}");
        let attempt = &event.attempts[0];
        assert!(attempt.stderr.as_ref().is_some_and(|text| text.contains(&hidden)), "{attempt:?}");
        assert_eq!(attempt.log.len(), 2, "{attempt:?}");
        assert!(attempt.log.iter().all(|line| line.to_string().contains(&hidden)), "{attempt:?}");
        for (place, told) in [
            ("GET /events/ID", stage.client.get(&format!("/events/{}", event.id)).text()),
            ("GET /plugins", stage.client.get("/plugins").text()),
            ("the log", stage.host.wait_for_output(&hidden)),
        ] {
            assert!(!told.contains(value), "{place}: {told}");
        }
    }
}
