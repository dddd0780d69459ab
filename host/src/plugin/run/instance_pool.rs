//! Idle instances that handle a plugin's next events, where the operator prefers speed to isolation.
//!
//! Without `reuse` every attempt has its own instance, and nothing that a handler leaves behind reaches the next event.
//! With `reuse` an instance whose attempt ended well waits for another event. After any other end it is dropped, because its
//! state is unknown. It is also dropped when it has grown or holds many host objects, so that no event fails for what
//! earlier ones left behind.

use std::num::NonZeroU32;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::Store;
use wasmtime::component::Instance;

use crate::plugin::host_api::InstanceHost;

/// How instances are reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReusePolicy {
    /// How many events one instance handles at most; 1 for no reuse.
    pub max_events: NonZeroU32,
    /// How long an idle instance is kept, in milliseconds.
    #[serde(deserialize_with = "crate::plugin::settings::limits_patch::required_ms")]
    pub idle_ms: u64,
}

impl Default for ReusePolicy {
    fn default() -> Self {
        Self { max_events: NonZeroU32::MIN.saturating_add(99), idle_ms: 10_000 }
    }
}

/// An instance with its store, which may return to the pool.
pub(in crate::plugin) struct PooledInstance {
    pub(in crate::plugin) store: Store<InstanceHost>,
    pub(in crate::plugin) instance: Instance,
    /// How many events it has been given.
    pub(super) event_count: u32,
}

/// The idle instances of one version of a plugin.
pub(in crate::plugin) struct InstancePool {
    reuse: Option<ReusePolicy>,
    /// One permit for each memory that idle instances of all plugins may keep.
    permits: Arc<Semaphore>,
    /// The number of memories of an instance.
    memories: u32,
    idle: Mutex<IdleInstances>,
}

#[derive(Default)]
struct IdleInstances {
    /// Oldest first. The newest is used first.
    instances: Vec<(PooledInstance, Instant, OwnedSemaphorePermit)>,
    has_sweeper: bool,
}

impl InstancePool {
    /// An empty pool for instances that have `memories` memories each.
    pub(in crate::plugin) fn new(reuse: Option<ReusePolicy>, permits: Arc<Semaphore>, memories: u32) -> Self {
        Self { reuse, permits, memories, idle: Mutex::default() }
    }

    /// Takes an idle instance for its next event.
    pub(in crate::plugin) fn take(&self) -> Option<PooledInstance> {
        self.reuse?;
        let (mut instance, ..) = self.idle.lock().instances.pop()?;
        instance.event_count += 1;
        Some(instance)
    }

    /// Takes back an instance whose attempt ended well. Drops it if it must not be reused or if there is no room for it.
    pub(in crate::plugin) fn put_back(&self, mut instance: PooledInstance) {
        let Some(reuse) = self.reuse else { return };
        if instance.event_count < reuse.max_events.get()
            && instance.store.data_mut().is_reusable()
            && let Ok(permit) = self.permits.clone().try_acquire_many_owned(self.memories)
        {
            self.idle.lock().instances.push((instance, Instant::now(), permit));
        }
    }

    /// Whether the caller must start [`sweep`]. Returns true once until the sweep ends.
    pub(in crate::plugin) fn needs_sweep(&self) -> bool {
        if self.reuse.is_none() {
            return false;
        }
        let mut idle = self.idle.lock();
        !idle.instances.is_empty() && !std::mem::replace(&mut idle.has_sweeper, true)
    }

