//! An order and the total that it leads to.

use serde::{Deserialize, Serialize};

/// From which total on a customer is a regular, if the settings do not say.
pub const REGULAR_CENTS: u64 = 100_000;

/// An order that was paid: the payload of `order.paid`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Who paid; a key of the state is made of it.
    pub customer: String,
    /// How much, in cents.
    pub amount_cents: u64,
}

/// What a customer has paid so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Total {
    /// How many orders.
    pub orders: u64,
    /// How much, in cents.
    pub cents: u64,
}

/// Reads the payload.
///
/// # Errors
/// What is wrong with it.
pub fn read(payload: &str) -> Result<Order, String> {
    let order: Order = serde_json::from_str(payload).map_err(|error| error.to_string())?;
    if order.customer.is_empty() || order.customer.len() > 100 || order.customer.chars().any(char::is_control) {
        return Err("customer is 1 to 100 bytes without control characters".into());
    }
    Ok(order)
}

/// The total after an order, and whether it made the customer a regular.
pub fn add(before: Total, order: &Order, regular_cents: u64) -> (Total, bool) {
    let after =
        Total { orders: before.orders.saturating_add(1), cents: before.cents.saturating_add(order.amount_cents) };
    (after, before.cents < regular_cents && after.cents >= regular_cents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_order_makes_a_customer_a_regular_and_no_other() {
        let order = |amount_cents| Order { customer: "c".into(), amount_cents };
        let (first, is_regular) = add(Total::default(), &order(60), 100);
        assert_eq!((first, is_regular), (Total { orders: 1, cents: 60 }, false));
        let (second, is_regular) = add(first, &order(40), 100);
        assert_eq!((second, is_regular), (Total { orders: 2, cents: 100 }, true));
        assert!(!add(second, &order(1_000), 100).1);
    }

    #[test]
    fn what_cannot_be_a_customer_is_refused() {
        for payload in ["{}", r#"{"customer":"","amountCents":1}"#, r#"{"customer":"a\n","amountCents":1}"#] {
            assert!(read(payload).is_err(), "{payload}");
        }
    }
}
