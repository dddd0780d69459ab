//! Which other consumers are alive, and what they serve.
//!
//! No clocks of two hosts are compared. A heartbeat is a counter: a consumer whose counter stood still for a lease, by our
//! own monotonic clock, is dead. A consumer that ran on this machine is dead as soon as its process is gone.
//!
//! A host that restarts is away for a moment, and its events must wait for it. So the coverage of a consumer stays valid
//! for a while after its last heartbeat. A consumer that was never observed alive has no coverage.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::codec::RecordVersion;
use super::process_identity::ProcessIdentity;
use crate::broker::{ConsumerCoverage, PeerCoverage};

/// What this process observed of all consumers, itself included.
#[derive(Debug, Default)]
pub(super) struct PeerTable {
    peers: BTreeMap<String, PeerObservation>,
}

#[derive(Debug)]
struct PeerObservation {
    heartbeat: Option<i64>,
    seen_at: Instant,
    /// How long the heartbeat was observed to stand still.
    still: Duration,
    /// Its heartbeat was observed to move, so it is not what a dead host left behind.
    has_moved: bool,
    is_process_gone: bool,
}

impl PeerTable {
    /// Notes the consumers in the store, each with its heartbeat, if it has one, and its identity. At most `max_still` of
    /// the time since the last observation counts: while this process or the store was stopped, no heartbeat could be
    /// observed.
    pub(super) fn observe(
        &mut self,
        now: Instant,
        max_still: Duration,
        own: &ProcessIdentity,
        consumers: impl IntoIterator<Item = (String, Option<i64>, Option<String>)>,
    ) {
        let mut gone: BTreeSet<String> = self.peers.keys().cloned().collect();
        for (name, heartbeat, identity) in consumers {
            gone.remove(&name);
            let identity = identity.as_deref().and_then(ProcessIdentity::parse);
            let is_process_gone = identity.is_some_and(|identity| own.has_seen_end_of(&identity));
            match self.peers.get_mut(&name) {
                Some(peer) if peer.heartbeat == heartbeat => {
                    peer.still += now.duration_since(peer.seen_at).min(max_still);
                    (peer.seen_at, peer.is_process_gone) = (now, is_process_gone);
                }
                known => {
                    let (has_moved, still) = (known.is_some(), Duration::ZERO);
                    let peer = PeerObservation { heartbeat, seen_at: now, still, has_moved, is_process_gone };
                    self.peers.insert(name, peer);
                }
            }
        }
        for name in gone {
            self.peers.remove(&name);
        }
    }

    /// Removes a consumer that was removed from the store.
    pub(super) fn remove(&mut self, name: &str) {
        self.peers.remove(name);
    }

    /// The dead consumers. Their entries are not free yet: their leases may have been renewed after their last heartbeat.
    pub(super) fn dead(&self, lease: Duration) -> Vec<String> {
        self.select(|peer| peer.is_process_gone || peer.still >= lease)
    }

    /// The live consumers with a heartbeat, each with the time since its last beat.
    pub(super) fn alive(&self, lease: Duration) -> Vec<(String, Duration)> {
        let is_alive = |peer: &PeerObservation| peer.heartbeat.is_some() && !peer.is_process_gone && peer.still < lease;
        self.peers.iter().filter(|(_, peer)| is_alive(peer)).map(|(name, peer)| (name.clone(), peer.still)).collect()
    }

    /// The consumers whose heartbeat was observed to move and has not stood still for a lease since.
    pub(super) fn beating(&self, lease: Duration) -> Vec<String> {
        self.select(|peer| peer.has_moved && !peer.is_process_gone && peer.still < lease)
    }

    /// The consumers whose process is gone. Their leases are never renewed again.
    pub(super) fn without_process(&self) -> Vec<String> {
        self.select(|peer| peer.is_process_gone)
    }

    fn select(&self, is_selected: impl Fn(&PeerObservation) -> bool) -> Vec<String> {
        self.peers.iter().filter(|(_, peer)| is_selected(peer)).map(|(name, _)| name.clone()).collect()
    }
}

/// The least time for which a coverage stays valid. A restart takes some seconds, even where leases are shorter.
const MIN_VALID: Duration = Duration::from_secs(10);

/// The announcement of a consumer that is starting.
const STARTING: &str = r#"{"lanes":{},"is_starting":true,"record_versions":[1,3],"features":["keys","pauses"]}"#;
/// What a host must know for the deployment to be safe beside it.
const FEATURES: [&str; 2] = ["keys", "pauses"];

