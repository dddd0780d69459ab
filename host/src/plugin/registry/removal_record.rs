//! The plugins that were removed last, and when. A restart forgets them.

use std::collections::BTreeMap;

use parking_lot::{Mutex, MutexGuard};

use crate::event::Timestamp;

/// How many are kept.
const MAX_REMOVED: usize = 100;

/// When plugins were removed, by name.
#[derive(Debug, Default)]
pub(super) struct RemovalRecord(Mutex<BTreeMap<String, Timestamp>>);

impl RemovalRecord {
    /// Notes that a plugin was removed. Beyond the limit, the oldest removal is forgotten.
    pub(super) fn add(&self, name: &str, at: Timestamp) {
        let mut names = self.names();
        names.insert(name.to_owned(), at);
        while names.len() > MAX_REMOVED {
            let Some(oldest) = names.iter().min_by_key(|(_, at)| **at).map(|(name, _)| name.clone()) else { return };
            names.remove(&oldest);
        }
    }

    /// Forgets a plugin that is there again.
    pub(super) fn forget(&self, name: &str) {
        self.names().remove(name);
    }

    pub(super) fn all(&self) -> BTreeMap<String, Timestamp> {
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
    fn the_last_removals_are_kept_until_the_plugins_are_back() {
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
