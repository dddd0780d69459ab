//! Random operations on many events, compared with a model: a map from each id to its expected state.
//!
//! The operations are those of a worker, in any order, with crashes, repeated calls and stale receipts. At the end all
//! events are handled, and every accepted event and its children must have ended exactly once.

use std::collections::{BTreeSet, HashMap};

use super::*;

const OPERATIONS: usize = 400;
const LANES: [&str; 3] = ["a", "b", "c"];

/// The expected state of one event.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ExpectedFate {
    /// It has not ended.
    Alive,
    /// It was processed.
    Processed,
    /// It failed.
    Failed,
    /// It failed and was discarded.
    Discarded,
}

struct EventLives {
    random: fastrand::Rng,
    fates: HashMap<EventId, ExpectedFate>,
    /// The deliveries that the living consumer believes to hold.
    held: Vec<Delivery>,
    /// Stale receipts, which must have no effect.
    stale: Vec<Delivery>,
    accepted: u64,
    published: u64,
    ends: u64,
}

/// G2 and G3 under random operations. A failure names its seed.
pub async fn random_events_end_once(rig: &dyn BrokerRig) {
    for seed in [1, 2, 3] {
        let mut lives = EventLives {
            random: fastrand::Rng::with_seed(seed),
            fates: HashMap::new(),
            held: Vec::new(),
            stale: Vec::new(),
            accepted: 0,
            published: 0,
            ends: 0,
        };
        let options = BrokerOptions { namespace: format!("model-{seed}"), ..short_lease() };
        let mut broker = rig.open(options.clone()).await;
        for _ in 0..OPERATIONS {
            match lives.random.u8(..100) {
                0..25 => lives.append(&*broker).await,
                25..50 => lives.claim(&*broker).await,
                50..80 => lives.settle(&*broker).await,
                80..88 => lives.settle_stale(&*broker).await,
                88..94 => {
                    promote_all(&*broker).await;
                    lives.recover(&*broker).await;
                }
                94..97 => drop(broker.maintain().await.expect("maintained")),
                97 => lives.replay(&*broker).await,
                98 => lives.discard(&*broker).await,
                _ => {
                    rig.kill(broker).await;
                    lives.stale.append(&mut lives.held);
                    broker = rig.open(options.clone()).await;
                }
            }
        }
        lives.work_off(&*broker).await;
        lives.check(&*broker, seed).await;
        rig.kill(broker).await;
    }
}

