//! Counts requests that were denied and logs why, each target once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use hyper::{Method, Uri};
use parking_lot::Mutex;

use super::grants::{GrantOrigin, HttpGrants, MissingGrant};
use crate::plugin::settings::secrets::PluginSecrets;

/// How many different warnings are logged. A guest can make up any number of targets.
const MAX_WARNINGS: usize = 64;

/// The denials of one version of a plugin.
pub struct DenialLog {
    plugin: String,
    /// Hidden in log lines: a guest may put secrets into a URL that is denied.
    secrets: Arc<PluginSecrets>,
    grants: Arc<HttpGrants>,
    known: Mutex<KnownDenials>,
}

#[derive(Default)]
struct KnownDenials {
    counts: BTreeMap<&'static str, u64>,
    warnings: BTreeSet<String>,
}

impl DenialLog {
    /// A log without denials.
    pub(super) fn new(plugin: &str, secrets: Arc<PluginSecrets>, grants: Arc<HttpGrants>) -> Self {
        Self { plugin: plugin.to_owned(), secrets, grants, known: Mutex::default() }
    }

    /// The number of denied calls by capability.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.known.lock().counts.clone()
    }

    /// Counts a denial. Returns true if it must be logged, which is once for each target.
    fn count(&self, capability: &'static str, target: &str) -> bool {
        *self.known.lock().counts.entry(capability).or_default() += 1;
        self.is_first(&format!("{capability} {target}"))
    }

    /// Returns true once per warning, up to [`MAX_WARNINGS`]. Counts no denial.
    fn is_first(&self, warning: &str) -> bool {
        let mut known = self.known.lock();
        known.warnings.len() < MAX_WARNINGS && known.warnings.insert(warning.to_owned())
    }

    /// Counts and logs a request that no grant allows.
    pub(super) fn deny(&self, origin: &GrantOrigin, method: &Method, lacking: MissingGrant) {
        let line = match lacking {
            MissingGrant::Origin => format!("\"{origin}\""),
            MissingGrant::Method => format!("{{ url = \"{origin}\", methods = [\"{method}\"] }}"),
        };
        self.log_denial(origin, method, "it is not granted", &line);
    }

    /// Counts and logs a request to a target that no grant could name.
    pub(super) fn deny_unnamed(&self, uri: &Uri) {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let host = authority.rsplit('@').next().unwrap_or_default();
        let target: String = self.secrets.hide(host).chars().take(256).collect();
        if self.count("http", &target) {
            tracing::warn!(
                plugin.id = %self.plugin,
                "denied HTTP to {target:?}: neither a name nor an address as it is usually written; it cannot be granted"
            );
        }
    }

    pub(super) fn log_denial(&self, origin: &GrantOrigin, method: &Method, reason: &str, grant: &str) {
        let method: String = method.as_str().chars().take(32).collect();
        if !self.count("http", &format!("{method} {origin}")) {
            return;
        }
        let plugin = &self.plugin;
        let others = if self.grants.is_empty() { "" } else { " (beside what it has)" };
        let words = format!(
            "denied {method} {origin}: {reason}; {plugin}.toml would grant it{others} with: grants.http = [{grant}]"
        );
        tracing::warn!(plugin.id = %plugin, "{}", self.secrets.hide(&words));
    }

    pub(super) fn log_own_listener(&self, origin: &GrantOrigin, method: &Method) {
        if self.is_first(&format!("own {origin}")) {
            let method = self.secrets.hide(method.as_str());
            tracing::warn!(
                plugin.id = %self.plugin,
                "denied {method} {origin}: this server itself listens there. No grant allows that, because a plugin must not \
                 manage plugins and events; use publish to publish events"
            );
        }
    }

    pub(super) fn log_used_up_share(&self, share: &str) {
        tracing::warn!(plugin.id = %self.plugin, "a request was refused: as many {share} as a plugin may have at once");
    }

    /// Logs why a certificate was refused. The guest only learns that it was.
    pub(super) fn log_certificate(&self, origin: &GrantOrigin, reason: &impl fmt::Display) {
        if self.is_first(&format!("certificate {origin}")) {
            let (origin, reason) = (self.secrets.hide(&origin.to_string()), self.secrets.hide(&reason.to_string()));
            tracing::warn!(
                plugin.id = %self.plugin,
                "{origin} shows a certificate that is not accepted: {reason}; to trust your own authority, add it to the \
                 roots of the system, or set SSL_CERT_FILE for this server to its file"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_denial_is_counted_and_the_first_for_a_target_is_logged() {
        let denials = DenialLog::new("p", Arc::default(), Arc::default());
        assert!(denials.count("http", "a"));
        assert!(!denials.count("http", "a"));
        assert!(denials.count("state", "a"));
        let logged = (0..1_000).filter(|n| denials.count("http", &n.to_string())).count();
        assert_eq!(logged, MAX_WARNINGS - 2);
        assert_eq!(denials.counts(), BTreeMap::from([("http", 1_002), ("state", 1)]));
    }
}
