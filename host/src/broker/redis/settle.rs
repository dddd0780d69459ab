//! Settles deliveries: the outcome, the published events and the acknowledgement are one step of one script.
//!
//! The script checks the receipt, writes the published events, the destination, the counters and the index, and removes
//! the entry from its lane last. The index keeps the receipt of the settle that moved an event. That receipt
//! distinguishes a repetition after a lost reply from a settle by a consumer that lost the delivery.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use super::append::EncodedEvent;
use super::client::StoreClient;
use super::codec::{self, RecordVersion};
use super::connection::{CallFailure, reply};
use super::hand_overs::HandOvers;
use super::lanes::{LaneDirectory, LanePlaces};
use super::plugin_state::StateSpaces;
use super::scripts::{ScriptCall, split_calls};
use crate::broker::{Error, Lane, Receipt, SettleOutcome, SettleRequest};
use crate::event::{FailureClass, Settlement, StateChanges};

/// The most items, published events and state keys of one call.
const MAX_WEIGHT: usize = 400;
/// The most items of one call.
const MAX_ITEMS: usize = 200;
/// Up to so many entries of a lane are looked up one by one.
const MAX_SINGLE_LOOKUPS: usize = 2;
/// How many pending entries are read for each settled one: others of this consumer lie between them.
const RANGE_SLACK: usize = 4;

/// One settle, encoded.
pub(super) struct EncodedSettle {
    pub(super) receipt: Receipt,
    pub(super) blob: Bytes,
    pub(super) settlement: Settlement,
    pub(super) lane: Lane,
    pub(super) children: Vec<EncodedEvent>,
    pub(super) state: Option<StateChanges>,
}

impl EncodedSettle {
    fn encode(settle: SettleRequest, version: RecordVersion) -> Result<Self, Error> {
        let child = |publish| EncodedEvent::encode(publish, version);
        Ok(Self {
            receipt: settle.receipt,
            blob: codec::encode(&settle.record, version)?,
            settlement: settle.settlement,
            lane: settle.lane,
            children: settle.publish.into_iter().map(child).collect::<Result<_, _>>()?,
            state: settle.state,
        })
    }

    /// True if it is processed without published events and state. The script has a short path for these.
    fn is_plain(&self) -> bool {
        self.settlement == Settlement::Processed && self.children.is_empty() && self.state.is_none()
    }

    /// Its item in the log of its lane, which names processed events: the id and the size of the record.
    fn log_item(&self) -> [u8; 20] {
        let mut item = [0; 20];
        item[..16].copy_from_slice(self.receipt.event_id.as_bytes());
        item[16..].copy_from_slice(&u32::try_from(self.blob.len()).unwrap_or(u32::MAX).to_be_bytes());
        item
    }

    fn size_bytes(&self) -> usize {
        let children: usize = self.children.iter().map(|child| child.blob.len()).sum();
        self.blob.len() + children + self.state.as_ref().map_or(0, StateChanges::size_bytes)
    }

    fn weight(&self) -> usize {
        1 + self.children.len() + self.state.as_ref().map_or(0, |state| state.expected.len() + state.writes.len())
    }
}

/// The step that settles a few items at once. It is one call of one script; tests replace it by several calls, to prove
/// that they notice the difference.
pub(super) type SettleStep = for<'a> fn(&'a DeliverySettler, &'a [EncodedSettle]) -> SettleStepFuture<'a>;

/// What a [`SettleStep`] returns: an outcome for each item, in order.
pub(super) type SettleStepFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<SettleOutcome>, CallFailure>> + Send + 'a>>;

/// Settles deliveries of this consumer.
pub(super) struct DeliverySettler {
    pub(super) client: Arc<StoreClient>,
    pub(super) lanes: Arc<LaneDirectory>,
    pub(super) hand_overs: Arc<HandOvers>,
    pub(super) step: SettleStep,
}