    /// Drops expired instances. Returns how long until the next one expires; `None` if there is none.
    fn drop_expired(&self) -> Option<Duration> {
        let max_idle = Duration::from_millis(self.reuse.map_or(0, |reuse| reuse.idle_ms));
        let now = Instant::now();
        let (expired, next) = {
            let idle = &mut *self.idle.lock();
            let is_expired = |since: &Instant| now.saturating_duration_since(*since) >= max_idle;
            let expired = idle.instances.partition_point(|(_, since, _)| is_expired(since));
            let expired: Vec<_> = idle.instances.drain(..expired).collect();
            let next = idle.instances.first().map(|(_, since, _)| max_idle.saturating_sub(now.duration_since(*since)));
            idle.has_sweeper = next.is_some();
            (expired, next)
        };
        // Outside of the lock, because dropping an instance resets its memory.
        drop(expired);
        next
    }

    /// The number of idle instances.
    #[cfg(test)]
    pub(in crate::plugin) fn len(&self) -> usize {
        self.idle.lock().instances.len()
    }
}

/// Drops expired instances until none is idle or the version is dropped.
pub(in crate::plugin) async fn sweep(pool: Weak<InstancePool>) {
    while let Some(next) = pool.upgrade().and_then(|pool| pool.drop_expired()) {
        tokio::time::sleep(next).await;
    }
}

#[cfg(test)]
mod tests {
    use crate::event::{AttemptOutcome, FailureClass};
    use crate::plugin::AttemptLimits;
    use crate::plugin::testing::{OK, RETRY, SolePlugin, sole_with};

    const THREE_EVENTS: &str = "reuse = { max_events = 3, idle_ms = \"1h\" }";
    /// Returns ok, but `retry` with the number of calls of the instance at the third call.
    fn fails_at_third() -> String {
        format!("(if (i64.eq (global.get $calls) (i64.const 3)) (then (return {RETRY}))) {OK}")
    }

    async fn calls(sole: &SolePlugin) -> Option<u64> {
        match sole.attempt().await.outcome {
            AttemptOutcome::Ok(_) => None,
            AttemptOutcome::Failed(failure) => failure.after_ms,
        }
    }

    #[tokio::test]
    async fn an_instance_handles_no_more_events_than_its_limit() {
        let sole = sole_with(&fails_at_third(), AttemptLimits::default(), THREE_EVENTS).await;
        for _ in 0..3 {
            assert_eq!((calls(&sole).await, calls(&sole).await, calls(&sole).await), (None, None, Some(3)));
        }
        let twice = sole_with(&fails_at_third(), AttemptLimits::default(), "reuse = { max_events = 2 }").await;
        for _ in 0..10 {
            assert_eq!(calls(&twice).await, None);
        }
    }

    #[tokio::test]
    async fn an_instance_whose_attempt_failed_is_not_reused() {
        let sole = sole_with(RETRY, AttemptLimits::default(), "reuse = {}").await;
        for _ in 0..5 {
            assert_eq!(sole.failure().await.after_ms, Some(1), "the calls of the instance");
        }
        let trapping = "(if (i64.gt_u (global.get $calls) (i64.const 1)) (then unreachable))";
        let sole = sole_with(&format!("{trapping} {OK}"), AttemptLimits::default(), "reuse = {}").await;
        sole.success().await;
        assert_eq!(sole.failure().await.class, FailureClass::Trap);
        sole.success().await;
    }

    #[tokio::test]
    async fn the_next_attempt_does_not_repeat_publishes_and_log_lines() {
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
    async fn an_instance_that_has_grown_is_not_reused() {
        let body = format!("(drop (memory.grow (i32.const 40))) {}", fails_at_third());
        let limits = AttemptLimits { memory_bytes: 4 << 20, ..AttemptLimits::default() };
        let sole = sole_with(&body, limits, "reuse = {}").await;
        for _ in 0..5 {
            assert_eq!(calls(&sole).await, None);
        }
    }

    #[tokio::test]
    async fn an_instance_that_was_idle_for_too_long_is_dropped() {
        let sole = sole_with(&fails_at_third(), AttemptLimits::default(), "reuse = { idle_ms = 1 }").await;
        sole.success().await;
        while sole.idle_count() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!((calls(&sole).await, calls(&sole).await), (None, None));
        while sole.idle_count() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
