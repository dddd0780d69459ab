//! A load on a broker: producers, consumers with every kind of outcome, and upkeep. It writes a line for each
//! acknowledgement.
//!
//! An audit starts from the lines. A line is written only after the answer, so what it says must hold whatever happens
//! afterwards.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use eventstream::broker::{
    AppendRequest, Broker, ClaimRequest, Delivery, Error, Lane, LaneDemand, SettleOutcome, SettleRequest,
};
use eventstream::clock;
use eventstream::event::{
    DeliveryStart, Event, EventData, EventId, EventRecord, FailureClass, Idempotency, Settlement,
};

/// The lanes that the load uses.
const LANES: [&str; 3] = ["a", "b", "_"];

/// What the broker acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ack {
    /// These were accepted together.
    Accepted(Vec<EventId>),
    /// This was processed and published those.
    Processed(EventId, Vec<EventId>),
    /// This failed.
    Failed(EventId),
}

impl fmt::Display for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, ids) = match self {
            Self::Accepted(ids) => ("accepted", ids.clone()),
            Self::Processed(id, children) => ("processed", [&[*id], &children[..]].concat()),
            Self::Failed(id) => ("failed", vec![*id]),
        };
        write!(f, "{word}")?;
        ids.iter().try_for_each(|id| write!(f, " {id}"))
    }
}

impl FromStr for Ack {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let mut words = line.split(' ');
        let word = words.next().unwrap_or_default();
        let ids = words.map(|id| Ok(id.parse()?)).collect::<anyhow::Result<Vec<EventId>>>()?;
        match (word, &ids[..]) {
            ("accepted", _) => Ok(Self::Accepted(ids)),
            ("processed", [id, children @ ..]) => Ok(Self::Processed(*id, children.to_vec())),
            ("failed", [id]) => Ok(Self::Failed(*id)),
            _ => anyhow::bail!("not a line of a load: {line:?}"),
        }
    }
}

fn lane(name: &str) -> Lane {
    name.parse().unwrap()
}

/// An event of random size for a random lane.
pub fn new_append(cause: Option<EventId>) -> AppendRequest {
    let size = if fastrand::u8(..16) == 0 { 9_000 } else { fastrand::usize(..600) };
    let event = Event {
        cause,
        data: Some(EventData::binary(vec![fastrand::u8(..); size])),
        ..Event::new("load".parse().unwrap(), "/load", clock::now())
    };
    let start = if fastrand::u8(..8) == 0 { DeliveryStart::InMs(3) } else { DeliveryStart::Now };
    let lane = lane(LANES[fastrand::usize(..LANES.len())]);
    AppendRequest { record: EventRecord::new(event), lane, start, idempotency: None }
}

/// Runs the load until `stop` is set. A thread that sees the broker fail ends earlier.
pub async fn run(broker: Arc<dyn Broker>, stop: Arc<AtomicBool>, ack: impl Fn(Ack) + Clone) {
    let produce = || produce(broker.clone(), stop.clone(), ack.clone());
    let consume = || consume(broker.clone(), stop.clone(), ack.clone());
    tokio::join!(produce(), produce(), produce(), consume(), consume(), run_upkeep(broker.clone(), stop.clone()));
}

async fn produce(broker: Arc<dyn Broker>, stop: Arc<AtomicBool>, ack: impl Fn(Ack)) {
    while !stop.load(Ordering::Relaxed) {
        let mut batch: Vec<AppendRequest> = (0..fastrand::usize(1..6)).map(|_| new_append(None)).collect();
        batch[0].idempotency = Some(Idempotency {
            key: fastrand::u128(..).to_le_bytes().repeat(2).try_into().unwrap(),
            fingerprint: [0; 32],
        });
        match broker.append(batch.clone()).await {
            Ok(accepted) => ack(Ack::Accepted(accepted.iter().map(|it| it.id).collect())),
            Err(Error::NoRoom(_) | Error::Full { .. }) => {
                tokio::task::yield_now().await;
            }
            Err(_) => return,
        }
    }
}

