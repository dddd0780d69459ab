//! The facts that a server announces while it starts, one line each.

use std::collections::BTreeSet;

use crate::broker::EventLog;
use crate::config::Config;
use crate::plugin::PluginRegistry;
use crate::plugin_report::{PluginReport, PluginStatus};

/// Names the broker and its durability.
pub(super) fn describe_broker(config: &Config, broker: &dyn EventLog) -> String {
    let durability = broker.health().durability.as_str();
    format!("broker {} at {}, durability {durability}", broker.name(), config.broker_url)
}

/// Reports each plugin once: when it begins to serve, or at the end of the start if it does not serve.
#[derive(Default)]
pub(super) struct StartupReporter {
    reported: BTreeSet<String>,
    is_complete: bool,
}

impl StartupReporter {
    /// Whether the start is over and every plugin is reported.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The facts that are new since the last call.
    pub(super) fn next_facts(&mut self, config: &Config, plugins: &PluginRegistry) -> Vec<String> {
        // Read before the statuses: otherwise a plugin that becomes ready in between would be missed.
        let is_over = !plugins.is_starting();
        let mut lines = Vec::new();
        let statuses = plugins.statuses();
        for status in statuses.iter().filter(|status| is_over || status.status == PluginStatus::Active) {
            if self.reported.insert(status.name.clone()) {
                lines.push(describe_plugin(status));
            }
        }
        if is_over {
            self.is_complete = true;
            lines.push(summarize(config, &statuses));
        }
        lines
    }
}

fn summarize(config: &Config, statuses: &[PluginReport]) -> String {
    let serving = statuses.iter().filter(|status| !status.types.is_empty()).count();
    let dir = config.plugins.dir.display();
    match (serving, statuses.len()) {
        (_, 0) => format!("ready, no plugins in {dir}: a .wasm file that is put there is loaded at once"),
        (1, 1) => "ready, the plugin serves".into(),
        (_, all) if all == serving => format!("ready, all {all} plugins serve"),
        (_, all) => format!("ready, {serving} of {all} plugins serve"),
    }
}

fn describe_plugin(status: &PluginReport) -> String {
    let types: Vec<String> = status.types.iter().map(ToString::to_string).collect();
    match (&status.error, status.status) {
        (None, _) => format!("plugin {} handles {}", status.name, types.join(", ")),
        (Some(error), PluginStatus::FailedKeptLastGood | PluginStatus::NeedsApproval) if !types.is_empty() => {
            format!("plugin {} handles {} with its last good version: {error}", status.name, types.join(", "))
        }
        (Some(error), _) => format!("plugin {} is not served: {error}", status.name),
    }
}
