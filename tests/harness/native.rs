//! A consumer without plugins, for the limits and the small measurements.

use eventstream::broker::{Delivery, SettleRequest};
use eventstream::clock;
use eventstream::event::{AttemptRecord, Settlement};

/// The request that settles a delivery as processed without a result.
pub fn processed(delivery: Delivery) -> SettleRequest {
    let now = clock::now();
    let attempt = AttemptRecord {
        attempt: delivery.attempt(),
        replay: 0,
        started_at: now,
        duration_ms: 0.0,
        class: None,
        error: None,
        backtrace: None,
        retry_in_ms: None,
        consumer: "native".into(),
        plugin: None,
        digest: None,
        stderr: None,
        log: Vec::new(),
        log_lines_dropped: 0,
    };
    let (settlement, lane) = (Settlement::Processed, delivery.receipt.lane.clone());
    let record = delivery.record.with_attempt(attempt, &settlement, now, None, Vec::new());
    SettleRequest { lane, receipt: delivery.receipt, record, settlement, publish: Vec::new(), state: None }
}
