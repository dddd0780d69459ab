//! Handles `{{name}}`: greets whoever the payload names.

use self::eventstream::plugin::config;
use self::eventstream::plugin::log::{Level, log};
use self::exports::eventstream::plugin::handler::{Event, EventData, Failure, Guest};
use serde::Deserialize;
use serde_json::json;

wit_bindgen::generate!({ path: "wit", world: "plugin", generate_all });

struct Component;
export!(Component);

#[derive(Deserialize)]
struct Payload {
    name: String,
}

impl Guest for Component {
    fn handle(event: Event) -> Result<Option<EventData>, Failure> {
        let Some(EventData::Text(payload)) = event.data else {
            return Err(Failure::Reject("the event needs a JSON payload".into()));
        };
        // `Reject` is for an event that can never succeed; `Failure::Retry` asks for another attempt.
        let payload: Payload =
            serde_json::from_str(&payload).map_err(|error| Failure::Reject(format!("the payload is wrong: {error}")))?;
        let greeting = config::get("greeting").unwrap_or_else(|| "Hello".into());
        log(Level::Info, "greeted", &[("name".into(), payload.name.clone())]);
        let result = json!({ "text": format!("{greeting}, {}!", payload.name) });
        Ok(Some(EventData::Text(result.to_string())))
    }
}
