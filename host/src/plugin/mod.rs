//! Components that handle events: loaded from a directory, sandboxed, replaced while events flow.
//!
//! A [`Plugin`] is one version of one component, ready to run. The [`Registry`] knows which plugin handles which type
//! and swaps versions without a lock on the path of an event: an attempt that has begun ends on the version it began
//! with. Nothing here knows of a broker; what a handler publishes leaves as plain values in its
//! [`Outcome`](crate::event::Outcome).

use std::sync::Arc;

use crate::event::{Event, EventType, LogLine, Outcome, Policies};

/// What a plugin is given with an event.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The event.
    pub event: Event,
    /// 1 for the first attempt since it was accepted or last replayed.
    pub attempt: u32,
}

/// What came of an attempt.
#[derive(Clone, Debug)]
pub struct Completed {
    /// Ok with effects, or why not.
    pub outcome: Outcome,
    /// What the guest logged, within the limits.
    pub log: Vec<LogLine>,
    /// Log lines past the limits.
    pub log_lines_dropped: u32,
    /// What the guest wrote to its standard error, cut to the limit.
    pub stderr: Option<String>,
}

/// One version of one component, ready to run.
#[derive(Debug)]
pub struct Plugin {
    name: String,
}

impl Plugin {
    /// The name: that of its file without `.wasm`. Also the name of its lane.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The SHA-256 of the file, in hexadecimal.
    pub fn digest(&self) -> &str {
        todo!()
    }

    /// How many attempts may run side by side on one host; `None` for as many as the host has slots.
    pub fn concurrency(&self) -> Option<usize> {
        todo!()
    }

    /// How failures of this plugin are tried again.
    pub fn policies(&self) -> &Policies {
        todo!()
    }

    /// Handles one event in a fresh instance. Never fails: whatever the guest does is an outcome. Dropping the future
    /// cancels the attempt.
    pub async fn handle(self: &Arc<Self>, _attempt: Attempt) -> Completed {
        todo!()
    }
}

/// Which plugin handles which type.
#[derive(Debug)]
pub struct Registry {}

impl Registry {
    /// The plugin for a type: the one with the most specific pattern that matches.
    pub fn route(&self, _event_type: &EventType) -> Option<Arc<Plugin>> {
        todo!()
    }

    /// The plugins that serve now, by name.
    pub fn active(&self) -> Vec<Arc<Plugin>> {
        todo!()
    }

    /// Changes whenever a plugin was swapped, added or removed.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        todo!()
    }
}
