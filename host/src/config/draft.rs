//! The configuration while sources are applied to it: defaults first, and checks across settings at the end.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api::ServerOptions;
use crate::api_key::ConfiguredKey;
use crate::broker::{self, StoreKind};
use crate::event::{FailureClass, RetryPatch, RetryPolicies, RetryPolicy};
use crate::telemetry;
use crate::worker::WorkerOptions;

use super::settings::{BrokerUrl, Config, PluginsSettings};
use super::sources::ConfigFault;

/// The settings so far. They include secrets, so there is no `Debug`.
pub(super) struct ConfigDraft {
    pub(super) server: ServerOptions,
    pub(super) broker_url: String,
    pub(super) broker: broker::BrokerOptions,
    /// `None` for the name of the host.
    pub(super) consumer_name: Option<String>,
    /// 0 for twice the number of cores.
    pub(super) concurrency: usize,
    pub(super) max_depth: u32,
    pub(super) retry: RetryPatch,
    pub(super) retry_by_class: BTreeMap<FailureClass, RetryPatch>,
    pub(super) plugins: PluginsSettings,
    pub(super) data_dir: DataDirSetting,
    pub(super) keys: Vec<ConfiguredKey>,
    pub(super) log: telemetry::LogOptions,
    /// Each setting that a source gave, and the place; the last one counts.
    pub(super) origins: Vec<(String, String)>,
}

impl Default for ConfigDraft {
    fn default() -> Self {
        Self {
            server: ServerOptions::default(),
            broker_url: "embedded:./data".into(),
            broker: broker::BrokerOptions { data_dir: Some("./data".into()), ..broker::BrokerOptions::default() },
            consumer_name: None,
            concurrency: 0,
            max_depth: 64,
            retry: RetryPatch::default(),
            retry_by_class: BTreeMap::new(),
            plugins: PluginsSettings::default(),
            data_dir: DataDirSetting::Default,
            keys: Vec::new(),
            log: telemetry::LogOptions::default(),
            origins: Vec::new(),
        }
    }
}

impl ConfigDraft {
    /// Builds the configuration if its settings fit together.
    pub(super) fn finish(self) -> Result<Config, Vec<ConfigFault>> {
        let faults = self.find_conflicts();
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut policies = RetryPolicies::from_base(self.retry.over(RetryPolicy::default()));
        for (class, patch) in &self.retry_by_class {
            policies.patch(*class, patch);
        }
        let consumer_name = self.consumer_name.unwrap_or_else(read_host_name);
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let concurrency = if self.concurrency == 0 { 2 * cores } else { self.concurrency };
        Ok(Config {
            worker: WorkerOptions {
                concurrency,
                host_concurrency: WorkerOptions::host_concurrency_for(concurrency),
                lease: Duration::from_millis(self.broker.lease_ms),
                drain: Duration::from_millis(self.server.drain_ms),
                policies,
                max_waiting: self.broker.max_waiting,
                max_depth: self.max_depth,
            },
            server: self.server,
            keys: self.keys,
            broker: broker::BrokerOptions { consumer_name, ..self.broker },
            plugins: PluginsSettings {
                may_make_dir: self.origins.iter().all(|(key, _)| key != "plugins.dir"),
                data_dir: self.data_dir.resolve(&self.broker_url),
                ..self.plugins
            },
            broker_url: BrokerUrl::from(self.broker_url),
            log: self.log,
        })
    }

    /// Finds settings that are valid alone but do not fit together.
    fn find_conflicts(&self) -> Vec<ConfigFault> {
        let mut faults = Vec::new();
        let tls = &self.broker.tls;
        let is_tls = StoreKind::of_url(&self.broker_url) == Ok(StoreKind::RedisTls);
        for (key, file) in [("ca", &tls.ca), ("cert", &tls.cert), ("key", &tls.key)] {
            if file.is_some() && !is_tls {
                let message = format!("broker.tls.{key} is for a broker.url that begins with rediss://");
                faults.push(ConfigFault { place: self.origin(&format!("broker.tls.{key}")), message });
            }
        }
        if tls.cert.is_some() != tls.key.is_some() {
            let message = "set both broker.tls.cert and broker.tls.key, or neither";
            let given = if tls.cert.is_some() { "broker.tls.cert" } else { "broker.tls.key" };
            faults.push(ConfigFault { place: self.origin(given), message: message.into() });
        }
        let (payload, body) = (self.server.limits.max_payload_bytes, self.server.max_body_bytes);
        if payload > body {
            let message = format!(
                "broker.max_payload_bytes = {payload} is more than server.max_body_bytes = {body}, so the largest payload \
                 does not fit into a request: raise server.max_body_bytes or lower broker.max_payload_bytes"
            );
            let place = match self.origin("broker.max_payload_bytes") {
                place if place == "default" => self.origin("server.max_body_bytes"),
                place => place,
            };
            faults.push(ConfigFault { place, message });
        }
        let buffered = self.server.max_buffered_bytes;
        if body > buffered {
            let message = format!(
                "server.max_body_bytes = {body} is more than server.max_buffered_bytes = {buffered}, which all requests and \
                 responses share: raise server.max_buffered_bytes or lower server.max_body_bytes"
            );
            let place = match self.origin("server.max_body_bytes") {
                place if place == "default" => self.origin("server.max_buffered_bytes"),
                place => place,
            };
            faults.push(ConfigFault { place, message });
        }
        if self.plugins.hold_new_capabilities && self.data_dir == DataDirSetting::None {
            let message =
                "plugins.hold_new_capabilities = true needs a plugins.data_dir: it records which version was active";
            faults.push(ConfigFault { place: self.origin("plugins.hold_new_capabilities"), message: message.into() });
        }
        faults
    }

    fn origin(&self, name: &str) -> String {
        let origin = self.origins.iter().rev().find(|(key, _)| key == name);
        origin.map_or_else(|| "default".to_owned(), |(_, place)| place.clone())
    }
}

/// Where compiled code and earlier versions of plugins are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DataDirSetting {
    /// In the directory of the embedded broker; `./data/plugins` with another one.
    Default,
    /// Nowhere.
    None,
    /// In this directory.
    Path(PathBuf),
}

impl DataDirSetting {
    fn resolve(self, broker_url: &str) -> Option<PathBuf> {
        match self {
            Self::None => None,
            Self::Path(dir) => Some(dir),
            Self::Default => Some(Path::new(broker_url.strip_prefix("embedded:").unwrap_or("./data")).join("plugins")),
        }
    }
}

/// The name of this machine. Characters that a consumer's name may not have are replaced.
fn read_host_name() -> String {
    let uname = rustix::system::uname();
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name = uname.nodename().to_string_lossy();
    let name: String = name.chars().take(64).map(|c| if fits(c) { c } else { '-' }).collect();
    if name.is_empty() { "eventstream".into() } else { name }
}
