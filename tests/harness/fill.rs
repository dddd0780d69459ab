//! Puts events into a store without a server, so that a measurement begins with waiting events.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use eventstream::broker::embedded::EmbeddedBroker;
use eventstream::broker::redis::RedisBroker;
use eventstream::broker::{AppendRequest, Broker, BrokerOptions, Lane};
use eventstream::clock;
use eventstream::event::{DEFAULT_SOURCE, DeliveryStart, Event, EventData, EventId, EventRecord};
use eventstream::shutdown::TaskGroup;

/// Events in one append.
const BATCH: usize = 500;
/// Appends in flight at a time.
const STEPS: usize = 4;

/// Events that are all alike.
#[derive(Clone, Debug)]
pub struct Filling {
    /// How many.
    pub events: usize,
    /// Their type, and the lane in which they wait: the lane of the plugin of this name.
    pub event_type: String,
    /// The payload of each, a JSON value.
    pub payload: String,
    /// When they may be delivered.
    pub start: DeliveryStart,
}

impl Filling {
    /// This many events that wait for the plugin of this name.
    pub fn new(events: usize, event_type: &str, payload_bytes: usize) -> Self {
        let payload = super::load::payload(payload_bytes);
        Self { events, event_type: event_type.to_owned(), payload, start: DeliveryStart::Now }
    }

    /// Puts them into the store of this URL, which no other process may use.
    ///
    /// # Errors
    /// The store cannot be opened, or refuses the events.
    pub fn fill(&self, url: &str) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async {
            let tasks = TaskGroup::new();
            let broker = open(url, &tasks).await?;
            self.append(broker.as_ref()).await?;
            broker.close().await?;
            drop(broker);
            tasks.stop_token().cancel();
            tasks.ended().await;
            Ok(())
        })
    }

    /// Puts them into an open store.
    ///
    /// # Errors
    /// The store refuses the events.
    pub async fn append(&self, broker: &dyn Broker) -> Result<()> {
        let lane: Lane = self.event_type.parse()?;
        let data = Some(EventData::text(self.payload.as_str()));
        let event = Event { data, ..Event::new(self.event_type.parse()?, DEFAULT_SOURCE, clock::now()) };
        let append = || AppendRequest {
            record: EventRecord::new(Event { id: EventId::new(), accepted_at: clock::now(), ..event.clone() }),
            lane: lane.clone(),
            start: self.start,
            idempotency: None,
        };
        let batch = BATCH.min(16 * 1024 * 1024 / (self.payload.len() + 1)).max(1);
        let mut left = self.events;
        while left > 0 {
            let mut steps = Vec::with_capacity(STEPS);
            while left > 0 && steps.len() < STEPS {
                let events = batch.min(left);
                left -= events;
                steps.push(broker.append((0..events).map(|_| append()).collect()));
            }
            futures_util::future::try_join_all(steps).await?;
        }
        Ok(())
    }
}

/// Opens the store of a URL without a limit of waiting events.
///
/// # Errors
/// It cannot be opened.
pub async fn open(url: &str, tasks: &TaskGroup) -> Result<Arc<dyn Broker>> {
    let options = BrokerOptions { max_waiting: u64::MAX >> 12, ..BrokerOptions::default() };
    if let Some(directory) = url.strip_prefix("embedded:") {
        let (directory, tasks) = (PathBuf::from(directory), tasks.clone());
        let opened = tokio::task::spawn_blocking(move || EmbeddedBroker::open(&directory, options, &tasks)).await?;
        return Ok(opened.context("the embedded store")?);
    }
    Ok(RedisBroker::open(url, options, tasks).await.context("the Redis store")?)
}
