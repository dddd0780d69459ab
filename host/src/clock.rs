//! This machine's clock, for times that people read. Due times and leases follow the clock of the store.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::event::Timestamp;

/// The current time.
pub fn now() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX))
}
