//! The usual set-up of an end-to-end test: one store, one directory of plugins, one host.

use crate::client::Client;
use crate::guests::PluginsDir;
use crate::host::{Host, HostOptions};
pub use crate::store::{Broker, Store};

/// A store, plugins and a host that uses both. The host ends first when this is dropped.
pub struct Stage {
    /// The host.
    pub host: Host,
    /// A client of the host.
    pub client: Client,
    /// The store.
    pub store: Store,
    /// The plugins.
    pub plugins: PluginsDir,
}

impl Stage {
    /// A host with plugins that do what their payload says, under these names.
    #[track_caller]
    pub fn scripted(broker: Broker, names: &[&str]) -> Self {
        Self::with(broker, PluginsDir::scripted(names), |options| options)
    }

    /// A host with these plugins and settings.
    #[track_caller]
    pub fn with(broker: Broker, plugins: PluginsDir, set: impl FnOnce(HostOptions) -> HostOptions) -> Self {
        Self::on(broker.start(), plugins, set)
    }

    /// A host with these plugins and settings on a store that is there.
    #[track_caller]
    pub fn on(store: Store, plugins: PluginsDir, set: impl FnOnce(HostOptions) -> HostOptions) -> Self {
        let host = Host::spawn(&set(quick(HostOptions::new(&store.url(), plugins.path()))));
        let client = host.client();
        Self { host, client, store, plugins }
    }

    /// Starts another host on the same store and plugins. An embedded store must have been left by its host before.
    #[track_caller]
    pub fn another(&self, set: impl FnOnce(HostOptions) -> HostOptions) -> Host {
        Host::spawn(&set(self.options()))
    }

    /// What a host on the same store and plugins is started with.
    pub fn options(&self) -> HostOptions {
        self.options_with(&self.plugins)
    }

    /// What a host on the same store with other plugins is started with.
    pub fn options_with(&self, plugins: &PluginsDir) -> HostOptions {
        quick(HostOptions::new(&self.store.url(), plugins.path()))
    }

    /// The host is replaced by another with other settings; however it is to end was done before.
    pub fn replace_host(&mut self, set: impl FnOnce(HostOptions) -> HostOptions) {
        self.host = self.another(set);
        self.client = self.host.client();
    }
}

/// Pauses between attempts that a test can wait for, and time enough for a guest that gets no processor for seconds.
fn quick(options: HostOptions) -> HostOptions {
    let options = options.with("retry.initial_ms", 50).with("retry.max_ms", 500);
    options.with("plugins.limits.wall_ms", 30_000).with("plugins.limits.http_timeout_ms", 20_000)
}