impl DeliverySettler {
    /// Settles a batch. An item that fails does not stop the others. A store that does not answer stops the batch.
    pub(super) async fn settle_all(&self, batch: Vec<SettleRequest>) -> Result<Vec<SettleOutcome>, Error> {
        let version = self.client.record_version();
        let encode = |settle| EncodedSettle::encode(settle, version);
        let items = batch.into_iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        let lanes = items.iter().flat_map(|item| {
            [&item.receipt.lane, &item.lane].into_iter().chain(item.children.iter().map(|child| &child.lane))
        });
        let missing = self.lanes.find_missing(lanes);
        self.lanes.make(missing).await?;
        let mut settled = Vec::with_capacity(items.len());
        let mut first_error = None;
        for chunk in chunks(&items) {
            match self.settle_chunk(chunk).await {
                Ok(answers) => settled.extend(answers),
                Err(error @ Error::Unavailable { .. }) => return Err(error),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        match first_error {
            None => Ok(settled),
            Some(error) => Err(error),
        }
    }

    /// Settles a chunk in one call. If the store refuses it, settles item by item, so that a key of another type stops only
    /// the items that need it.
    async fn settle_chunk(&self, items: &[EncodedSettle]) -> Result<Vec<SettleOutcome>, Error> {
        match (self.step)(self, items).await {
            Err(failure) if items.len() > 1 && failure.may_concern_one_item() => {
                let mut settled = Vec::with_capacity(items.len());
                let mut first_error = None;
                for item in items {
                    match (self.step)(self, std::slice::from_ref(item)).await {
                        Ok(answers) => settled.extend(answers),
                        Err(failure) if failure.may_concern_one_item() => {
                            first_error.get_or_insert(failure);
                        }
                        Err(failure) => return Err(failure.into()),
                    }
                }
                first_error.map_or(Ok(settled), |failure| Err(failure.into()))
            }
            answered => Ok(answered?),
        }
    }

    /// Settles a chunk in one step; the [`SettleStep`] of every deployment.
    pub(super) fn settle_atomically<'a>(&'a self, items: &'a [EncodedSettle]) -> SettleStepFuture<'a> {
        Box::pin(async move {
            let (call, order) = self.settle_call(items);
            let answers = reply::text(self.client.link.call_until_known(&call).await?)?;
            if answers.len() != items.len() {
                return Err(CallFailure::not_understood(
                    "Redis answered for another number of deliveries than were settled",
                ));
            }
            let mut settled = vec![SettleOutcome::Lost; items.len()];
            for (place, answer) in order.into_iter().zip(answers.bytes()) {
                settled[place] = match answer {
                    b'D' => SettleOutcome::Done,
                    b'C' => SettleOutcome::Conflict,
                    _ => SettleOutcome::Lost,
                };
                if settled[place] != SettleOutcome::Conflict {
                    self.hand_overs.remove(&items[place].receipt);
                }
            }
            Ok(settled)
        })
    }

    /// The call that settles these items, and for each item of the call its index in `items`. Plain items come first,
    /// lane by lane.
    pub(super) fn settle_call(&self, items: &[EncodedSettle]) -> (ScriptCall<'_>, Vec<usize>) {
        let mut places = LanePlaces::default();
        let sources: Vec<usize> = items.iter().map(|item| places.place_of(&item.receipt.lane)).collect();
        let n_sources = places.lanes().len();
        for item in items.iter().filter(|item| !item.is_plain()) {
            places.place_of(&item.lane);
            for child in &item.children {
                places.place_of(&child.lane);
            }
        }
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_key(|&n| if items[n].is_plain() { sources[n] } else { usize::MAX });
        let n_plain = order.partition_point(|&n| items[n].is_plain());
        let (plain, others) = order.split_at(n_plain);

        let client = &self.client;
        let mut call =
            client.script_call(&client.scripts.settle).text(&client.consumer).named_lanes(&client.keys, places.lanes());
        places.lanes()[..n_sources].iter().for_each(|lane| call.push_key(client.keys.lane_log(lane)));
        call.push_number(n_sources);
        for place in 1..=places.lanes().len() {
            let of_lane = items.iter().zip(&sources).filter(|(_, source)| **source == place).map(|(item, _)| item);
            let (first, last, max) = pending_range(of_lane).unwrap_or_default();
            call.push_text(first);
            call.push_text(last);
            call.push_number(max);
            let of_lane = items.iter().zip(&sources).filter(|(_, source)| **source == place).map(|(item, _)| item);
            call.push_number(of_lane.map(|item| self.hand_overs.size_bytes(&item.receipt)).sum::<u64>());
            let of_lane = plain.iter().filter(|&&n| sources[n] == place);
            call.push_bytes(of_lane.flat_map(|&n| items[n].log_item()).collect::<Vec<u8>>());
        }
        let spaces = StateSpaces::of(items.iter().filter_map(|item| item.state.as_ref()));
        spaces.push(&client.keys, &mut call);
        let mut by_lane = plain.chunk_by(|a, b| sources[*a] == sources[*b]).peekable();
        for place in 1..=places.lanes().len() {
            let of_lane = by_lane.next_if(|chunk| sources[chunk[0]] == place).unwrap_or_default();
            call.push_number(of_lane.len());
            for item in of_lane.iter().map(|&n| &items[n]) {
                call.push_text(&item.receipt.entry);
                call.push_number(item.receipt.deliveries);
                call.push_display(item.receipt.event_id);
                call.push_bytes(receipt_token(&client.consumer, &item.receipt));
                call.push_bytes(&item.blob);
            }
        }
        call.push_number(others.len());
        for &n in others {
            let item = &items[n];
            let (verb, delay_ms, class) = settlement_words(&item.settlement);
            call.push_number(sources[n]);
            call.push_text(&item.receipt.entry);
            call.push_number(item.receipt.deliveries);
            call.push_display(item.receipt.event_id);
            call.push_bytes(receipt_token(&client.consumer, &item.receipt));
            call.push_text(verb);
            call.push_bytes(&item.blob);
            call.push_number(delay_ms);
            call.push_number(places.place_of(&item.lane));
            match item.settlement {
                Settlement::Processed => call.push_bytes(item.log_item()),
                _ => call.push_text(class.map_or("", FailureClass::as_str)),
            }
            call.push_number(item.children.len());
            for child in &item.children {
                call.push_text(&child.id.to_string());
                call.push_number(places.place_of(&child.lane));
                child.push_start(&mut call);
                call.push_bytes(child.blob.clone());
            }
            spaces.push_step(&mut call, item.state.as_ref());
        }
        (call, order)
    }
}

/// The first and the last settled entry of one lane, and how many pending entries to read between them. `None` for a few
/// entries, which are looked up one by one.
fn pending_range<'a>(of_lane: impl Iterator<Item = &'a EncodedSettle>) -> Option<(&'a str, &'a str, usize)> {
    let entries = of_lane.map(|item| item.receipt.entry.as_str());
    let placed: Vec<_> = entries.filter_map(|entry| Some((entry_position(entry)?, entry))).collect();
    let ((_, first), (_, last)) = (*placed.iter().min()?, *placed.iter().max()?);
    (placed.len() > MAX_SINGLE_LOOKUPS).then_some((first, last, RANGE_SLACK * placed.len()))
}

/// The name of an entry as numbers, which sort in the order of the stream.
fn entry_position(entry: &str) -> Option<(u64, u64)> {
    let (ms, number) = entry.split_once('-')?;
    Some((ms.parse().ok()?, number.parse().ok()?))
}

/// What the index keeps of a receipt. Only this process compares it, so a hash is enough.
fn receipt_token(consumer: &str, receipt: &Receipt) -> [u8; 8] {
    let mut hasher = DefaultHasher::new();
    (consumer, &receipt.entry, receipt.deliveries).hash(&mut hasher);
    hasher.finish().to_le_bytes()
}

/// A settlement as the script reads it: verb, delay and class.
fn settlement_words(settlement: &Settlement) -> (&'static str, u64, Option<FailureClass>) {
    match settlement {
        Settlement::Processed => ("ok", 0, None),
        Settlement::Retry { class, delay_ms } => ("retry", *delay_ms, Some(*class)),
        Settlement::Deferred { delay_ms } => ("later", *delay_ms, None),
        Settlement::Failed { class, .. } => ("failed", 0, Some(*class)),
        Settlement::Returned => ("back", 0, None),
    }
}

/// Splits a batch into calls that do not block Redis for long.
fn chunks(items: &[EncodedSettle]) -> Vec<&[EncodedSettle]> {
    let limits = [MAX_ITEMS, MAX_WEIGHT, ScriptCall::MAX_BYTES];
    split_calls(items, limits, |item| [1, item.weight(), item.size_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::AppendRequest;
    use crate::event::{DeliveryStart, Event, EventRecord, StateWrite, Timestamp};

    fn item(n_children: usize) -> EncodedSettle {
        let event = Event::new("a".parse().unwrap(), "/events", Timestamp::from_unix_ms(0));
        let record = EventRecord::new(event);
        let child = AppendRequest {
            record: record.clone(),
            lane: Lane::unrouted(),
            start: DeliveryStart::Now,
            idempotency: None,
        };
        let receipt = Receipt { event_id: record.event.id, lane: Lane::unrouted(), entry: "1-0".into(), deliveries: 1 };
        let settlement = Settlement::Processed;
        let publish = vec![child; n_children];
        let settle = SettleRequest { receipt, record, settlement, lane: Lane::unrouted(), publish, state: None };
        EncodedSettle::encode(settle, RecordVersion::Binary).unwrap()
    }

    #[test]
    fn batches_are_split_by_items_and_published_events() {
        let sizes = |items: Vec<EncodedSettle>| chunks(&items).iter().map(|chunk| chunk.len()).collect::<Vec<_>>();
        assert_eq!(sizes(Vec::new()), [0_usize; 0]);
        assert_eq!(sizes((0..250).map(|_| item(0)).collect()), [200, 50]);
        assert_eq!(sizes((0..4).map(|_| item(199)).collect()), [2, 2]);
        assert_eq!(sizes(vec![item(0), item(500), item(0)]), [1, 1, 1]);
    }

    #[test]
    fn batches_are_split_by_bytes_with_at_least_one_item() {
        let sized = |blob: usize, child: usize, value: usize| {
            let mut item = item(usize::from(child > 0));
            item.blob = vec![0; blob].into();
            item.children.iter_mut().for_each(|made| made.blob = vec![0; child].into());
            item.state = (value > 0).then(|| {
                let writes = vec![("k".into(), StateWrite::Set { value: vec![0; value].into(), ttl_ms: None })];
                StateChanges { plugin: "a".into(), expected: Vec::new(), writes }
            });
            item
        };
        const THIRD: usize = ScriptCall::MAX_BYTES / 3 - 100;
        for (blob, child, value) in [(THIRD, 0, 0), (0, THIRD, 0), (0, 0, THIRD)] {
            let items: Vec<EncodedSettle> = (0..7).map(|_| sized(blob, child, value)).collect();
            let chunks = chunks(&items);
            assert_eq!(chunks.iter().map(|chunk| chunk.len()).collect::<Vec<_>>(), [3, 3, 1]);
            let order: Vec<_> = chunks.iter().copied().flatten().map(|item| item.receipt.event_id).collect();
            assert_eq!(
                order,
                items.iter().map(|item| item.receipt.event_id).collect::<Vec<_>>(),
                "in the order of the request"
            );
        }
        let large = [sized(10, 0, 0), sized(ScriptCall::MAX_BYTES + 1, 0, 0), sized(10, 0, 0), sized(10, 0, 0)];
        assert_eq!(chunks(&large).iter().map(|chunk| chunk.len()).collect::<Vec<_>>(), [1, 1, 2]);
    }
}
