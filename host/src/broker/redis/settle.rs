//! Ending attempts: what becomes of the event, what it published and the acknowledgement are one step of one script.
//!
//! The script checks the receipt, writes the counters, the published events, the destination and the index, and takes
//! the entry from its lane last. The index keeps the receipt of the settle that put an event where it is, so that a
//! repetition after a lost answer is told from a settle by a consumer that lost the delivery.

use super::append::EncodedEvent;
use super::codec;
use super::core::{LanePlaces, RedisCore};
use super::kept::StateSpaces;
use super::reply;
use super::scripts::ScriptCall;
use crate::broker::{Error, Lane, Receipt, SettleOutcome, SettleRequest};
use crate::event::{FailureClass, Settlement, StateStep};
use bytes::Bytes;

/// Items, published events and touched state of one call.
const MAX_WEIGHT: usize = 400;
/// Items of one call.
const MAX_ITEMS: usize = 200;
/// Bytes of one call, but for a single larger item: on the connection that all share, a call has to be sent and carried out
/// long before its answer counts as lost.
pub(super) const MAX_CALL_BYTES: usize = 2 * 1_024 * 1_024;
/// So many entries of a lane are asked for one by one.
const FEW: usize = 2;
/// How many entries are looked at for each one that is wanted: others that are held stand among them.
const RANGE_SLACK: usize = 4;

/// One settle, encoded.
pub(super) struct EncodedSettle {
    pub(super) receipt: Receipt,
    pub(super) blob: Bytes,
    pub(super) settlement: Settlement,
    pub(super) lane: Lane,
    pub(super) children: Vec<EncodedEvent>,
    pub(super) state: Option<StateStep>,
}

impl EncodedSettle {
    fn encode(settle: SettleRequest) -> Result<Self, Error> {
        Ok(Self {
            receipt: settle.receipt,
            blob: codec::encode(&settle.record).map_err(|error| Error::Misconfigured(error.to_string()))?,
            settlement: settle.settlement,
            lane: settle.lane,
            children: settle.publish.into_iter().map(EncodedEvent::encode).collect::<Result<_, _>>()?,
            state: settle.state,
        })
    }

    /// Whether it is processed and has nothing beside: no published events, no state.
    fn is_plain(&self) -> bool {
        self.settlement == Settlement::Processed && self.children.is_empty() && self.state.is_none()
    }

    fn size_bytes(&self) -> usize {
        let children: usize = self.children.iter().map(|child| child.blob.len()).sum();
        self.blob.len() + children + self.state.as_ref().map_or(0, StateStep::size_bytes)
    }

    fn weight(&self) -> usize {
        1 + self.children.len() + self.state.as_ref().map_or(0, |state| state.expected.len() + state.writes.len())
    }
}

