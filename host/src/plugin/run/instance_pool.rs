//! Instances that are kept for a plugin's next events, where its operator prefers speed to isolation.
//!
//! Without `reuse` every attempt has an instance of its own, and nothing that a handler leaves behind reaches the next
//! event. With it an instance whose attempt ended well waits for another event; after anything else it is dropped, since
//! nobody knows what state it is in. So is one that has grown, or that holds much of the host's, so that no event fails for
//! what earlier ones left behind.

use std::num::NonZeroU32;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::Store;
use wasmtime::component::Instance;

use crate::plugin::host_api::GuestState;

/// How instances are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all(serialize = "camelCase"))]
pub struct ReusePolicy {
    /// The most events that one instance handles; 1 for no reuse.
    pub max_events: NonZeroU32,
    /// How long an instance waits for its next event before it is dropped, in milliseconds.
    #[serde(deserialize_with = "crate::plugin::settings::amount::required_ms")]
    pub idle_ms: u64,
}

impl Default for ReusePolicy {
    fn default() -> Self {
        Self { max_events: NonZeroU32::MIN.saturating_add(99), idle_ms: 10_000 }
    }
}

/// An instance with its store.
pub(in crate::plugin) struct PooledInstance {
    pub(in crate::plugin) store: Store<GuestState>,
    pub(in crate::plugin) instance: Instance,
    events: u32,
}

/// The instances of one version that wait for events.
pub(in crate::plugin) struct InstancePool {
    reuse: Option<ReusePolicy>,
    /// As many permits as the pool has room for memories of instances that wait.
    room: Arc<Semaphore>,
    /// The memories of an instance.
    memories: u32,
    waiting: Mutex<IdleInstance>,
}

#[derive(Default)]
struct IdleInstance {
    /// The last to come is the first to go.
    instances: Vec<(PooledInstance, Instant, OwnedSemaphorePermit)>,
    is_swept: bool,
}

impl PooledInstance {
    /// A new instance, for its first event.
    pub(in crate::plugin) fn new(store: Store<GuestState>, instance: Instance) -> Self {
        Self { store, instance, events: 1 }
    }
}

impl InstancePool {
    /// None waits yet.
    pub(in crate::plugin) fn new(reuse: Option<ReusePolicy>, room: Arc<Semaphore>, memories: u32) -> Self {
        Self { reuse, room, memories, waiting: Mutex::default() }
    }

    /// An instance that waits, for its next event.
    pub(in crate::plugin) fn take(&self) -> Option<PooledInstance> {
        self.reuse?;
        let (mut living, ..) = self.waiting().instances.pop()?;
        living.events += 1;
        Some(living)
    }

    /// Takes an instance back whose attempt ended well; drops it where it is not to be used again, or where there is no
    /// room for one more.
    pub(in crate::plugin) fn keep(&self, mut living: PooledInstance) {
        let Some(reuse) = self.reuse else { return };
        if living.events < reuse.max_events.get()
            && living.store.data_mut().is_reusable()
            && let Ok(room) = self.room.clone().try_acquire_many_owned(self.memories)
        {
            self.waiting().instances.push((living, Instant::now(), room));
        }
    }

    /// Whether [`sweep`] is to be started; true once until it has ended.
    pub(in crate::plugin) fn needs_sweeping(&self) -> bool {
        if self.reuse.is_none() {
            return false;
        }
        let mut waiting = self.waiting();
        !waiting.instances.is_empty() && !std::mem::replace(&mut waiting.is_swept, true)
    }

    /// Drops what has waited for too long. Gives when the next one will have; `None` once none waits.
    fn drop_late(&self) -> Option<Duration> {
        let most = Duration::from_millis(self.reuse.map_or(0, |reuse| reuse.idle_ms));
        let now = Instant::now();
        let (late, next) = {
            let waiting = &mut *self.waiting();
            let is_late = |since: &Instant| now.saturating_duration_since(*since) >= most;
            // Those that came first stand first.
            let late = waiting.instances.partition_point(|(_, since, _)| is_late(since));
            let late: Vec<_> = waiting.instances.drain(..late).collect();
            let next = waiting.instances.first().map(|(_, since, _)| most.saturating_sub(now.duration_since(*since)));
            waiting.is_swept = next.is_some();
            (late, next)
        };
        drop(late);
        next
    }

