//! Which other consumers are alive.
//!
//! No clocks of two hosts are compared. A heartbeat is a counter: a consumer whose counter stood still for a lease, by our
//! own monotonic clock, is dead. A consumer that ran on this machine is dead as soon as its process is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::process_identity::ProcessIdentity;

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
                _ => {
                    self.peers.insert(
                        name,
                        PeerObservation { heartbeat, seen_at: now, still: Duration::ZERO, is_process_gone },
                    );
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

    /// The consumers whose process is gone. Their leases are never renewed again.
    pub(super) fn without_process(&self) -> Vec<String> {
        self.select(|peer| peer.is_process_gone)
    }

    fn select(&self, is_selected: impl Fn(&PeerObservation) -> bool) -> Vec<String> {
        self.peers.iter().filter(|(_, peer)| is_selected(peer)).map(|(name, _)| name.clone()).collect()
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
}