impl RedisCore {
    /// Ends attempts; see [`crate::broker::WorkQueue::settle`]. Every item is tried, also when another one fails; but when Redis
    /// does not answer, the rest would only wait for it in turn.
    pub(super) async fn settle_all(&self, batch: Vec<SettleRequest>) -> Result<Vec<SettleOutcome>, Error> {
        let items = batch.into_iter().map(EncodedSettle::encode).collect::<Result<Vec<_>, _>>()?;
        let lanes = items.iter().flat_map(|item| {
            [&item.receipt.lane, &item.lane].into_iter().chain(item.children.iter().map(|child| &child.lane))
        });
        let missing = self.missing_lanes(lanes);
        self.make_lanes(missing).await?;
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

    /// One chunk in one call. If the store does not take it, one by one, so that a key that holds something else stops
    /// only those that need it.
    async fn settle_chunk(&self, items: &[EncodedSettle]) -> Result<Vec<SettleOutcome>, Error> {
        match self.settle_once(items).await {
            Err(failure) if items.len() > 1 && failure.may_be_one_of_several() => {
                let mut settled = Vec::with_capacity(items.len());
                let mut first_error = None;
                for item in items {
                    match self.settle_once(std::slice::from_ref(item)).await {
                        Ok(answers) => settled.extend(answers),
                        Err(failure) if failure.may_be_one_of_several() => {
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

    async fn settle_once(&self, items: &[EncodedSettle]) -> Result<Vec<SettleOutcome>, super::fault::CallFailure> {
        #[cfg(feature = "test-util")]
        if let Some(mutant) = self.mutant
            && let Some(answers) = mutant.settle(self, items).await
        {
            return answers;
        }
        let (call, order) = self.settle_call(items);
        let answers = reply::text(self.link.repeat(&call).await?)?;
        if answers.len() != items.len() {
            return Err(super::fault::CallFailure::not_understood("Redis answered another number of settles"));
        }
        let mut settled = vec![SettleOutcome::Lost; items.len()];
        for (place, answer) in order.into_iter().zip(answers.bytes()) {
            settled[place] = match answer {
                b'D' => SettleOutcome::Done,
                b'C' => SettleOutcome::Conflict,
                _ => SettleOutcome::Lost,
            };
            if settled[place] != SettleOutcome::Conflict {
                self.held.remove(&items[place].receipt);
            }
        }
        Ok(settled)
    }

    /// The call that settles these items, and where in them each item of the call stands: the plain ones come first, lane by
    /// lane, since the script has a short way for them.
    pub(super) fn settle_call(&self, items: &[EncodedSettle]) -> (ScriptCall<'_>, Vec<usize>) {
        let mut places = LanePlaces::default();
        let sources: Vec<usize> = items.iter().map(|item| places.of(&item.receipt.lane)).collect();
        for item in items.iter().filter(|item| !item.is_plain()) {
            places.of(&item.lane);
            for child in &item.children {
                places.of(&child.lane);
            }
        }
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_key(|&n| if items[n].is_plain() { sources[n] } else { usize::MAX });
        let n_plain = order.partition_point(|&n| items[n].is_plain());
        let (plain, others) = order.split_at(n_plain);

        let mut call = self.script(&self.scripts.settle).text(&self.consumer).named_lanes(&self.keys, places.lanes());
        for place in 1..=places.lanes().len() {
            let of_lane = items.iter().zip(&sources).filter(|(_, source)| **source == place).map(|(item, _)| item);
            let (first, last, most) = range(of_lane).unwrap_or_default();
            call.push_text(first);
            call.push_text(last);
            call.push_number(most);
            let of_lane = items.iter().zip(&sources).filter(|(_, source)| **source == place).map(|(item, _)| item);
            call.push_number(of_lane.map(|item| self.held.size_bytes(&item.receipt)).sum::<u64>());
        }
        let spaces = StateSpaces::of(items.iter().filter_map(|item| item.state.as_ref()));
        spaces.push(self, &mut call);
        let mut by_lane = plain.chunk_by(|a, b| sources[*a] == sources[*b]).peekable();
        for place in 1..=places.lanes().len() {
            let of_lane = by_lane.next_if(|chunk| sources[chunk[0]] == place).unwrap_or_default();
            call.push_number(of_lane.len());
            for item in of_lane.iter().map(|&n| &items[n]) {
                call.push_text(&item.receipt.entry);
                call.push_number(item.receipt.deliveries);
                call.push_shown(item.receipt.event_id);
                call.push_bytes(&item.blob);
            }
        }
        call.push_number(others.len());
        for &n in others {
            let item = &items[n];
            let (verb, delay_ms, class) = verb_of(&item.settlement);
            call.push_number(sources[n]);
            call.push_text(&item.receipt.entry);
            call.push_number(item.receipt.deliveries);
            call.push_shown(item.receipt.event_id);
            call.push_text(verb);
            call.push_bytes(&item.blob);
            call.push_number(delay_ms);
            call.push_number(places.of(&item.lane));
            call.push_text(class.map_or("", FailureClass::as_str));
            call.push_number(item.children.len());
            for child in &item.children {
                call.push_text(&child.id.to_string());
                call.push_number(places.of(&child.lane));
                child.push_start(&mut call);
                call.push_bytes(child.blob.clone());
            }
            spaces.push_step(&mut call, item.state.as_ref());
        }
        (call, order)
    }
}

/// The first and the last entry of what is settled of one lane, and how many are to be looked at between them; `None` for a
/// few, which are asked for one by one.
fn range<'a>(of_lane: impl Iterator<Item = &'a EncodedSettle>) -> Option<(&'a str, &'a str, usize)> {
    let entries = of_lane.map(|item| item.receipt.entry.as_str());
    let placed: Vec<_> = entries.filter_map(|entry| Some((place_of(entry)?, entry))).collect();
    let ((_, first), (_, last)) = (*placed.iter().min()?, *placed.iter().max()?);
    (placed.len() > FEW).then_some((first, last, RANGE_SLACK * placed.len()))
}

/// Where an entry stands in its stream.
fn place_of(entry: &str) -> Option<(u64, u64)> {
    let (ms, number) = entry.split_once('-')?;
    Some((ms.parse().ok()?, number.parse().ok()?))
}

/// A settlement as the script reads it: verb, pause and class.
fn verb_of(settlement: &Settlement) -> (&'static str, u64, Option<FailureClass>) {
    match settlement {
        Settlement::Processed => ("ok", 0, None),
        Settlement::Retry { class, delay_ms } => ("retry", *delay_ms, Some(*class)),
        Settlement::Deferred { delay_ms } => ("later", *delay_ms, None),
        Settlement::Failed { class, .. } => ("failed", 0, Some(*class)),
        Settlement::Returned => ("back", 0, None),
    }
}

/// Cuts a batch into calls that do not hold up Redis.
fn chunks(items: &[EncodedSettle]) -> Vec<&[EncodedSettle]> {
    let mut chunks = Vec::new();
    let (mut start, mut weight, mut size_bytes) = (0, 0, 0);
    for (place, item) in items.iter().enumerate() {
        let is_full = weight + item.weight() > MAX_WEIGHT
            || size_bytes + item.size_bytes() > MAX_CALL_BYTES
            || place - start >= MAX_ITEMS;
        if place > start && is_full {
            chunks.push(&items[start..place]);
            (start, weight, size_bytes) = (place, 0, 0);
        }
        weight += item.weight();
        size_bytes += item.size_bytes();
    }
    if start < items.len() {
        chunks.push(&items[start..]);
    }
    chunks
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
        EncodedSettle::encode(SettleRequest {
            receipt,
            record,
            settlement,
            lane: Lane::unrouted(),
            publish,
            state: None,
        })
        .unwrap()
    }

    #[test]
    fn batches_are_cut_by_items_and_by_what_they_publish() {
        let sizes = |items: Vec<EncodedSettle>| chunks(&items).iter().map(|chunk| chunk.len()).collect::<Vec<_>>();
        assert_eq!(sizes(Vec::new()), [0_usize; 0]);
        assert_eq!(sizes((0..250).map(|_| item(0)).collect()), [200, 50]);
        assert_eq!(sizes((0..4).map(|_| item(199)).collect()), [2, 2]);
        assert_eq!(sizes(vec![item(0), item(500), item(0)]), [1, 1, 1]);
    }

    #[test]
    fn batches_are_cut_by_bytes_with_one_item_at_least() {
        let sized = |blob: usize, child: usize, value: usize| {
            let mut item = item(usize::from(child > 0));
            item.blob = vec![0; blob].into();
            item.children.iter_mut().for_each(|made| made.blob = vec![0; child].into());
            item.state = (value > 0).then(|| {
                let writes = vec![("k".into(), StateWrite::Set { value: vec![0; value].into(), ttl_ms: None })];
                StateStep { plugin: "a".into(), expected: Vec::new(), writes }
            });
            item
        };
        const THIRD: usize = MAX_CALL_BYTES / 3 - 100;
        for (blob, child, value) in [(THIRD, 0, 0), (0, THIRD, 0), (0, 0, THIRD)] {
            let items: Vec<EncodedSettle> = (0..7).map(|_| sized(blob, child, value)).collect();
            let chunks = chunks(&items);
            assert_eq!(chunks.iter().map(|chunk| chunk.len()).collect::<Vec<_>>(), [3, 3, 1]);
            let order: Vec<_> = chunks.iter().copied().flatten().map(|item| item.receipt.event_id).collect();
            assert_eq!(order, items.iter().map(|item| item.receipt.event_id).collect::<Vec<_>>(), "in the order asked");
        }
        let large = [sized(10, 0, 0), sized(MAX_CALL_BYTES + 1, 0, 0), sized(10, 0, 0), sized(10, 0, 0)];
        assert_eq!(chunks(&large).iter().map(|chunk| chunk.len()).collect::<Vec<_>>(), [1, 1, 2]);
    }
}
