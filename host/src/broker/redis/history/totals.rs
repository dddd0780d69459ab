//! The hash of totals, which scripts count in the step that changes what they count.

use std::collections::BTreeMap;

use redis::Value;

use crate::broker::EventCounters;
use crate::broker::redis::capacity::IDEMPOTENCY_KEY_BYTES;
use crate::broker::redis::connection::{CallFailure, reply};
use crate::event::FailureClass;

/// The hash of totals, parsed.
#[derive(Default)]
pub(super) struct RedisTotals {
    pub(super) counters: EventCounters,
    /// State keys of all plugins.
    pub(super) state_keys: u64,
    /// Events that are due later, by lane.
    pub(super) due: BTreeMap<String, u64>,
    /// Bytes that wait, by lane.
    pub(super) waiting_bytes: BTreeMap<String, u64>,
    /// Bytes of failed events, by lane.
    pub(super) failed_bytes: BTreeMap<String, u64>,
    /// Bytes of processed and discarded events, by lane.
    pub(super) kept_bytes: BTreeMap<String, u64>,
    /// Bytes of idempotency keys, by lane.
    pub(super) idempotency_bytes: BTreeMap<String, u64>,
    /// The bytes of state, by plugin.
    pub(super) state_bytes: BTreeMap<String, u64>,
}

/// Reads the reply of Redis. Names of later versions are skipped.
pub(super) fn read_totals(counts: Value) -> Result<RedisTotals, CallFailure> {
    let mut totals = RedisTotals::default();
    let counters = &mut totals.counters;
    for (name, value) in reply::pairs(counts)? {
        let (Ok(name), Ok(value)) = (reply::text(name), reply::int(&value)) else { continue };
        let value = u64::try_from(value).unwrap_or_default();
        match name.as_str() {
            "accepted" => counters.accepted = value,
            "duplicates" => counters.duplicates = value,
            "published" => counters.published = value,
            "processed" => counters.processed = value,
            "failed" => counters.failed = value,
            "retried" => counters.retried = value,
            "replayed" => counters.replayed = value,
            "discarded" => counters.discarded = value,
            "recovered" => counters.recovered = value,
            "data_losses" => counters.data_losses = value,
            "state_conflicts" => counters.state_conflicts = value,
            "state_keys" => totals.state_keys = value,
            "deferred" => counters.deferred = value,
            other => {
                let Some((kind, of)) = other.split_once(':') else { continue };
                let (by_lane, value) = match kind {
                    "due" => (&mut totals.due, value),
                    "bytes" => (&mut totals.waiting_bytes, value),
                    "failed-bytes" => (&mut totals.failed_bytes, value),
                    "kept-bytes" | "discarded-bytes" => (&mut totals.kept_bytes, value),
                    "state-bytes" => (&mut totals.state_bytes, value),
                    "idem" => (&mut totals.idempotency_bytes, value.saturating_mul(IDEMPOTENCY_KEY_BYTES)),
                    "failed" => {
                        let class = FailureClass::ALL.into_iter().find(|class| class.as_str() == of);
                        counters.failed_by_class.extend(class.map(|class| (class, value)));
                        continue;
                    }
                    _ => continue,
                };
                *by_lane.entry(of.to_owned()).or_default() += value;
            }
        }
    }
    Ok(totals)
}
