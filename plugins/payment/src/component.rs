//! The component: exports `handler` and `describe`, and turns the answers of [`crate::capture`] into outcomes.

use self::eventstream::plugin::delivery;
use self::eventstream::plugin::log::{Level, log};
use self::eventstream::plugin::types::RetryRequest;
use self::exports::eventstream::plugin::describe::{self, Manifest};
use self::exports::eventstream::plugin::handler::{self, Event, EventData, Failure};
use crate::capture::{Refusal, capture};

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package examples:payment;
        world component {
            include eventstream:plugin/plugin@0.1.0;
            export eventstream:plugin/describe@0.1.0;
        }
    ",
    generate_all,
});

struct Payment;
export!(Payment);

impl describe::Guest for Payment {
    fn describe() -> Manifest {
        Manifest {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: env!("CARGO_PKG_DESCRIPTION").into(),
            types: vec!["payment.requested".into()],
        }
    }
}

impl handler::Guest for Payment {
    fn handle(event: Event) -> Result<Option<EventData>, Failure> {
        let Some(EventData::Text(payload)) = event.data else {
            return Err(Failure::Reject("a payment has a JSON payload".into()));
        };
        let attempt = delivery::attempt();
        match capture(&payload, attempt, &delivery::idempotency_key()) {
            Ok(receipt) => {
                log(Level::Info, "captured", &[("capture".to_owned(), receipt.capture_id.clone())]);
                let text = serde_json::to_string(&receipt).map_err(|error| Failure::Reject(error.to_string()))?;
                Ok(Some(EventData::Text(text)))
            }
            Err(Refusal::Unavailable { message, after_ms }) => {
                let message = format!("{message} (attempt {attempt} of {})", delivery::max_attempts());
                log(Level::Warn, &message, &[]);
                Err(Failure::Retry(RetryRequest { message, after_ms: Some(after_ms) }))
            }
            Err(Refusal::Final(message)) => Err(Failure::Reject(message)),
        }
    }
}
