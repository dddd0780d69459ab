//! The usual set-up of an end-to-end test: one Redis, one directory of plugins, one host.

use crate::client::Client;
use crate::guests::PluginsDir;
use crate::host::{Host, HostOptions};
use crate::redis::RedisServer;

/// A Redis, plugins and a host that uses both. The host ends first when this is dropped.
pub struct Stage {
    /// The host.
    pub host: Host,
    /// A client of the host.
    pub client: Client,
    /// The Redis.
    pub redis: RedisServer,
    /// The plugins.
    pub plugins: PluginsDir,
}

impl Stage {
    /// A host with plugins that do what their payload says, under these names.
    #[track_caller]
    pub fn scripted(names: &[&str]) -> Self {
        Self::with(PluginsDir::scripted(names), |options| options)
    }

    /// A host with these plugins and settings.
    #[track_caller]
    pub fn with(plugins: PluginsDir, set: impl FnOnce(HostOptions) -> HostOptions) -> Self {
        Self::on(RedisServer::start().expect("a Redis server starts"), plugins, set)
    }

    /// A host on this Redis with these plugins and settings.
    #[track_caller]
    pub fn on(redis: RedisServer, plugins: PluginsDir, set: impl FnOnce(HostOptions) -> HostOptions) -> Self {
        let host = Host::spawn(&set(quick(HostOptions::new(&redis.url(), plugins.path()))));
        let client = host.client();
        Self { host, client, redis, plugins }
    }

    /// Starts another host on the same Redis and plugins.
    #[track_caller]
    pub fn another(&self, set: impl FnOnce(HostOptions) -> HostOptions) -> Host {
        Host::spawn(&set(self.options()))
    }

    /// What a host on the same Redis and plugins is started with.
    pub fn options(&self) -> HostOptions {
        quick(HostOptions::new(&self.redis.url(), self.plugins.path()))
    }

    /// The host is replaced by another with other settings; however it is to end was done before.
    pub fn replace_host(&mut self, set: impl FnOnce(HostOptions) -> HostOptions) {
        self.host = self.another(set);
        self.client = self.host.client();
    }
}

/// Pauses between attempts that a test can wait for.
fn quick(options: HostOptions) -> HostOptions {
    options.with("retry.initial_ms", 50).with("retry.max_ms", 500)
}