/// What a consumer tells the others: what it serves, which versions of records it reads, and what it knows. Earlier hosts
/// announce no versions and features, and ignore those of others.
#[derive(Serialize, Deserialize)]
struct Announcement<T> {
    #[serde(flatten)]
    served: T,
    #[serde(default)]
    record_versions: Vec<u8>,
    #[serde(default)]
    features: Vec<String>,
}

/// The part of an announcement that every later version keeps.
#[derive(Default, Deserialize)]
struct AnnouncedFeatures {
    #[serde(default)]
    features: Vec<String>,
}

/// What a consumer with this announcement does not know.
pub(super) fn missing_features(text: Option<&str>) -> Vec<&'static str> {
    let announced = text.and_then(|text| serde_json::from_str::<AnnouncedFeatures>(text).ok()).unwrap_or_default();
    FEATURES.into_iter().filter(|feature| !announced.features.iter().any(|known| known == feature)).collect()
}

/// What this consumer serves, and the announcement that it stores for the others.
#[derive(Debug)]
pub(super) struct OwnCoverage {
    pub(super) served: ConsumerCoverage,
    pub(super) text: String,
}

impl OwnCoverage {
    pub(super) fn new(served: ConsumerCoverage) -> Result<Self, serde_json::Error> {
        let record_versions = RecordVersion::ALL.map(RecordVersion::number).into();
        let features = FEATURES.map(str::to_owned).into();
        let text = serde_json::to_string(&Announcement { served: &served, record_versions, features })?;
        Ok(Self { served, text })
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
    record_versions: Vec<u8>,
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
            let announced = texts.get(&name).and_then(|text| serde_json::from_str(text).ok());
            let (served, record_versions) = match announced {
                Some(Announcement { served, record_versions, .. }) => (Some(served), record_versions),
                None => (None, Vec::new()),
            };
            let last_beat_at = now.checked_sub(since).unwrap_or(now);
            self.reports.insert(name, PeerReport { served, record_versions, last_beat_at, is_alive: true });
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

    /// The latest version of records that every consumer with a valid report reads.
    pub(super) fn record_version(&self) -> RecordVersion {
        let is_read_by = |report: &PeerReport| report.record_versions.contains(&RecordVersion::Binary.number());
        if self.reports.values().all(is_read_by) { RecordVersion::Binary } else { RecordVersion::Json }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    #[test]
    fn a_heartbeat_that_stands_still_for_a_lease_means_death() {
        let own = ProcessIdentity::own();
        let start = Instant::now();
        let mut peers = PeerTable::default();
        let mut beat = |after: Duration, a: Option<i64>, b: Option<i64>| {
            peers.observe(start + after, LEASE / 2, &own, [("a".to_owned(), a, None), ("b".to_owned(), b, None)]);
            assert_eq!(peers.without_process(), [""; 0]);
            peers.dead(LEASE)
        };
        assert!(beat(Duration::ZERO, Some(1), None).is_empty());
        assert!(beat(LEASE / 2, Some(2), None).is_empty());
        assert_eq!(beat(LEASE, Some(2), None), ["b"]);
        assert_eq!(beat(LEASE * 3 / 2, Some(2), Some(1)), ["a"]);
        peers.observe(start + LEASE * 4, LEASE / 2, &own, []);
        assert!(peers.dead(LEASE).is_empty(), "a consumer that left the store is forgotten");
    }

    #[test]
    fn a_stopped_process_declares_no_consumer_dead() {
        let (own, start) = (ProcessIdentity::own(), Instant::now());
        let mut peers = PeerTable::default();
        let mut observe = |after: Duration| {
            peers.observe(start + after, LEASE / 2, &own, [("a".to_owned(), Some(1), None)]);
            peers.dead(LEASE)
        };
        assert!(observe(Duration::ZERO).is_empty());
        assert!(observe(LEASE * 10).is_empty(), "this process was stopped, and the other may have been too");
        assert!(observe(LEASE * 10 + LEASE / 4).is_empty());
        assert_eq!(observe(LEASE * 10 + LEASE / 2), ["a"]);
    }

    #[test]
    fn a_consumer_without_process_is_dead_at_once() {
        let own = ProcessIdentity::own();
        let mut peers = PeerTable::default();
        let text = own.to_text();
        let gone = format!("{} 1", text.rsplit_once(' ').unwrap().0);
        let now = Instant::now();
        peers.observe(now, LEASE / 2, &own, [("gone".to_owned(), Some(1), Some(gone))]);
        assert_eq!((peers.dead(LEASE), peers.without_process()), (vec!["gone".to_owned()], vec!["gone".to_owned()]));
        assert_eq!(peers.alive(LEASE), []);
    }

    #[test]
    fn only_a_consumer_with_a_moving_heartbeat_is_alive() {
        let (own, start) = (ProcessIdentity::own(), Instant::now());
        let mut peers = PeerTable::default();
        let mut observe = |after: Duration| {
            let consumers = [("a".to_owned(), Some(1), None), ("b".to_owned(), None, None)];
            peers.observe(start + after, LEASE / 2, &own, consumers);
            peers.alive(LEASE)
        };
        assert_eq!(observe(Duration::ZERO), [("a".to_owned(), Duration::ZERO)]);
        assert_eq!(observe(LEASE / 2), [("a".to_owned(), LEASE / 2)]);
        assert_eq!(observe(LEASE), []);
    }

    #[test]
    fn what_a_dead_host_left_behind_does_not_beat() {
        let (own, start) = (ProcessIdentity::own(), Instant::now());
        let mut peers = PeerTable::default();
        let mut observe = |after: Duration, beat: i64| {
            let consumers = [("left".to_owned(), Some(1), None), ("living".to_owned(), Some(beat), None)];
            peers.observe(start + after, LEASE / 2, &own, consumers);
            peers.beating(LEASE)
        };
        assert_eq!(observe(Duration::ZERO, 1), [""; 0]);
        assert_eq!(observe(LEASE / 4, 2), ["living"]);
        assert_eq!(observe(LEASE / 2, 2), ["living"]);
        assert_eq!((observe(LEASE, 2), observe(LEASE * 3 / 2, 2)), (vec!["living".to_owned()], Vec::new()));
    }

    #[test]
    fn a_host_that_announces_no_features_has_none() {
        let own = OwnCoverage::new(ConsumerCoverage::default()).unwrap().text;
        for text in [own.as_str(), STARTING, r#"{"of":"a later version","features":["pauses","keys","more"]}"#] {
            assert_eq!(missing_features(Some(text)), [""; 0], "{text}");
        }
        for text in [None, Some(""), Some(r#"{"lanes":{},"record_versions":[1,3]}"#)] {
            assert_eq!(missing_features(text), FEATURES, "{text:?}");
        }
        assert_eq!(missing_features(Some(r#"{"features":["keys"]}"#)), ["pauses"]);
    }

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
    fn records_are_written_in_the_version_that_every_consumer_with_a_valid_report_reads() {
        let (mut peers, start) = (PeerReports::default(), Instant::now());
        assert_eq!(peers.record_version(), RecordVersion::Binary, "nobody else serves the store");
        let own = OwnCoverage::new(ConsumerCoverage::default()).unwrap().text;
        let alive = || ["new", "old"].map(|name| (name.to_owned(), Duration::ZERO));
        for old in ["", r#"{"lanes":{}}"#, r#"{"lanes":{},"record_versions":[1,2]}"#, "of a later version"] {
            peers.observe(start, alive(), &texts(&[("new", &own), ("old", old)]));
            assert_eq!(peers.record_version(), RecordVersion::Json, "{old:?}");
        }
        peers.observe(start, alive(), &texts(&[("new", &own), ("old", STARTING)]));
        assert_eq!(peers.record_version(), RecordVersion::Binary, "it was updated");
        peers.observe(start, alive(), &texts(&[("new", &own)]));
        peers.observe(start, [], &texts(&[]));
        summary(&mut peers, start + LEASE / 2);
        assert_eq!(peers.record_version(), RecordVersion::Json, "it may be restarting");
        summary(&mut peers, start + LEASE);
        assert_eq!(peers.record_version(), RecordVersion::Binary);
    }

    #[test]
    fn the_announcement_of_a_start_is_written_as_any_other() {
        let starting = OwnCoverage::new(ConsumerCoverage::new([], true)).unwrap();
        assert_eq!(starting.text, STARTING);
        assert_eq!(serde_json::from_str::<ConsumerCoverage>(STARTING).unwrap(), starting.served, "for earlier hosts");
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
