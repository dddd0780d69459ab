//! The settings of a worker.

use std::time::Duration;

use super::ready_queue::MAX_LEASED;
use crate::event::RetryPolicies;

/// The settings of a worker.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerOptions {
    /// How many attempts of one plugin may run at once on this host. The plugin's settings can override it.
    pub concurrency: usize,
    /// How many attempts of all plugins may run at once on this host. A lane with no running attempt may exceed it by one.
    pub host_concurrency: usize,
    /// How long a delivery belongs to this consumer unless its lease is renewed.
    pub lease: Duration,
    /// How long running attempts may take to end when the host stops.
    pub drain: Duration,
    /// The retry policies for events that no plugin handles.
    pub policies: RetryPolicies,
    /// How many events may wait before the API refuses more.
    pub max_waiting: u64,
    /// The longest chain of events that cause one another. An attempt that publishes beyond it fails.
    pub max_depth: u32,
}

impl WorkerOptions {
    /// The host's limit that follows from the limit of one plugin. It leaves room for many plugins and stays within the
    /// number of deliveries that a host can hold.
    pub fn host_concurrency_for(concurrency: usize) -> usize {
        concurrency.saturating_mul(8).clamp(64, MAX_LEASED)
    }
}
