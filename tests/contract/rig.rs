//! A Redis of a test's own, with brokers on it.

use std::sync::Arc;

use async_trait::async_trait;
use eventstream::broker::contract::Rig;
use eventstream::broker::redis::{RedisBroker, Tuning};
use eventstream::broker::{Broker, Options};
use eventstream::shutdown::Tasks;
use eventstream_tests::proxy::Proxy;
use eventstream_tests::redis::RedisServer;

/// Settings under which tests see things happen soon.
pub const TUNING: Tuning = Tuning { look_every_ms: 100, least_retention_ms: 0 };

/// A server, a proxy in front of it, and the tasks of the brokers on it.
pub struct RedisRig {
    pub server: RedisServer,
    pub proxy: Proxy,
    tasks: Tasks,
}

impl RedisRig {
    /// An empty server.
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// An empty server with further arguments.
    pub fn with(arguments: &[&str]) -> Self {
        let server = RedisServer::start_with(arguments).expect("a server starts");
        let proxy = Proxy::start(server.address()).expect("a proxy starts");
        Self { server, proxy, tasks: Tasks::new() }
    }

    /// A broker that reaches the server directly.
    pub async fn direct(&self, options: Options) -> Arc<RedisBroker> {
        RedisBroker::open_tuned(&self.server.url(), options, TUNING, &self.tasks).await.expect("the broker opens")
    }

    /// A broker whose wire can be made to fail.
    pub async fn through_proxy(&self, options: Options) -> Arc<RedisBroker> {
        RedisBroker::open_tuned(&self.proxy.redis_url(), options, TUNING, &self.tasks).await.expect("the broker opens")
    }

    /// The tasks in which brokers do their background work.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }
}

#[async_trait]
impl Rig for RedisRig {
    async fn open(&self, options: Options) -> Arc<dyn Broker> {
        self.direct(options).await
    }

    async fn kill(&self, broker: Arc<dyn Broker>) {
        drop(broker);
    }
}
