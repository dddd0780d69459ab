//! Counts denied calls by capability, and decides which ones are logged: each target once.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::{Mutex, MutexGuard};

/// How many different warnings are logged. A guest can make up any number of targets.
const MAX_WARNINGS: usize = 64;

/// The denials of one version of a plugin.
#[derive(Debug, Default)]
pub(in crate::plugin) struct DenialLog(Mutex<KnownDenials>);

#[derive(Debug, Default)]
struct KnownDenials {
    counts: BTreeMap<&'static str, u64>,
    warnings: BTreeSet<String>,
}

impl DenialLog {
    /// Counts a denial. Returns true if it must be logged, which is once for each target.
    pub(in crate::plugin) fn count(&self, capability: &'static str, target: &str) -> bool {
        *self.lock().counts.entry(capability).or_default() += 1;
        self.is_first(&format!("{capability} {target}"))
    }

    /// Returns true once per warning, up to [`MAX_WARNINGS`]. Counts no denial.
    pub(in crate::plugin) fn is_first(&self, warning: &str) -> bool {
        let mut known = self.lock();
        known.warnings.len() < MAX_WARNINGS && known.warnings.insert(warning.to_owned())
    }

    /// The number of denied calls by capability.
    pub(in crate::plugin) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.lock().counts.clone()
    }

    fn lock(&self) -> MutexGuard<'_, KnownDenials> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_denial_is_counted_and_the_first_for_a_target_is_logged() {
        let denials = DenialLog::default();
        assert!(denials.count("http", "a"));
        assert!(!denials.count("http", "a"));
        assert!(denials.count("state", "a"));
        let logged = (0..1_000).filter(|n| denials.count("http", &n.to_string())).count();
        assert_eq!(logged, MAX_WARNINGS - 2);
        assert_eq!(denials.counts(), BTreeMap::from([("http", 1_002), ("state", 1)]));
    }
}
