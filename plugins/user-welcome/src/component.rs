//! The component: exports `handler` and `describe`, and hands the host's idempotency key to [`crate::message`].

use self::eventstream::plugin::delivery;
use self::eventstream::plugin::log::{Level, log};
use self::exports::eventstream::plugin::describe::{self, Manifest};
use self::exports::eventstream::plugin::handler::{self, Event, EventData, Failure};
use crate::message;

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package examples:user-welcome;
        world component {
            include eventstream:plugin/plugin@0.1.0;
            export eventstream:plugin/describe@0.1.0;
        }
    ",
    generate_all,
});

struct UserWelcome;
export!(UserWelcome);

impl describe::Guest for UserWelcome {
    fn describe() -> Manifest {
        Manifest {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: env!("CARGO_PKG_DESCRIPTION").into(),
            types: vec!["user.welcome".into()],
        }
    }
}

impl handler::Guest for UserWelcome {
    fn handle(event: Event) -> Result<Option<EventData>, Failure> {
        let Some(EventData::Text(payload)) = event.data else {
            return Err(Failure::Reject("a welcome has a JSON payload".into()));
        };
        let message = message::compose(&payload, &delivery::idempotency_key()).map_err(Failure::Reject)?;
        log(Level::Info, "composed", &[("to".to_owned(), message.to.clone())]);
        let text = serde_json::to_string(&message).map_err(|error| Failure::Reject(error.to_string()))?;
        Ok(Some(EventData::Text(text)))
    }
}