async fn consume(broker: Arc<dyn Broker>, stop: Arc<AtomicBool>, ack: impl Fn(Ack)) {
    while !stop.load(Ordering::Relaxed) {
        let mut deliveries = match broker.claim(claim_any(8)).await {
            Ok(deliveries) => deliveries,
            Err(Error::NoRoom(_)) => continue,
            Err(_) => return,
        };
        deliveries.extend(broker.recover(2).await.unwrap_or_default());
        if deliveries.is_empty() {
            tokio::task::yield_now().await;
            continue;
        }
        let settles: Vec<SettleRequest> = deliveries.into_iter().filter_map(choose_outcome).collect();
        match broker.settle(settles.clone()).await {
            Ok(settled) => {
                for (settle, settled) in settles.iter().zip(settled) {
                    assert_eq!(settled, SettleOutcome::Done, "nobody else holds it");
                    acknowledgement_of(settle).into_iter().for_each(&ack);
                }
            }
            Err(Error::NoRoom(_)) => {}
            Err(_) => return,
        }
    }
}

/// A claim of deliveries of all lanes of the load.
pub fn claim_any(max: usize) -> ClaimRequest {
    ClaimRequest { lanes: LANES.map(|name| LaneDemand { lane: lane(name), free: max }).to_vec(), max }
}

async fn run_upkeep(broker: Arc<dyn Broker>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        if !matches!(broker.promote().await, Ok(_) | Err(Error::NoRoom(_))) {
            return;
        }
        // On a full disk upkeep fails, and the next round tries again.
        let _ = broker.maintain().await;
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

/// The outcome of a delivery. `None` if it is held and never settled.
fn choose_outcome(delivery: Delivery) -> Option<SettleRequest> {
    let settlement = match fastrand::u8(..20) {
        0..=11 => Settlement::Processed,
        12..=14 => Settlement::Failed { class: FailureClass::Reject, reason: "no".into() },
        15..=17 => Settlement::Retry { class: FailureClass::Retry, delay_ms: 1 },
        18 => Settlement::Returned,
        _ => return None,
    };
    let id = delivery.record.event.id;
    let is_processed = settlement == Settlement::Processed;
    // Children have no children, or the load would never end.
    let children = if is_processed && delivery.record.event.cause.is_none() { fastrand::usize(..3) } else { 0 };
    Some(settle_as(delivery, settlement, None, (0..children).map(|_| new_append(Some(id))).collect()))
}

/// The request that settles a delivery as processed, without published events.
pub fn processed(delivery: Delivery, result: Option<EventData>) -> SettleRequest {
    settle_as(delivery, Settlement::Processed, result, Vec::new())
}

fn settle_as(
    delivery: Delivery,
    settlement: Settlement,
    result: Option<EventData>,
    publish: Vec<AppendRequest>,
) -> SettleRequest {
    let attempt = eventstream::event::AttemptRecord {
        attempt: delivery.attempt(),
        replay: 0,
        started_at: clock::now(),
        duration_ms: 0.5,
        class: None,
        error: None,
        backtrace: None,
        retry_in_ms: None,
        consumer: "load".into(),
        plugin: None,
        digest: None,
        stderr: None,
        log: Vec::new(),
        log_lines_dropped: 0,
    };
    let ids = publish.iter().map(|child| child.record.event.id).collect();
    let record = delivery.record.with_attempt(attempt, &settlement, clock::now(), result, ids);
    SettleRequest {
        lane: delivery.receipt.lane.clone(),
        receipt: delivery.receipt,
        record,
        settlement,
        publish,
        state: None,
    }
}

fn acknowledgement_of(settle: &SettleRequest) -> Option<Ack> {
    let id = settle.receipt.event_id;
    match settle.settlement {
        Settlement::Processed => {
            Some(Ack::Processed(id, settle.publish.iter().map(|child| child.record.event.id).collect()))
        }
        Settlement::Failed { .. } => Some(Ack::Failed(id)),
        Settlement::Retry { .. } | Settlement::Deferred { .. } | Settlement::Returned => None,
    }
}
