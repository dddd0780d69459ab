//! What the server and its handlers work with: the options, and the parts of the program that they call.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::broker::{AuditStore, ConsumerDirectory, EventLog, Lane, PauseBoard, PluginStateRemover};
use crate::event::{EventLimits, EventType};
use crate::plugin_report::PluginReport;
use crate::telemetry::UnwrittenLines;

use super::key_ring::KeyRing;
use super::memory_budget::MemoryBudget;

/// The parts of the program that the handlers call.
#[derive(Clone)]
pub struct ApiState {
    /// The event log.
    pub event_log: Arc<dyn EventLog>,
    /// This consumer and its peers.
    pub consumers: Arc<dyn ConsumerDirectory>,
    /// Deletes the state of removed plugins.
    pub plugin_state: Arc<dyn PluginStateRemover>,
    /// Who changed what.
    pub audit: Arc<dyn AuditStore>,
    /// The plugins.
    pub plugins: Arc<dyn PluginAdmin>,
    /// The keys that clients send.
    pub keys: Arc<KeyRing>,
    /// The pauses of plugins.
    pub pauses: Arc<PauseBoard>,
    /// The limits of requests.
    pub options: ServerOptions,
    /// The memory of bodies, heads and answers in progress.
    pub memory: MemoryBudget,
    /// Cancelled when the server stops. It is not ready from then on.
    pub stopping: CancellationToken,
    /// Counts the lines that this host did not write to its log.
    pub unwritten_lines: UnwrittenLines,
}

/// What the API needs of the plugins.
#[async_trait::async_trait]
pub trait PluginAdmin: Send + Sync + 'static {
    /// The lane for events of a type: that of the plugin that handles it now, else [`Lane::unrouted`].
    fn lane(&self, event_type: &EventType) -> Lane;

    /// Why the plugins keep this host from being ready, if they do.
    fn unready_reason(&self) -> Option<String>;

    /// Every plugin, ordered by name.
    fn plugins(&self) -> Vec<PluginReport>;

    /// The plugin with this name.
    fn plugin(&self, name: &str) -> Option<PluginReport>;

    /// The files and settings that belong to no plugin, each described in a sentence.
    fn overlooked(&self) -> Vec<String>;

    /// Replaces a plugin by the version that served before it. Returns the plugin after the change.
    async fn rollback(&self, name: &str) -> Result<PluginReport, PluginChangeError>;

    /// Lets the held build with this digest serve. Returns the plugin after the change.
    async fn approve(&self, name: &str, digest: Option<&str>) -> Result<PluginReport, PluginChangeError>;

    /// Removes a plugin's file.
    async fn remove(&self, name: &str) -> Result<RemovedPlugin, PluginChangeError>;
}

/// A plugin whose file was removed.
#[derive(Clone, Debug, Serialize)]
pub struct RemovedPlugin {
    /// The plugin after the removal.
    #[serde(flatten)]
    pub plugin: PluginReport,
    /// The file that was removed; `None` if it was gone already.
    pub file: Option<String>,
    /// The settings beside it, which stay.
    pub settings: Option<String>,
}

/// Why a plugin was not changed, with a message for people. The version that served still serves.
#[derive(Clone, Debug)]
pub enum PluginChangeError {
    /// There is no such plugin.
    Unknown(String),
    /// The request must name the digest of the build that it means.
    DigestMissing(String),
    /// The plugin cannot be changed now.
    Refused(String),
}

/// The settings of the HTTP server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerOptions {
    /// The address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The largest body of a request, in bytes.
    pub max_body_bytes: usize,
    /// The memory for all bodies, heads and answers in progress together, in bytes. A few KiB of each are not counted.
    pub max_buffered_bytes: usize,
    /// The most connections at a time. A new connection then replaces one whose client makes no progress. If all do, its
    /// requests wait a moment and get 503, except health probes.
    pub max_connections: usize,
    /// The time in which the head of a request must arrive, from its first byte on. The first request of a connection must
    /// begin within this time, too.
    pub header_timeout_ms: u64,
    /// The time in which a request's body must arrive.
    pub body_timeout_ms: u64,
    /// The longest time between two requests on a connection.
    pub idle_timeout_ms: u64,
    /// The time that requests and attempts in progress have to end when the program stops.
    pub drain_ms: u64,
    /// Whether everybody may publish and read without a key. Otherwise, while there is no key, only requests that name this
    /// machine as localhost are served.
    pub allow_anonymous: bool,
    /// Whether everybody may read the metrics without a key.
    pub open_metrics: bool,
    /// The limits of an event.
    pub limits: EventLimits,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 3000)),
            max_body_bytes: 1024 * 1024,
            max_buffered_bytes: 128 * 1024 * 1024,
            max_connections: 10_000,
            header_timeout_ms: 5_000,
            body_timeout_ms: 10_000,
            idle_timeout_ms: 75_000,
            drain_ms: 25_000,
            allow_anonymous: false,
            open_metrics: false,
            limits: EventLimits::default(),
        }
    }
}
