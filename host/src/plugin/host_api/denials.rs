//! Calls that were answered with a denial: counted by capability, and told once for each thing that was wanted.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::{Mutex, MutexGuard};

/// The most things that are told apart; a guest makes up as many as it likes.
const MAX_TOLD: usize = 64;

/// The denials of one version of a plugin.
#[derive(Debug, Default)]
pub(in crate::plugin) struct DenialLog(Mutex<KnownDenials>);

#[derive(Debug, Default)]
struct KnownDenials {
    counts: BTreeMap<&'static str, u64>,
    told: BTreeSet<String>,
}

impl DenialLog {
    /// Counts a denial. True if it should be told: nobody wanted the same before.
    pub(in crate::plugin) fn count(&self, capability: &'static str, wanted: &str) -> bool {
        *self.known().counts.entry(capability).or_default() += 1;
        self.is_new(&format!("{capability} {wanted}"))
    }

    /// True if something should be told, which is no denial: it was not told before.
    pub(in crate::plugin) fn is_new(&self, what: &str) -> bool {
        let mut known = self.known();
        known.told.len() < MAX_TOLD && known.told.insert(what.to_owned())
    }

    /// How many calls were denied, by capability.
    pub(in crate::plugin) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.known().counts.clone()
    }

    fn known(&self) -> MutexGuard<'_, KnownDenials> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_denial_is_counted_and_the_first_of_its_kind_told() {
        let denials = DenialLog::default();
        assert!(denials.count("http", "a"));
        assert!(!denials.count("http", "a"));
        assert!(denials.count("state", "a"));
        let told = (0..1_000).filter(|n| denials.count("http", &n.to_string())).count();
        assert_eq!(told, MAX_TOLD - 2);
        assert_eq!(denials.counts(), BTreeMap::from([("http", 1_002), ("state", 1)]));
    }
}
