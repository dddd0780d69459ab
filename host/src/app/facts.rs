//! What a person who starts a server needs to know, one line each.

use std::collections::BTreeSet;

use crate::broker::EventLog;
use crate::config::Config;
use crate::plugin::{PluginRegistry, PluginReport, PluginStatus};

use super::StartupFact;

/// The broker and how durable it is.
pub(super) fn broker(config: &Config, broker: &dyn EventLog) -> StartupFact {
    let durability = broker.health().durability.as_str();
    StartupFact(format!("broker {} at {}, durability {durability}", broker.name(), config.broker_url))
}

/// Tells of each plugin once: of one that serves as soon as it does, of one that does not when the start is over.
#[derive(Default)]
pub(super) struct StartupReporter {
    told: BTreeSet<String>,
    is_complete: bool,
}

impl StartupReporter {
    /// The start is over, and everything about it was told.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// What is new since the last time.
    pub(super) fn next(&mut self, config: &Config, plugins: &PluginRegistry) -> Vec<StartupFact> {
        // In this order, so that nothing that the end of the start brought is left out.
        let is_over = !plugins.is_starting();
        let mut lines = Vec::new();
        let statuses = plugins.statuses();
        for status in statuses.iter().filter(|status| is_over || status.state == PluginStatus::Active) {
            if self.told.insert(status.name.clone()) {
                lines.push(describe(status));
            }
        }
        if is_over {
            self.is_complete = true;
            lines.push(summary(config, &statuses));
        }
        lines.into_iter().map(StartupFact).collect()
    }
}

fn summary(config: &Config, statuses: &[PluginReport]) -> String {
    let serving = statuses.iter().filter(|status| !status.types.is_empty()).count();
    let dir = config.plugins.dir.display();
    match (serving, statuses.len()) {
        (_, 0) => format!("ready, no plugins in {dir}: a .wasm file that is put there is loaded at once"),
        (1, 1) => "ready, the plugin serves".into(),
        (_, all) if all == serving => format!("ready, all {all} plugins serve"),
        (_, all) => format!("ready, {serving} of {all} plugins serve"),
    }
}

fn describe(status: &PluginReport) -> String {
    let types: Vec<String> = status.types.iter().map(ToString::to_string).collect();
    match (&status.error, status.state) {
        (None, _) => format!("plugin {} handles {}", status.name, types.join(", ")),
        (Some(error), PluginStatus::FailedKeptLastGood | PluginStatus::NeedsApproval) if !types.is_empty() => {
            format!("plugin {} handles {} with its last good version: {error}", status.name, types.join(", "))
        }
        (Some(error), _) => format!("plugin {} is not served: {error}", status.name),
    }
}
