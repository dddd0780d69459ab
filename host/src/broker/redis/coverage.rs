//! What this consumer and the others serve.
//!
//! A host that restarts is away for a moment, and its events must wait for it. So the coverage of a consumer stays valid
//! for a while after its last heartbeat. A consumer that was never observed alive has no coverage.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::broker::{ConsumerCoverage, PeerCoverage};

/// The least time for which a coverage stays valid. A restart takes some seconds, even where leases are shorter.
const MIN_VALID: Duration = Duration::from_secs(10);

/// The coverage of a consumer that is starting.
const STARTING: &str = r#"{"lanes":{},"is_starting":true}"#;

/// What this consumer serves, and the text that it stores for the others.
#[derive(Debug)]
pub(super) struct OwnCoverage {
    pub(super) served: ConsumerCoverage,
    pub(super) text: String,
}

impl OwnCoverage {
    pub(super) fn new(served: ConsumerCoverage) -> Result<Self, serde_json::Error> {
        Ok(Self { text: serde_json::to_string(&served)?, served })
    }
}

impl Default for OwnCoverage {
    /// Nothing yet, and the note that this consumer is starting.
    fn default() -> Self {
        Self { served: ConsumerCoverage::default(), text: STARTING.into() }
    }
}

/// The coverage that the other consumers reported.
#[derive(Debug, Default)]
pub(super) struct PeerReports {
    reports: BTreeMap<String, PeerReport>,
    /// The store's count of changed reports when they were last read.
    pub(super) changes: String,
}

#[derive(Debug)]
struct PeerReport {
    /// `None` if it reported nothing that this version understands.
    served: Option<ConsumerCoverage>,
    last_beat_at: Instant,
    is_alive: bool,
}

impl PeerReports {
    /// Notes the live consumers, each with the time since its last heartbeat, and the reported texts by consumer.
    pub(super) fn observe(
        &mut self,
        now: Instant,
        alive: impl IntoIterator<Item = (String, Duration)>,
        texts: &BTreeMap<String, String>,
    ) {
        self.reports.values_mut().for_each(|report| report.is_alive = false);
        for (name, since) in alive {
            let served = texts.get(&name).and_then(|text| serde_json::from_str(text).ok());
            let last_beat_at = now.checked_sub(since).unwrap_or(now);
            self.reports.insert(name, PeerReport { served, last_beat_at, is_alive: true });
        }
    }

    /// Sums up the valid reports, and removes the others.
    pub(super) fn summarize(&mut self, now: Instant, lease: Duration) -> PeerCoverage {
        let valid_for = lease.max(MIN_VALID);
        self.reports
            .retain(|_, report| report.is_alive || now.saturating_duration_since(report.last_beat_at) < valid_for);
        let is_silent =
            |report: &PeerReport| report.is_alive && report.served.as_ref().is_none_or(|served| served.is_starting());
        let some_are_silent = self.reports.values().any(is_silent);
        PeerCoverage::combine(self.reports.values().filter_map(|report| report.served.as_ref()), some_are_silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    /// The lane of the type `a`, and whether a live consumer is silent.
    fn summary(peers: &mut PeerReports, now: Instant) -> (Option<String>, bool) {
        let coverage = peers.summarize(now, LEASE);
        (coverage.lane_of(&"a".parse().unwrap()).map(ToString::to_string), coverage.some_are_silent())
    }

    fn texts(consumers: &[(&str, &str)]) -> BTreeMap<String, String> {
        consumers.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn a_coverage_is_valid_for_a_lease_after_the_last_heartbeat() {
        let (mut peers, start) = (PeerReports::default(), Instant::now());
        let reports = texts(&[("a", r#"{"lanes":{"lane":["a"]}}"#)]);
        assert_eq!(summary(&mut peers, start), (None, false));
        peers.observe(start, [("a".to_owned(), Duration::ZERO)], &reports);
        assert_eq!(summary(&mut peers, start), (Some("lane".into()), false));
        peers.observe(start + LEASE / 2, [], &reports);
        assert_eq!(summary(&mut peers, start + LEASE / 2), (Some("lane".into()), false), "it may be restarting");
        assert_eq!(summary(&mut peers, start + LEASE), (None, false));
        peers.observe(start + LEASE, [], &reports);
        assert_eq!(
            summary(&mut peers, start + LEASE),
            (None, false),
            "a consumer that was never alive reports nothing"
        );
    }

    #[test]
    fn a_new_report_of_a_live_consumer_is_valid_at_once() {
        let (mut peers, now) = (PeerReports::default(), Instant::now());
        let alive = || [("a".to_owned(), Duration::ZERO)];
        peers.observe(now, alive(), &texts(&[("a", r#"{"lanes":{"lane":["a"]}}"#)]));
        peers.observe(now, alive(), &texts(&[("a", r#"{"lanes":{}}"#)]));
        assert_eq!(summary(&mut peers, now), (None, false));
    }

    #[test]
    fn a_live_consumer_without_a_readable_report_is_silent() {
        let (mut peers, now) = (PeerReports::default(), Instant::now());
        let alive = || [("old".to_owned(), Duration::ZERO)];
        for reports in [texts(&[]), texts(&[("old", "of a later version")]), texts(&[("old", STARTING)])] {
            peers.observe(now, alive(), &reports);
            assert_eq!(summary(&mut peers, now), (None, true));
        }
        peers.observe(now, [], &texts(&[]));
        assert_eq!(summary(&mut peers, now), (None, false));
    }
}
