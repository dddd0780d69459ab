//! Renews the leases of the deliveries that this host holds.
//!
//! Renewal has its own thread, runtime and connection. So handlers cannot delay it, and leases end only with the process.
//! If a lease is lost anyway, the handler is cancelled, because the broker would ignore its outcome.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::broker::{LeaseRenewal, Receipt};

/// The most receipts that one call renews.
const MAX_BATCH: usize = 100;

/// The deliveries that this host holds.
#[derive(Clone, Default)]
pub(super) struct LeasedDeliveries {
    entries: Arc<Mutex<HashMap<Receipt, LeaseEntry>>>,
}

struct LeaseEntry {
    renewed_at: Instant,
    lost: CancellationToken,
}

/// The lease of one delivery. Dropping it ends the renewals.
pub(super) struct DeliveryLease {
    leased: LeasedDeliveries,
    receipt: Receipt,
    lost: CancellationToken,
}

impl LeasedDeliveries {
    /// Keeps the lease of a delivery, which began at `claimed_at` or later.
    pub(super) fn keep(&self, receipt: &Receipt, claimed_at: Instant) -> DeliveryLease {
        let lost = CancellationToken::new();
        let entry = LeaseEntry { renewed_at: claimed_at, lost: lost.clone() };
        self.entries.lock().insert(receipt.clone(), entry);
        DeliveryLease { leased: self.clone(), receipt: receipt.clone(), lost }
    }

    /// The receipts that were last renewed `age` or longer ago.
    fn due(&self, now: Instant, age: Duration) -> Vec<Receipt> {
        let is_due = |entry: &LeaseEntry| now.saturating_duration_since(entry.renewed_at) >= age;
        self.entries.lock().iter().filter(|(_, entry)| is_due(entry)).map(|(receipt, _)| receipt.clone()).collect()
    }

    fn note_renewal(&self, receipts: &[Receipt], at: Instant, lost: &[Receipt]) {
        let mut entries = self.entries.lock();
        for receipt in receipts {
            if let Some(entry) = entries.get_mut(receipt) {
                entry.renewed_at = at;
            }
        }
        for receipt in lost {
            if let Some(entry) = entries.get(receipt) {
                entry.lost.cancel();
            }
        }
    }
}

impl DeliveryLease {
    /// Cancelled when a renewal finds that the lease was lost.
    pub(super) fn lost(&self) -> &CancellationToken {
        &self.lost
    }
}

impl Drop for DeliveryLease {
    fn drop(&mut self) {
        self.leased.entries.lock().remove(&self.receipt);
    }
}

/// Owns the thread that renews leases, and ends it when dropped.
pub(super) struct LeaseKeeper {
    stop: CancellationToken,
    thread: Option<thread::JoinHandle<()>>,
}

impl LeaseKeeper {
    /// Starts the thread. It renews a lease after a third of its time, so that deliveries of quick handlers need no
    /// renewal.
    ///
    /// # Errors
    /// The thread or its runtime could not be started.
    pub(super) fn start(
        leased: LeasedDeliveries,
        leases: Arc<dyn LeaseRenewal>,
        lease: Duration,
    ) -> std::io::Result<Self> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new()
            .name("leases".into())
            .spawn(move || runtime.block_on(renew_leases(leased, leases, lease, stopped)))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that renews leases panicked");
        }
    }
}

async fn renew_leases(
    leased: LeasedDeliveries,
    leases: Arc<dyn LeaseRenewal>,
    lease: Duration,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(lease / 12);
    let mut called_at = Instant::now();
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // Leases that are due soon are renewed with those that are due, so that there are few calls.
        let now = Instant::now();
        let due = if leased.due(now, lease / 3).is_empty() { Vec::new() } else { leased.due(now, lease / 6) };
        // A renewal also shows that this consumer is alive. A host without deliveries sends an empty one.
        if due.is_empty() && now.saturating_duration_since(called_at) < lease / 3 {
            continue;
        }
        called_at = now;
        for batch in due.chunks(MAX_BATCH).chain(due.is_empty().then_some(&[][..])) {
            let asked_at = Instant::now();
            let answer = tokio::select! {
                () = stop.cancelled() => return,
                answer = leases.renew(batch) => answer,
            };
            match answer {
                Ok(lost) => {
                    for receipt in &lost {
                        tracing::warn!(event.id = %receipt.event_id, lane = %receipt.lane, "lease lost, attempt cancelled");
                    }
                    leased.note_renewal(batch, asked_at, &lost);
                }
                Err(error) if batch.is_empty() => tracing::debug!("could not report that this host is alive: {error}"),
                Err(error) => tracing::warn!(deliveries = batch.len(), "could not renew leases: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Error;
    use crate::event::EventId;

    struct LosesOdd;

    #[async_trait::async_trait]
    impl LeaseRenewal for LosesOdd {
        async fn renew(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>, Error> {
            Ok(receipts.iter().filter(|receipt| receipt.deliveries % 2 == 1).cloned().collect())
        }
    }

    fn receipt(deliveries: u32) -> Receipt {
        Receipt { event_id: EventId::new(), lane: "a".parse().unwrap(), entry: "1-1".into(), deliveries }
    }

    #[test]
    fn a_lost_lease_cancels_only_its_own_handler() {
        let leased = LeasedDeliveries::default();
        let (odd, even) = (leased.keep(&receipt(1), Instant::now()), leased.keep(&receipt(2), Instant::now()));
        let _keeper = LeaseKeeper::start(leased, Arc::new(LosesOdd), Duration::from_millis(30)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(odd.lost().cancelled());
        assert!(!even.lost().is_cancelled());
    }

    #[test]
    fn a_dropped_hold_is_not_renewed() {
        let leased = LeasedDeliveries::default();
        let before = Instant::now();
        let lease = leased.keep(&receipt(1), before);
        assert_eq!(leased.due(before + Duration::from_secs(1), Duration::from_secs(1)).len(), 1);
        assert_eq!(leased.due(before, Duration::from_secs(1)).len(), 0);
        drop(lease);
        assert_eq!(leased.due(before + Duration::from_secs(1), Duration::from_secs(1)).len(), 0);
    }
}