    /// How many wait.
    #[cfg(test)]
    pub(in crate::plugin) fn len(&self) -> usize {
        self.waiting().instances.len()
    }

    fn waiting(&self) -> MutexGuard<'_, IdleInstance> {
        self.waiting.lock()
    }
}

/// Drops instances that have waited for too long, until none waits or the version has gone.
pub(in crate::plugin) async fn sweep(idle: Weak<InstancePool>) {
    while let Some(next) = idle.upgrade().and_then(|idle| idle.drop_late()) {
        tokio::time::sleep(next).await;
    }
}

#[cfg(test)]
mod tests {
    use crate::event::{AttemptOutcome, FailureClass};
    use crate::plugin::sandbox::limits::AttemptLimits;
    use crate::plugin::testing::{OK, SolePlugin, fail, sole_with};

    const THRICE: &str = "reuse = { max_events = 3, idle_ms = \"1h\" }";
    /// Answers `retry` with the number of calls that the instance has seen, for each third event, else ok.
    fn fails_at_third() -> String {
        format!("(if (i64.eq (global.get $calls) (i64.const 3)) (then {} return)) {OK}", fail(0))
    }

    async fn calls(sole: &SolePlugin) -> Option<u64> {
        match sole.attempt().await.outcome {
            AttemptOutcome::Ok(_) => None,
            AttemptOutcome::Failed(failure) => failure.after_ms,
        }
    }

    #[tokio::test]
    async fn an_instance_handles_as_many_events_as_it_may() {
        let sole = sole_with(&fails_at_third(), AttemptLimits::default(), THRICE).await;
        for _ in 0..3 {
            assert_eq!((calls(&sole).await, calls(&sole).await, calls(&sole).await), (None, None, Some(3)));
        }
        let twice = sole_with(&fails_at_third(), AttemptLimits::default(), "reuse = { max_events = 2 }").await;
        for _ in 0..10 {
            assert_eq!(calls(&twice).await, None);
        }
    }

    #[tokio::test]
    async fn an_instance_that_did_not_end_well_is_not_used_again() {
        let sole = sole_with(&fail(0), AttemptLimits::default(), "reuse = {}").await;
        for _ in 0..5 {
            assert_eq!(sole.failure().await.after_ms, Some(1), "calls that the instance has seen");
        }
        let trapping = "(if (i64.gt_u (global.get $calls) (i64.const 1)) (then unreachable))";
        let sole = sole_with(&format!("{trapping} {OK}"), AttemptLimits::default(), "reuse = {}").await;
        sole.success().await;
        assert_eq!(sole.failure().await.class, FailureClass::Trap);
        sole.success().await;
    }

    #[tokio::test]
    async fn what_an_attempt_published_and_said_is_not_said_again_by_the_next() {
        let body = format!(
            "(if (i64.eq (global.get $calls) (i64.const 1)) (then (call $child) (call $line (i32.const 5)))) {OK}"
        );
        let sole =
            sole_with(&body, AttemptLimits { published_events: 1, ..AttemptLimits::default() }, "reuse = {}").await;
        let first = sole.attempt().await;
        assert_eq!(first.log.len(), 1);
        for _ in 0..3 {
            let next = sole.attempt().await;
            let AttemptOutcome::Ok(success) = next.outcome else { panic!("{:?}", next.outcome) };
            assert_eq!((success.published.len(), next.log.len()), (0, 0));
        }
    }

    #[tokio::test]
    async fn one_that_has_grown_is_not_used_again() {
        let body = format!("(drop (memory.grow (i32.const 40))) {}", fails_at_third());
        let limits = AttemptLimits { memory_bytes: 4 << 20, ..AttemptLimits::default() };
        let sole = sole_with(&body, limits, "reuse = {}").await;
        for _ in 0..5 {
            assert_eq!(calls(&sole).await, None);
        }
    }

    #[tokio::test]
    async fn one_that_has_waited_for_too_long_is_dropped() {
        let sole = sole_with(&fails_at_third(), AttemptLimits::default(), "reuse = { idle_ms = 1 }").await;
        sole.success().await;
        while sole.waiting() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!((calls(&sole).await, calls(&sole).await), (None, None));
        while sole.waiting() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