impl EventLives {
    fn lane(&mut self) -> &'static str {
        LANES[self.random.usize(..LANES.len())]
    }

    async fn append(&mut self, broker: &dyn Broker) {
        let mut events = appends(self.lane(), self.random.usize(1..5));
        if self.random.bool() {
            events[0].start = DeliveryStart::InMs(self.random.u64(..300));
        }
        for accepted in broker.append(events).await.expect("accepted") {
            self.fates.insert(accepted.id, ExpectedFate::Alive);
            self.accepted += 1;
        }
    }

    async fn claim(&mut self, broker: &dyn Broker) {
        let lanes = LANES.map(|name| LaneDemand { lane: lane(name), free: self.random.usize(..4) });
        let max = self.random.usize(1..6);
        let deliveries = broker.claim(ClaimRequest { lanes: lanes.into(), max }).await.expect("answered");
        self.hold(deliveries);
    }

    async fn recover(&mut self, broker: &dyn Broker) {
        let recovered = broker.recover(10).await.expect("answered");
        self.hold(recovered);
    }

    fn hold(&mut self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            let id = delivery.record.event.id;
            assert_eq!(self.fates.get(&id), Some(&ExpectedFate::Alive), "only what lives is handed out");
            while let Some(place) = self.held.iter().position(|held| held.record.event.id == id) {
                self.stale.push(self.held.swap_remove(place));
            }
            self.held.push(delivery);
        }
    }

    async fn settle(&mut self, broker: &dyn Broker) {
        if self.held.is_empty() {
            return;
        }
        let n = self.random.usize(1..=self.held.len().min(6));
        let mut batch = Vec::new();
        for _ in 0..n {
            let delivery = self.held.swap_remove(self.random.usize(..self.held.len()));
            let (settlement, n_children) = match self.random.u8(..10) {
                0..5 => (Settlement::Processed, self.random.usize(..3)),
                5..7 => (retry(self.random.u64(..200)), 0),
                7..9 => (failed(FailureClass::Reject), 0),
                _ => (Settlement::Returned, 0),
            };
            batch.push(settle(&delivery, settlement, appends(self.lane(), n_children)));
        }
        let times = self.random.usize(1..3);
        let mut first = None;
        for _ in 0..times {
            let settled = broker.settle(batch.clone()).await.expect("answered");
            assert_eq!(*first.get_or_insert(settled.clone()), settled, "a repetition has the same answer");
        }
        for (settle, settled) in batch.iter().zip(first.unwrap_or_default()) {
            // The lease may have ended; then the event returns by recovery.
            assert_eq!(settled, SettleOutcome::Done, "the only consumer holds what it was given");
            self.note(settle);
        }
    }

    fn note(&mut self, settle: &SettleRequest) {
        let id = settle.receipt.event_id;
        let fate = match settle.settlement {
            Settlement::Processed => ExpectedFate::Processed,
            Settlement::Failed { .. } => ExpectedFate::Failed,
            _ => ExpectedFate::Alive,
        };
        let before = self.fates.insert(id, fate);
        assert_eq!(before, Some(ExpectedFate::Alive), "an event ends once");
        self.ends += u64::from(fate != ExpectedFate::Alive);
        for child in &settle.publish {
            self.fates.insert(child.record.event.id, ExpectedFate::Alive);
            self.published += 1;
        }
    }

    async fn settle_stale(&mut self, broker: &dyn Broker) {
        let mut still_ours = Vec::new();
        for delivery in std::mem::take(&mut self.stale) {
            // Until a takeover, a receipt of a consumer with the same name may still be valid; that of another is not.
            let settled = broker.settle(vec![settle(&delivery, Settlement::Processed, appends("a", 2))]).await;
            if settled != Ok(vec![SettleOutcome::Lost]) {
                still_ours.push((delivery, settled));
            }
        }
        assert!(still_ours.is_empty(), "a stale receipt changes nothing: {still_ours:?}");
    }

    fn one_failed(&self) -> Option<EventId> {
        self.fates.iter().find(|(_, fate)| **fate == ExpectedFate::Failed).map(|(id, _)| *id)
    }

    async fn discard(&mut self, broker: &dyn Broker) {
        if let Some(id) = self.one_failed() {
            assert_eq!(broker.discard(id, "tested", None).await, Ok(crate::broker::FailedEventChange::Done));
            self.fates.insert(id, ExpectedFate::Discarded);
        }
    }

    async fn replay(&mut self, broker: &dyn Broker) {
        if let Some(id) = self.one_failed() {
            assert_eq!(broker.replay(id, &lane("b"), None).await, Ok(crate::broker::FailedEventChange::Done));
            self.fates.insert(id, ExpectedFate::Alive);
            self.ends -= 1;
        }
    }

    async fn work_off(&mut self, broker: &dyn Broker) {
        let began = Instant::now();
        while self.fates.values().any(|fate| *fate == ExpectedFate::Alive) {
            assert!(began.elapsed() < LIMIT, "everything is worked off");
            promote_all(broker).await;
            self.recover(broker).await;
            self.claim(broker).await;
            self.settle(broker).await;
        }
    }

    async fn check(&self, broker: &dyn Broker, seed: u64) {
        for (id, fate) in &self.fates {
            let expected = match fate {
                ExpectedFate::Processed => EventState::Processed,
                ExpectedFate::Discarded => EventState::Discarded,
                _ => EventState::Failed,
            };
            assert_eq!(state(broker, *id).await, Some(expected), "seed {seed}");
        }
        let ids = |records: Vec<EventRecord>| records.iter().map(|record| record.event.id).collect::<Vec<_>>();
        let processed = ids(all_ended(broker, EndKind::Processed).await);
        let failed = ids(all_ended(broker, EndKind::Failed).await);
        let all: BTreeSet<_> = processed.iter().chain(&failed).collect();
        assert_eq!(all.len(), processed.len() + failed.len(), "seed {seed}: no event has two ends");
        let discarded = self.fates.values().filter(|fate| **fate == ExpectedFate::Discarded).count();
        assert_eq!(all.len() + discarded, self.fates.len(), "seed {seed}: every event has an end");
        let stats = broker.stats().await.expect("totals");
        let counters = &stats.counters;
        assert_eq!((counters.accepted, counters.published), (self.accepted, self.published), "seed {seed}");
        let ends = counters.processed + counters.failed - counters.replayed;
        assert_eq!(ends, self.ends, "seed {seed}");
        assert_eq!(counters.discarded, discarded as u64, "seed {seed}");
        assert_eq!(stats.depth.waiting(), 0, "seed {seed}: nothing is left");
        let failed_bytes: u64 = stats.depth.failed_bytes_by_lane.values().sum();
        assert_eq!(failed_bytes == 0, failed.is_empty(), "seed {seed}: {failed_bytes}");
        for id in failed {
            assert_eq!(broker.discard(id, "tested", None).await, Ok(crate::broker::FailedEventChange::Done));
        }
        let left = broker.stats().await.expect("totals").depth.failed_bytes_by_lane;
        assert_eq!(left.values().sum::<u64>(), 0, "seed {seed}: what was counted is given back: {left:?}");
    }
}
