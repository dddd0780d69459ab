//! A Redis of a test's own, with brokers on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use eventstream::broker::contract::BrokerRig;
use eventstream::broker::redis::testing::BrokerMutant;
use eventstream::broker::redis::{RedisBroker, RedisOpenError, RedisTuning};
use eventstream::broker::{Broker, BrokerOptions};
use eventstream::event::EventId;
use eventstream::shutdown::TaskGroup;
use eventstream_tests::eventually::PATIENCE;
use eventstream_tests::proxy::Proxy;
use eventstream_tests::redis::RedisServer;

/// Options with short periods.
pub const TUNING: RedisTuning = RedisTuning { check_every_ms: 100, min_retention_ms: 0 };

/// A server, a proxy in front of it, and the tasks of the brokers on it.
pub struct RedisRig {
    pub server: RedisServer,
    pub proxy: Proxy,
    /// Where brokers reach the server.
    pub url: String,
    tasks: TaskGroup,
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
        let url = server.url();
        Self { server, proxy, url, tasks: TaskGroup::new() }
    }

    /// A broker that reaches the server directly.
    pub async fn direct(&self, options: BrokerOptions) -> Arc<RedisBroker> {
        self.reach(&self.url, options, None).await
    }

    /// A broker behind the proxy.
    pub async fn through_proxy(&self, options: BrokerOptions) -> Arc<RedisBroker> {
        self.reach(&self.proxy.redis_url(), options, None).await
    }

    /// A broker at a URL, or the error.
    pub async fn try_open(&self, url: &str, options: BrokerOptions) -> Result<Arc<RedisBroker>, RedisOpenError> {
        RedisBroker::open_tuned(url, options, TUNING, &self.tasks).await
    }

    /// A mutant of the broker, behind the proxy.
    pub async fn mutant(&self, options: BrokerOptions, mutant: BrokerMutant) -> Arc<RedisBroker> {
        self.reach(&self.proxy.redis_url(), options, Some(mutant)).await
    }

    /// Opens a broker, and tries again while the server answers too late on a busy machine.
    async fn reach(&self, url: &str, options: BrokerOptions, mutant: Option<BrokerMutant>) -> Arc<RedisBroker> {
        let begun = Instant::now();
        loop {
            let opened = match mutant {
                None => self.try_open(url, options.clone()).await,
                Some(mutant) => RedisBroker::open_mutant(url, options.clone(), mutant, &self.tasks).await,
            };
            match opened {
                Err(RedisOpenError::Unreachable { .. }) if begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                opened => return opened.expect("the broker opens"),
            }
        }
    }

    /// Runs a command on the server, past the proxy.
    pub fn admin<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.server.command(words).expect("the server answers")
    }

    /// The name of a key of the namespace that tests use.
    pub fn key(name: &str) -> String {
        format!("{{es:0}}:{name}")
    }
}

#[async_trait]
impl BrokerRig for RedisRig {
    async fn open(&self, options: BrokerOptions) -> Arc<dyn Broker> {
        self.direct(options).await
    }

    async fn kill(&self, broker: Arc<dyn Broker>) {
        drop(broker);
    }

    async fn damage(&self, id: EventId) {
        let (id, index, lane) = (id.to_string(), Self::key("ix"), Self::key("q:a"));
        let place: String = self.admin(&["HGET", &index, &id]);
        let whole = place.split('|').nth(2).expect("it waits in a lane").to_owned();
        let entry: String = self.admin(&["XADD", &lane, "*", "id", &id, "b", "damaged"]);
        let () = self.admin(&["HSET", &index, &id, &place.replace(&whole, &entry)]);
        let _: u64 = self.admin(&["XDEL", &lane, &whole]);
    }
}
