//! The example `page-views-js` counts exactly, however many views of one page are handled at the same moment.

use eventstream_tests::guests::PluginsDir;
use eventstream_tests::stage::{Broker, Stage};
use eventstream_tests::{layout, on_both_brokers};
use serde_json::{Value, json};

on_both_brokers! { views_at_once_are_all_counted }

const NAME: &str = "page-views-js";
const VIEWS: u64 = 40;

fn views_at_once_are_all_counted(broker: Broker) {
    let plugins = PluginsDir::empty();
    plugins.put(NAME, &layout::project_plugin(NAME));
    let stage = Stage::with(broker, plugins, |options| options);
    let events: Vec<Value> = (0..VIEWS).map(|_| json!({"type": NAME, "payload": {"page": "/a"}})).collect();
    let ended: Vec<_> = stage.client.post_batch(&events).iter().map(|id| stage.client.wait_ended(id)).collect();
    let mut counted: Vec<u64> = ended
        .iter()
        .map(|event| {
            assert_eq!(event.state, "processed", "{event:?}");
            let result: Value = serde_json::from_str(event.result.as_ref().unwrap().get()).unwrap();
            result["views"].as_u64().unwrap()
        })
        .collect();
    counted.sort_unstable();
    assert_eq!(counted, (1..=VIEWS).collect::<Vec<_>>(), "each number once");
    let announced = ended.iter().map(|event| event.children.len()).sum::<usize>();
    assert_eq!(announced, 1, "the tenth view is announced, once");
}
