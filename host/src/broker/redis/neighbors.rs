//! What other consumers say that they serve, and for how long that holds after their last sign of life.
//!
//! A host that is started anew is away for a moment, and its events are to wait for it meanwhile. So what a consumer said
//! holds for a while after it was last seen to live, however it ended. One that was never seen to live said nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::RedisCore;
use crate::broker::{ConsumerCoverage, Error, Lane, PeerCoverage};

/// For how long at least what a consumer said holds after its last sign of life: a start takes some seconds, however short
/// leases are.
const LEAST_HOLD: Duration = Duration::from_secs(10);

/// What is told before anything else was said.
const STARTING: &str = r#"{"lanes":{},"is_starting":true}"#;

/// What this consumer serves, and as it is told to others.
#[derive(Debug)]
pub(super) struct OwnCoverage {
    served: ConsumerCoverage,
    pub(super) text: String,
}

impl OwnCoverage {
    fn new(served: ConsumerCoverage) -> Result<Self, serde_json::Error> {
        Ok(Self { text: serde_json::to_string(&served)?, served })
    }
}

impl Default for OwnCoverage {
    /// Nothing yet, and that there may be more in a moment.
    fn default() -> Self {
        Self { served: ConsumerCoverage::default(), text: STARTING.into() }
    }
}

/// What was heard of the other consumers.
#[derive(Debug, Default)]
pub(super) struct NeighborCoverage {
    heard: BTreeMap<String, HeartbeatSeen>,
    /// How often anybody had said something new.
    pub(super) changes: String,
}

#[derive(Debug)]
struct HeartbeatSeen {
    /// `None` if it says nothing that this version understands.
    served: Option<ConsumerCoverage>,
    lived_at: Instant,
    is_living: bool,
}

impl NeighborCoverage {
    /// Takes in the consumers that live, each with the time since its last sign of life, and what each one says.
    pub(super) fn observe(
        &mut self,
        now: Instant,
        living: impl IntoIterator<Item = (String, Duration)>,
        said: &BTreeMap<String, String>,
    ) {
        self.heard.values_mut().for_each(|heard| heard.is_living = false);
        for (name, since) in living {
            let served = said.get(&name).and_then(|text| serde_json::from_str(text).ok());
            let lived_at = now.checked_sub(since).unwrap_or(now);
            self.heard.insert(name, HeartbeatSeen { served, lived_at, is_living: true });
        }
    }

    /// What is served elsewhere. What is over is forgotten.
    pub(super) fn elsewhere(&mut self, now: Instant, lease: Duration) -> PeerCoverage {
        let holds_for = lease.max(LEAST_HOLD);
        self.heard.retain(|_, heard| heard.is_living || now.saturating_duration_since(heard.lived_at) < holds_for);
        let is_silent =
            |heard: &HeartbeatSeen| heard.is_living && heard.served.as_ref().is_none_or(|served| served.is_starting());
        let some_are_silent = self.heard.values().any(is_silent);
        PeerCoverage::combine(self.heard.values().filter_map(|heard| heard.served.as_ref()), some_are_silent)
    }
}

impl RedisCore {
    /// See [`crate::broker::ConsumerDirectory::announce_coverage`].
    pub(super) async fn serve(&self, served: ConsumerCoverage) -> Result<(), Error> {
        let serving = OwnCoverage::new(served).map_err(|error| Error::Misconfigured(error.to_string()))?;
        self.serving.store(Arc::new(serving));
        Ok(self.show_life().await?)
    }

    /// See [`crate::broker::ConsumerDirectory::refresh_peer_coverage`].
    pub(super) async fn look_elsewhere(&self) -> Result<Arc<PeerCoverage>, Error> {
        self.show_life().await?;
        Ok(self.elsewhere.load_full())
    }

    /// Whether other consumers see to this lane and this one does not.
    pub(super) fn is_of_others(&self, lane: &Lane) -> bool {
        self.elsewhere.load().served().has_lane(lane) && !self.serving.load().served.has_lane(lane)
    }

    /// Takes in what the consumers say, if all of them were looked at, and has it count.
    pub(super) fn note_neighbors(&self, changes: String, said: Option<&BTreeMap<String, String>>) {
        let (now, lease) = (Instant::now(), Duration::from_millis(self.options.lease_ms));
        let mut neighbors = self.neighbors.lock();
        if let Some(said) = said {
            let living = self.peers.lock().living(lease);
            neighbors.observe(now, living.into_iter().filter(|(name, _)| *name != self.consumer), said);
        }
        neighbors.changes = changes;
        let elsewhere = neighbors.elsewhere(now, lease);
        if elsewhere != **self.elsewhere.load() {
            self.elsewhere.store(Arc::new(elsewhere));
        }
    }

    /// How often anybody had said something new when it was last asked.
    pub(super) fn changes_known(&self) -> String {
        self.neighbors.lock().changes.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    /// The lane of the type `a`, and whether there is somebody silent.
    fn told(neighbors: &mut NeighborCoverage, now: Instant) -> (Option<String>, bool) {
        let elsewhere = neighbors.elsewhere(now, LEASE);
        (elsewhere.lane_of(&"a".parse().unwrap()).map(ToString::to_string), elsewhere.some_are_silent())
    }

    fn said(consumers: &[(&str, &str)]) -> BTreeMap<String, String> {
        consumers.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn what_a_consumer_serves_holds_for_a_lease_after_it_was_last_seen_to_live() {
        let (mut neighbors, start) = (NeighborCoverage::default(), Instant::now());
        let says = said(&[("a", r#"{"lanes":{"lane":["a"]}}"#)]);
        assert_eq!(told(&mut neighbors, start), (None, false));
        neighbors.observe(start, [("a".to_owned(), Duration::ZERO)], &says);
        assert_eq!(told(&mut neighbors, start), (Some("lane".into()), false));
        neighbors.observe(start + LEASE / 2, [], &says);
        assert_eq!(told(&mut neighbors, start + LEASE / 2), (Some("lane".into()), false), "it may be starting anew");
        assert_eq!(told(&mut neighbors, start + LEASE), (None, false));
        neighbors.observe(start + LEASE, [], &says);
        assert_eq!(told(&mut neighbors, start + LEASE), (None, false), "who was not seen to live says nothing");
    }

    #[test]
    fn who_lives_and_serves_it_no_more_does_not_serve_it_at_once() {
        let (mut neighbors, now) = (NeighborCoverage::default(), Instant::now());
        let living = || [("a".to_owned(), Duration::ZERO)];
        neighbors.observe(now, living(), &said(&[("a", r#"{"lanes":{"lane":["a"]}}"#)]));
        neighbors.observe(now, living(), &said(&[("a", r#"{"lanes":{}}"#)]));
        assert_eq!(told(&mut neighbors, now), (None, false));
    }

    #[test]
    fn who_says_nothing_that_is_understood_is_silent_while_it_lives() {
        let (mut neighbors, now) = (NeighborCoverage::default(), Instant::now());
        let living = || [("old".to_owned(), Duration::ZERO)];
        for says in [said(&[]), said(&[("old", "of a later version")]), said(&[("old", STARTING)])] {
            neighbors.observe(now, living(), &says);
            assert_eq!(told(&mut neighbors, now), (None, true));
        }
        neighbors.observe(now, [], &said(&[]));
        assert_eq!(told(&mut neighbors, now), (None, false));
    }
}
