//! `state`: keys that are the plugin's own. Reads go to the store once for each key, writes are kept until the commit.
//!
//! What an attempt has read or overwritten must be unchanged at the commit; what it has only counted up need not, though
//! the value has to be read to say what it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::state_reader::StateReader;
use crate::event::{StateStep, StateWrite, StoredValue, add_to_counter, stored_size_bytes};

/// What an attempt has seen and written so far.
pub(super) struct StateBuffer {
    pub(super) store: Arc<dyn StateReader>,
    pub(super) operations: u32,
    pub(super) touched: BTreeMap<String, TouchedKey>,
}

/// A key that was asked for.
pub(super) struct TouchedKey {
    pub(super) stored: StoredValue,
    /// Whether the attempt depends on what it has seen.
    pub(super) is_expected: bool,
    pub(super) write: Option<StateWrite>,
}

impl StateBuffer {
    /// Nothing seen yet.
    pub(super) fn new(store: Arc<dyn StateReader>) -> Self {
        Self { store, operations: 0, touched: BTreeMap::new() }
    }

    /// All of it, if there was anything.
    ///
    /// # Errors
    /// With it the plugin would keep more than it may; the words say so.
    pub(super) fn into_step(self, plugin: &str, limit_bytes: u64) -> Result<Option<StateStep>, String> {
        self.check_size(plugin, limit_bytes)?;
        let mut step = StateStep { plugin: plugin.to_owned(), ..StateStep::default() };
        for (key, touched) in self.touched {
            if touched.is_expected {
                step.expected.push((key.clone(), touched.stored.version));
            }
            step.writes.extend(touched.write.map(|write| (key, write)));
        }
        Ok((!step.expected.is_empty() || !step.writes.is_empty()).then_some(step))
    }

    /// What makes the state smaller, or leaves it as large, is always let through.
    fn check_size(&self, plugin: &str, limit_bytes: u64) -> Result<(), String> {
        let kept_bytes = self.touched.values().map(|touched| touched.stored.size_bytes).max().unwrap_or(0);
        let room_bytes = self.touched.values().filter_map(|touched| touched.stored.room_bytes).min();
        let (mut more, mut less) = (0_u64, 0_u64);
        for (key, touched) in self.touched.iter().filter(|(_, touched)| touched.write.is_some()) {
            let of = |value: Option<Bytes>| value.map_or(0, |value| stored_size_bytes(key, value.len()));
            more = more.saturating_add(of(touched.value()));
            less = less.saturating_add(of(touched.stored.value.clone()));
        }
        let wanted_bytes = kept_bytes.saturating_add(more).saturating_sub(less);
        if more <= less || wanted_bytes <= limit_bytes.min(room_bytes.unwrap_or(u64::MAX)) {
            return Ok(());
        }
        Err(match room_bytes.filter(|room_bytes| *room_bytes < limit_bytes) {
            None => format!(
                "the plugin would keep {wanted_bytes} bytes of state, and may keep {limit_bytes} \
                 (plugins.{plugin}.limits.state_bytes)"
            ),
            Some(room_bytes) => format!(
                "the plugin would keep {wanted_bytes} bytes of state, and the store has room for {room_bytes} of one \
                 plugin: give it a larger disk, or have the plugin keep less"
            ),
        })
    }
}

impl TouchedKey {
    /// The value as this attempt sees it.
    pub(super) fn value(&self) -> Option<Bytes> {
        match &self.write {
            None => self.stored.value.clone(),
            Some(StateWrite::Set { value, .. }) => Some(value.clone()),
            Some(StateWrite::Delete) => None,
            Some(StateWrite::Add(delta)) => {
                add_to_counter(self.stored.value.as_deref(), *delta).ok().map(|sum| Bytes::from(sum.to_string()))
            }
        }
    }

    /// Counts up, and gives the value as this attempt sees it.
    pub(super) fn add(&mut self, delta: i64) -> Result<i64, String> {
        let sum = add_to_counter(self.value().as_deref(), delta).map_err(|error| error.to_string())?;
        let text = || Bytes::from(sum.to_string());
        self.write = Some(match self.write.take() {
            None => StateWrite::Add(delta),
            // Both are within what the sum may be, so that this cannot overflow.
            Some(StateWrite::Add(before)) => StateWrite::Add(before.saturating_add(delta)),
            Some(StateWrite::Delete) => StateWrite::Set { value: text(), ttl_ms: None },
            Some(StateWrite::Set { ttl_ms, .. }) => StateWrite::Set { value: text(), ttl_ms },
        });
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::host_api::state_reader::NoState;

    /// The size that an attempt would leave, which saw so much and writes these.
    fn step(kept: u64, room_bytes: Option<u64>, writes: &[(&str, Option<usize>, Option<usize>)]) -> Result<(), String> {
        let mut buffer = StateBuffer::new(Arc::new(NoState));
        for (key, before, after) in writes {
            let value = |size_bytes: usize| Bytes::from(vec![0; size_bytes]);
            let stored = StoredValue { value: before.map(value), version: 1, keys: 1, size_bytes: kept, room_bytes };
            let write = match after {
                Some(size_bytes) => StateWrite::Set { value: value(*size_bytes), ttl_ms: None },
                None => StateWrite::Delete,
            };
            buffer.touched.insert((*key).into(), TouchedKey { stored, is_expected: true, write: Some(write) });
        }
        buffer.into_step("hoarder", 1_000).map(drop)
    }

    #[test]
    fn a_plugin_keeps_no_more_than_it_may_however_it_is_cut() {
        assert_eq!(step(700, None, &[("k", None, Some(199))]), Ok(()));
        let error = step(700, None, &[("k", None, Some(200))]).unwrap_err();
        assert!(error.contains("1001 bytes") && error.contains("plugins.hoarder.limits.state_bytes"), "{error}");
        let many: Vec<String> = (0..4).map(|n| n.to_string()).collect();
        let many: Vec<_> = many.iter().map(|key| (key.as_str(), None, Some(0))).collect();
        assert!(step(700, None, &many).is_err(), "small keys take room too");
    }

    #[test]
    fn what_makes_it_smaller_is_let_through_though_it_keeps_too_much() {
        assert_eq!(step(5_000, None, &[("k", Some(300), Some(299))]), Ok(()));
        assert_eq!(step(5_000, None, &[("k", Some(300), None)]), Ok(()));
        assert_eq!(step(900, None, &[("old", Some(300), None), ("new", None, Some(300))]), Ok(()));
        assert!(step(5_000, None, &[("k", Some(300), Some(301))]).is_err());
    }

    #[test]
    fn a_store_with_less_room_says_so() {
        assert_eq!(step(300, Some(500), &[("k", None, Some(50))]), Ok(()));
        let error = step(300, Some(500), &[("k", None, Some(100))]).unwrap_err();
        assert!(error.contains("the store has room for 500"), "{error}");
    }
}
