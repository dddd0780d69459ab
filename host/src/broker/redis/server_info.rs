//! What `INFO` tells of a server.

use std::collections::BTreeMap;
use std::time::Duration;

/// The reply to `INFO`, by field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerInfo(BTreeMap<String, String>);

impl ServerInfo {
    /// Lines that are no fields are skipped.
    pub(super) fn parse(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Self(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    }

    /// A field; empty if the server does not report it.
    pub(super) fn text(&self, field: &str) -> &str {
        self.0.get(field).map(String::as_str).unwrap_or_default()
    }

    /// A field as a number; `None` if it is not reported or no number.
    pub(super) fn number(&self, field: &str) -> Option<u64> {
        self.text(field).parse().ok()
    }

    /// True while the server reads its data. Until then it reports that it has no append-only file.
    pub(super) fn is_loading(&self) -> bool {
        !matches!(self.text("loading"), "" | "0")
    }

    pub(super) fn is_primary(&self) -> bool {
        self.text("role") == "master"
    }

    /// The time since the server started.
    pub(super) fn uptime(&self) -> Duration {
        self.number("uptime_in_seconds").map_or(Duration::MAX, Duration::from_secs)
    }

    /// The number of connected replicas.
    pub(super) fn replicas(&self) -> u64 {
        self.number("connected_slaves").unwrap_or(0)
    }

    /// True if `min-replicas-to-write` is set: then the server reports how many replicas are in step.
    pub(super) fn waits_for_replicas(&self) -> bool {
        !self.text("min_slaves_good_slaves").is_empty()
    }

    /// The server's clock, in seconds.
    pub(super) fn clock_s(&self) -> u64 {
        self.number("server_time_usec").unwrap_or(0) / 1_000_000
    }
}
