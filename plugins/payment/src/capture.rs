//! A payment and what becomes of it.
//!
//! The provider is a sandbox, as every payment provider has one. The card's token chooses its answer, so that each end of
//! an event can be seen without a real provider.

use serde::{Deserialize, Serialize};

/// What is to be paid: the payload of `payment.requested`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Payment {
    /// For which order.
    pub order: String,
    /// How much, in cents.
    pub amount_cents: u64,
    /// In which currency, three letters of ISO 4217.
    pub currency: String,
    /// The card's token.
    pub card: String,
}

/// The proof that a payment was captured.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// For which order.
    pub order: String,
    /// How much, in cents.
    pub captured_cents: u64,
    /// In which currency.
    pub currency: String,
    /// The provider's name for the capture: the same for every attempt at one event.
    pub capture_id: String,
}

/// Why a payment was not captured.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    /// The provider cannot be reached; it may be in a while.
    Unavailable {
        /// What the provider said.
        message: String,
        /// When it wants to be asked again.
        after_ms: u64,
    },
    /// Asking again gives the same answer.
    Final(String),
}

/// Captures a payment. `attempt` is 1 for the first; `idempotency_key` is what the host gives for the event.
///
/// # Errors
/// See [`Refusal`].
pub fn capture(payload: &str, attempt: u32, idempotency_key: &str) -> Result<Receipt, Refusal> {
    let payment: Payment = serde_json::from_str(payload)
        .map_err(|error| Refusal::Final(format!("the payload is not a payment: {error}")))?;
    let is_currency = payment.currency.len() == 3 && payment.currency.bytes().all(|b| b.is_ascii_uppercase());
    if payment.amount_cents == 0 || !is_currency {
        return Err(Refusal::Final("a payment has an amount above 0 and a currency such as \"EUR\"".into()));
    }
    let unavailable = |after_ms| {
        let message = "the payment provider answered 503".to_owned();
        Err(Refusal::Unavailable { message, after_ms })
    };
    match payment.card.as_str() {
        "tok_provider_down" => unavailable(2_000),
        "tok_provider_flaky" if attempt < 3 => unavailable(500),
        "tok_declined" => Err(Refusal::Final(format!("the card for order {} was declined", payment.order))),
        "tok_insufficient_funds" => Err(Refusal::Final(format!(
            "the card for order {} does not cover {}.{:02} {}",
            payment.order,
            payment.amount_cents / 100,
            payment.amount_cents % 100,
            payment.currency
        ))),
        _ => Ok(Receipt {
            order: payment.order,
            captured_cents: payment.amount_cents,
            currency: payment.currency,
            capture_id: format!("cap_{idempotency_key}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pay(card: &str, attempt: u32) -> Result<Receipt, Refusal> {
        let payload = format!(r#"{{"order":"A-1","amountCents":1999,"currency":"EUR","card":"{card}"}}"#);
        capture(&payload, attempt, "0190")
    }

    #[test]
    fn a_good_card_is_captured_under_one_name() {
        let receipt = pay("tok_visa", 1).unwrap();
        assert_eq!((receipt.captured_cents, receipt.capture_id.as_str()), (1_999, "cap_0190"));
        assert_eq!(pay("tok_visa", 2).unwrap(), receipt);
    }

    #[test]
    fn a_provider_that_is_down_is_asked_again() {
        for attempt in 1..9 {
            assert!(matches!(pay("tok_provider_down", attempt), Err(Refusal::Unavailable { after_ms: 2_000, .. })));
        }
        assert!(matches!(pay("tok_provider_flaky", 2), Err(Refusal::Unavailable { .. })));
        assert!(pay("tok_provider_flaky", 3).is_ok());
    }

    #[test]
    fn what_cannot_succeed_is_refused_with_the_reason() {
        for (card, words) in [("tok_declined", "declined"), ("tok_insufficient_funds", "does not cover 19.99 EUR")] {
            assert!(matches!(pay(card, 1), Err(Refusal::Final(message)) if message.contains(words)), "{card}");
        }
        for payload in [
            "{}",
            r#"{"order":"A","amountCents":0,"currency":"EUR","card":"tok_visa"}"#,
            r#"{"order":"A","amountCents":1,"currency":"euro","card":"tok_visa"}"#,
            r#"{"order":"A","amountCents":1,"currency":"EUR","card":"tok_visa","tip":1}"#,
        ] {
            assert!(matches!(capture(payload, 1, "1"), Err(Refusal::Final(_))), "{payload}");
        }
    }
}
