//! Plugins that went, so that whoever misses one is told since when; the last of them, and not over a restart.

use std::collections::BTreeMap;

use crate::event::Timestamp;
use parking_lot::{Mutex, MutexGuard};

/// How many are remembered.
const MAX_REMOVED: usize = 100;

/// Plugins that went and when, by name.
#[derive(Debug, Default)]
pub(in crate::plugin) struct RemovalRecord(Mutex<BTreeMap<String, Timestamp>>);

impl RemovalRecord {
    /// Notes that a plugin went. Past the limit the one that went first is forgotten.
    pub(in crate::plugin) fn add(&self, name: &str, at: Timestamp) {
        let mut names = self.names();
        names.insert(name.to_owned(), at);
        while names.len() > MAX_REMOVED {
            let Some(oldest) = names.iter().min_by_key(|(_, at)| **at).map(|(name, _)| name.clone()) else { return };
            names.remove(&oldest);
        }
    }

    /// Notes that a plugin is there again.
    pub(in crate::plugin) fn forget(&self, name: &str) {
        self.names().remove(name);
    }

    /// All that are remembered.
    pub(in crate::plugin) fn all(&self) -> BTreeMap<String, Timestamp> {
        self.names().clone()
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<String, Timestamp>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_that_went_are_remembered_until_they_are_back() {
        let removed = RemovalRecord::default();
        for n in 0..MAX_REMOVED as i64 + 2 {
            removed.add(&format!("p{n}"), Timestamp::from_unix_ms(n));
        }
        let names = removed.all();
        assert_eq!(names.len(), MAX_REMOVED);
        assert!(!names.contains_key("p0") && !names.contains_key("p1") && names.contains_key("p2"));
        removed.forget("p2");
        assert!(!removed.all().contains_key("p2"));
    }
}
