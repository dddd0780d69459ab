//! The component: exports `handler` and `describe`, and keeps what [`crate::total`] adds up.

use serde_json::json;

use self::eventstream::plugin::publisher::{NewEvent, publish};
use self::eventstream::plugin::types::RetryRequest;
use self::eventstream::plugin::{config, state};
use self::exports::eventstream::plugin::describe::{self, Manifest};
use self::exports::eventstream::plugin::handler::{self, Event, EventData, Failure};
use crate::total::{self, REGULAR_CENTS, Total};

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package examples:customer-total;
        world component {
            include eventstream:plugin/plugin@0.1.0;
            export eventstream:plugin/describe@0.1.0;
        }
    ",
    generate_all,
});

struct CustomerTotal;
export!(CustomerTotal);

impl describe::Guest for CustomerTotal {
    fn describe() -> Manifest {
        Manifest {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: env!("CARGO_PKG_DESCRIPTION").into(),
            types: vec!["order.paid".into()],
        }
    }
}

impl handler::Guest for CustomerTotal {
    fn handle(event: Event) -> Result<Option<EventData>, Failure> {
        let Some(EventData::Text(payload)) = event.data else {
            return Err(Failure::Reject("an order has a JSON payload".into()));
        };
        let order = total::read(&payload).map_err(Failure::Reject)?;
        let key = format!("customer/{}", order.customer);
        let before = match state::get(&key).map_err(failure)? {
            None => Total::default(),
            Some(kept) => serde_json::from_slice(&kept).map_err(|error| Failure::Reject(format!("{key}: {error}")))?,
        };
        let (after, is_regular) = total::add(before, &order, regular_cents()?);
        let result = json!(after).to_string();
        state::set(&key, result.as_bytes(), None).map_err(failure)?;
        state::increment("orders", 1).map_err(failure)?;
        if is_regular {
            publish(&NewEvent {
                type_: "customer.regular".into(),
                subject: Some(order.customer),
                datacontenttype: None,
                extensions: Vec::new(),
                data: Some(EventData::Text(result.clone())),
                delay_ms: None,
            })
            .map_err(|error| Failure::Reject(error.to_string()))?;
        }
        Ok(Some(EventData::Text(result)))
    }
}

fn regular_cents() -> Result<u64, Failure> {
    match config::get("regular-cents") {
        None => Ok(REGULAR_CENTS),
        Some(text) => text.parse().map_err(|_| Failure::Reject(format!("the setting regular-cents is {text:?}"))),
    }
}

/// A store that is away comes back; the rest does not mend itself.
fn failure(error: state::Error) -> Failure {
    match error {
        state::Error::Unavailable(message) => Failure::Retry(RetryRequest { message, after_ms: None }),
        other => Failure::Reject(other.to_string()),
    }
}
