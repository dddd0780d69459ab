//! The component: exports `handler` and `describe`, sends what [`crate::message`] makes of an event, and turns the answer
//! into an outcome.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use self::eventstream::plugin::types::RetryRequest;
use self::eventstream::plugin::{config, delivery, secrets};
use self::exports::eventstream::plugin::describe::{self, Manifest};
use self::exports::eventstream::plugin::handler::{self, Event, EventData, Failure};
use crate::message::{self, Address, Refusal};
use crate::outgoing;

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package examples:webhook;
        world component {
            include eventstream:plugin/plugin@0.1.0;
            import eventstream:plugin/secrets@0.1.0;
            export eventstream:plugin/describe@0.1.0;
        }
    ",
    generate_all,
});

struct Webhook;
export!(Webhook);

impl describe::Guest for Webhook {
    fn describe() -> Manifest {
        Manifest {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: env!("CARGO_PKG_DESCRIPTION").into(),
            types: vec!["webhook".into()],
        }
    }
}

impl handler::Guest for Webhook {
    fn handle(event: Event) -> Result<Option<EventData>, Failure> {
        let Some(url) = config::get("url").filter(|url| !url.is_empty()) else {
            let words = "there is no address to send to: set config = { url = \"https://…\" } and grant it";
            return Err(Failure::Reject(words.into()));
        };
        let Some(EventData::Text(payload)) = event.data else {
            return Err(Failure::Reject("a webhook is sent a payload of JSON".into()));
        };
        let invalid = || Failure::Reject(format!("{url} is not an address such as https://example.com/hooks"));
        let address = Address::parse(&url).ok_or_else(invalid)?;
        let body = payload.as_bytes();
        let signing_key = secrets::get("signing-key");
        let headers = message::headers(&delivery::idempotency_key(), unix_seconds(), body, signing_key.as_deref());
        let answer = outgoing::post(&address, &headers, body).map_err(|failure| match failure {
            // The host's log has the line that grants it. Until then trying again cannot help.
            outgoing::Failure::Denied(code) => Failure::Reject(format!("{url} is not granted to this plugin: {code}")),
            outgoing::Failure::Invalid => invalid(),
            outgoing::Failure::Unreachable(code) => retry(format!("{url} cannot be reached: {code}"), None),
        })?;
        let words = format!("{url} answered {}", answer.status);
        match message::judge(answer.status, answer.retry_after.as_deref()) {
            Ok(()) => {
                let result = json!({ "status": answer.status, "attempt": delivery::attempt() });
                Ok(Some(EventData::Text(result.to_string())))
            }
            Err(Refusal::Later { after_ms }) => Err(retry(words, after_ms)),
            Err(Refusal::Final) => Err(Failure::Reject(words)),
        }
    }
}

fn retry(message: String, after_ms: Option<u64>) -> Failure {
    Failure::Retry(RetryRequest { message, after_ms })
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
