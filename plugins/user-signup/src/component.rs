//! The component: exports `handler` and `describe`, and does with the rules of [`crate::signup`] what the host offers.

use serde_json::json;

use self::eventstream::plugin::log::{Level, log};
use self::eventstream::plugin::publisher::{NewEvent, publish};
use self::exports::eventstream::plugin::describe::{self, Manifest};
use self::exports::eventstream::plugin::handler::{self, Event, EventData, Failure};
use crate::signup;

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package examples:user-signup;
        world component {
            include eventstream:plugin/plugin@0.1.0;
            export eventstream:plugin/describe@0.1.0;
        }
    ",
    generate_all,
});

struct UserSignup;
export!(UserSignup);

impl describe::Guest for UserSignup {
    fn describe() -> Manifest {
        Manifest {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: env!("CARGO_PKG_DESCRIPTION").into(),
            types: vec!["USER_SIGNUP".into()],
        }
    }
}

impl handler::Guest for UserSignup {
    fn handle(event: Event) -> Result<Option<EventData>, Failure> {
        let Some(EventData::Text(payload)) = event.data else {
            return Err(Failure::Reject("a sign-up has a JSON payload".into()));
        };
        let user = signup::read(&payload).map_err(Failure::Reject)?;

        // Whoever has no address cannot be written to.
        if let Some(contact) = &user.contact {
            // Exists from the moment this event is acknowledged, and never if it is not.
            let welcome = publish(&NewEvent {
                type_: "user.welcome".into(),
                subject: event.subject,
                datacontenttype: None,
                extensions: Vec::new(),
                data: Some(EventData::Text(json!({ "name": contact.name, "email": contact.email }).to_string())),
                delay_ms: None,
            })
            .map_err(|error| Failure::Reject(error.to_string()))?;
            log(Level::Info, "signed up", &[("welcome".to_owned(), welcome)]);
        }

        Ok(Some(EventData::Text(serde_json::Value::Object(user.members).to_string())))
    }
}
