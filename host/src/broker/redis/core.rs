//! What all parts of the Redis broker share: the connection, the names, the lanes and what was handed out.
//!
//! The set of lanes lives in Redis, and this is a copy of it. ScriptSet that need every lane are given the size of the
//! copy and refuse when it is not the size of the set, so that a lane which another host made a moment ago is not
//! overlooked.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use redis::Value;
use tokio::sync::Notify;

use super::board::{TroubleBoard, TroubleKind, told};
use super::fault::CallFailure;
use super::identity::{PeerTable, ProcessIdentity};
use super::keys::ShardKeys;
use super::link::RedisLink;
#[cfg(feature = "test-util")]
use super::mutant::BrokerMutant;
use super::neighbors::{NeighborCoverage, OwnCoverage};
use super::recover::SuspectList;
use super::reply::{self, RedisReply};
use super::scripts::{Script, ScriptCall, ScriptSet};
use super::{BrokerOptions, RedisTuning};
use crate::broker::list_limiter::ListLimiter;
use crate::broker::{Lane, LaneLimits, PeerCoverage, Receipt};

/// How often a call is repeated because lanes appeared in between.
const LANE_TRIES: usize = 4;

/// What one plugin may take of the memory of Redis: one part in so many.
const SHARE_PART: u64 = 8;

/// The most entries of a newer version that are remembered; past them, one is looked at again after each lease.
const MAX_LEFT_ALONE: usize = 10_000;

/// The shared parts.
pub(super) struct RedisCore {
    pub(super) options: BrokerOptions,
    pub(super) tuning: RedisTuning,
    /// How much may wait; set anew when plugins change.
    pub(super) limits: ArcSwap<LaneLimits>,
    /// The lanes of which more bytes wait than may, as of a second ago, and how many.
    pub(super) heavy: ArcSwap<BTreeMap<Lane, u64>>,
    /// The memory that Redis may use; 0 if it is not known.
    pub(super) memory_bytes: AtomicU64,
    pub(super) keys: ShardKeys,
    pub(super) scripts: ScriptSet,
    pub(super) link: RedisLink,
    pub(super) consumer: String,
    pub(super) identity: ProcessIdentity,
    pub(super) held: Holdings,
    pub(super) suspects: Mutex<SuspectList>,
    pub(super) peers: Mutex<PeerTable>,
    pub(super) peers_seen_at: Mutex<Option<Instant>>,
    pub(super) serving: ArcSwap<OwnCoverage>,
    pub(super) neighbors: Mutex<NeighborCoverage>,
    pub(super) elsewhere: ArcSwap<PeerCoverage>,
    /// The epoch of the store that is worked with.
    pub(super) epoch: ArcSwap<String>,
    /// The most events that the store ever said it had accepted.
    pub(super) accepted_seen: AtomicU64,
    /// Told when there is reason to look at the store before the time.
    pub(super) look: Notify,
    /// How many lists are read at the same time.
    pub(super) lists: ListLimiter,
    book: ArcSwap<KnownLanes>,
    #[cfg(feature = "test-util")]
    pub(super) mutant: Option<BrokerMutant>,
}

/// The lanes that were there when it was last asked.
#[derive(Debug, Default)]
pub(super) struct KnownLanes {
    /// In the order of their names.
    pub(super) lanes: Vec<Lane>,
    /// The size of the set, which may hold what is not the name of a lane.
    pub(super) set_size: usize,
    /// The lanes whose keys hold something else.
    misplaced: BTreeSet<Lane>,
}

impl KnownLanes {
    /// Whether the key of this lane was found to hold something else.
    pub(super) fn is_misplaced(&self, lane: &Lane) -> bool {
        self.misplaced.contains(lane)
    }

    /// The place of the lane for events that no plugin handles, counted from 1 as scripts do.
    pub(super) fn unrouted_place(&self) -> usize {
        let unrouted = Lane::unrouted();
        self.lanes.iter().position(|lane| *lane == unrouted).map_or(1, |place| place + 1)
    }
}

/// How the shared parts are put together.
pub(super) struct CoreParts {
    pub(super) options: BrokerOptions,
    pub(super) tuning: RedisTuning,
    pub(super) scripts: ScriptSet,
    pub(super) link: RedisLink,
    #[cfg(feature = "test-util")]
    pub(super) mutant: Option<BrokerMutant>,
}

impl RedisCore {
    pub(super) fn new(parts: CoreParts) -> Self {
        Self {
            keys: ShardKeys::new(&parts.options.namespace),
            consumer: super::identity::consumer_name(&parts.options.consumer_name),
            identity: ProcessIdentity::own(),
            limits: ArcSwap::from_pointee(LaneLimits::new(parts.options.max_waiting, BTreeMap::new())),
            heavy: ArcSwap::default(),
            memory_bytes: AtomicU64::new(0),
            options: parts.options,
            tuning: parts.tuning,
            scripts: parts.scripts,
            link: parts.link,
            held: Holdings::default(),
            suspects: Mutex::default(),
            peers: Mutex::default(),
            peers_seen_at: Mutex::default(),
            serving: ArcSwap::default(),
            neighbors: Mutex::default(),
            elsewhere: ArcSwap::default(),
            epoch: ArcSwap::default(),
            accepted_seen: AtomicU64::new(0),
            look: Notify::new(),
            lists: ListLimiter::default(),
            book: ArcSwap::default(),
            #[cfg(feature = "test-util")]
            mutant: parts.mutant,
        }
    }

    /// What one plugin may take of the memory of Redis at most.
    fn share_bytes(&self) -> u64 {
        match self.memory_bytes.load(Ordering::Relaxed) {
            0 => u64::MAX,
            all => all / SHARE_PART,
        }
    }

    /// The most bytes that the state of one plugin may take; `None` if Redis does not say how much memory it has.
    pub(super) fn state_room_bytes(&self) -> Option<u64> {
        Some(self.share_bytes()).filter(|share_bytes| *share_bytes < u64::MAX)
    }

    /// The most bytes of one lane that may wait.
    pub(super) fn max_lane_bytes(&self) -> u64 {
        self.options.max_waiting_bytes.min(self.share_bytes())
    }

    /// The most bytes of processed events that are kept.
    pub(super) fn max_kept_bytes(&self) -> u64 {
        self.options.retention.processed_max_bytes.min(self.share_bytes().saturating_mul(2))
    }

    pub(super) fn board(&self) -> &TroubleBoard {
        &self.link.line().board
    }

    /// A call of a script, to be filled in.
    pub(super) fn script<'a>(&self, script: &'a Script) -> ScriptCall<'a> {
        ScriptCall::new(script, &self.keys)
    }

    /// The lanes as they were known last.
    pub(super) fn book(&self) -> Arc<KnownLanes> {
        self.book.load_full()
    }

    /// Makes the lanes that are missing, here and in the store, and learns of those that others made. A lane whose key holds
    /// something else is told of and is no failure.
    pub(super) async fn refresh_lanes(&self, wanted: &[Lane]) -> Result<(), CallFailure> {
        let known = self.book();
        let all: BTreeSet<&Lane> = known.lanes.iter().chain(wanted).collect();
        let mut call = self.script(&self.scripts.lanes).lane_keys(&self.keys, all.iter().copied());
        for lane in all {
            call.push_text(lane.as_str());
        }
        let [members, wrong] = reply::tuple(self.link.call(&call).await?)?;
        let misplaced = self.note_misplaced(reply::array(wrong)?)?;
        if misplaced.is_empty() && !known.misplaced.is_empty() {
            self.look.notify_one();
        }
        let members = reply::array(members)?;
        let set_size = members.len();
        let names = members.into_iter().map(reply::text).collect::<Result<Vec<_>, _>>()?;
        let lanes: BTreeSet<Lane> = names.iter().filter_map(|name| name.parse().ok()).collect();
        self.book.store(Arc::new(KnownLanes { lanes: lanes.into_iter().collect(), set_size, misplaced }));
        Ok(())
    }

    /// Learns of the lanes that others made. Writes nothing, so that what only reads works where Redis refuses writes.
    async fn learn_lanes(&self) -> Result<(), CallFailure> {
        let mut ask = redis::cmd("SMEMBERS");
        ask.arg(self.keys.lanes().as_ref());
        let members = reply::array(self.link.command(&ask).await?)?;
        let set_size = members.len();
        let names = members.into_iter().map(reply::text).collect::<Result<Vec<_>, _>>()?;
        let known = self.book();
        let found = names.iter().filter_map(|name| name.parse().ok());
        let lanes: BTreeSet<Lane> = known.lanes.iter().cloned().chain(found).collect();
        let misplaced = known.misplaced.clone();
        self.book.store(Arc::new(KnownLanes { lanes: lanes.into_iter().collect(), set_size, misplaced }));
        Ok(())
    }

    /// Puts up what is wrong with lanes, each behind the words about it; answers which they are.
    fn note_misplaced(&self, wrong: Vec<Value>) -> Result<BTreeSet<Lane>, CallFailure> {
        let (mut all_words, mut lanes) = (Vec::new(), BTreeSet::new());
        for each in wrong {
            let [words, name] = reply::tuple(each)?;
            all_words.push(reply::text(words)?);
            lanes.extend(reply::text(name)?.parse::<Lane>());
        }
        if let Some(words) = told(all_words) {
            self.board().raise(TroubleKind::Misplaced, words);
        }
        Ok(lanes)
    }

    /// Those of the lanes that are not known to exist; usually none.
    pub(super) fn missing_lanes<'l>(&self, lanes: impl IntoIterator<Item = &'l Lane>) -> Vec<Lane> {
        let book = self.book();
        let missing: BTreeSet<&Lane> =
            lanes.into_iter().filter(|lane| book.lanes.binary_search(lane).is_err()).collect();
        missing.into_iter().cloned().collect()
    }

    /// Makes lanes; costs nothing when there are none to make.
    pub(super) async fn make_lanes(&self, missing: Vec<Lane>) -> Result<(), CallFailure> {
        if missing.is_empty() { Ok(()) } else { self.refresh_lanes(&missing).await }
    }

    /// Calls a script that needs every lane, again with the lanes that appeared in between. Answers with the lanes that
    /// the call had in the end.
    pub(super) async fn with_all_lanes<'a>(
        &self,
        make: impl Fn(&KnownLanes) -> ScriptCall<'a>,
    ) -> Result<(Arc<KnownLanes>, RedisReply), CallFailure> {
        for _ in 0..LANE_TRIES {
            let book = self.book();
            let answer = self.link.call(&make(&book)).await?;
            if !asks_for_lanes(&answer) {
                return Ok((book, answer));
            }
            self.learn_lanes().await?;
        }
        Err(CallFailure::unreachable("the lanes change faster than they can be read"))
    }
}

/// Whether the script refused since a lane was missing from the call.
pub(super) fn asks_for_lanes(answer: &RedisReply) -> bool {
    let is_word = |value: &Value| matches!(value, Value::BulkString(word) if word == b"LANES");
    match answer {
        Value::Array(items) => items.first().is_some_and(is_word),
        value => is_word(value),
    }
}

/// The deliveries that were handed out and have not ended, as far as this process knows.
///
/// What is pending for this consumer in the store and does not stand here was never seen: its answer was lost.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    deliveries: Mutex<HashMap<(Lane, String), HandOver>>,
    left_alone: Mutex<HashSet<(Lane, String)>>,
}

/// How a delivery came to be handed out.
#[derive(Clone, Copy, Debug)]
struct HandOver {
    deliveries: u32,
    /// How large the record is as it stands in the lane.
    size_bytes: u64,
    /// It was found again after an answer that seemed lost.
    was_unseen: bool,
}

impl Holdings {
    /// Takes in a delivery that is to be handed out; false if it has been already. What is found again keeps its count, so
    /// that the answer which only seemed lost names the same delivery when it does arrive.
    #[must_use]
    pub(super) fn insert(&self, lane: &Lane, entry: &str, deliveries: u32, size_bytes: u64, was_unseen: bool) -> bool {
        let mut held = self.lock();
        let handed = HandOver { deliveries, size_bytes, was_unseen };
        match held.entry((lane.clone(), entry.to_owned())) {
            Entry::Vacant(free) => {
                free.insert(handed);
            }
            Entry::Occupied(known) => {
                let known = known.into_mut();
                if known.deliveries >= deliveries && (known.was_unseen || was_unseen) {
                    return false;
                }
                *known = handed;
            }
        }
        true
    }

    /// Ends a delivery; one of the same entry that was handed out later stays.
    pub(super) fn remove(&self, receipt: &Receipt) {
        let key = (receipt.lane.clone(), receipt.entry.clone());
        let mut deliveries = self.lock();
        if deliveries.get(&key).is_some_and(|handed| handed.deliveries <= receipt.deliveries) {
            deliveries.remove(&key);
        }
    }

    /// How large the record of a delivery is as it stands in its lane; 0 if it is not known.
    pub(super) fn size_bytes(&self, receipt: &Receipt) -> u64 {
        let key = (receipt.lane.clone(), receipt.entry.clone());
        self.lock().get(&key).map_or(0, |handed| handed.size_bytes)
    }

    pub(super) fn contains(&self, lane: &Lane, entry: &str) -> bool {
        self.lock().contains_key(&(lane.clone(), entry.to_owned()))
    }

    /// Remembers an entry that this host cannot read and is not to take over again.
    pub(super) fn leave_alone(&self, lane: &Lane, entry: &str) {
        let mut left_alone = self.left_alone.lock();
        if left_alone.len() < MAX_LEFT_ALONE {
            left_alone.insert((lane.clone(), entry.to_owned()));
        }
    }

    pub(super) fn is_left_alone(&self, lane: &Lane, entry: &str) -> bool {
        let left_alone = self.left_alone.lock();
        !left_alone.is_empty() && left_alone.contains(&(lane.clone(), entry.to_owned()))
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, HashMap<(Lane, String), HandOver>> {
        self.deliveries.lock()
    }
}

/// Gives each lane of a call one place, counted from 1 as scripts do.
#[derive(Debug, Default)]
pub(super) struct LanePlaces {
    lanes: Vec<Lane>,
}

impl LanePlaces {
    /// The place of a lane, given to it now if it has none.
    pub(super) fn of(&mut self, lane: &Lane) -> usize {
        match self.lanes.iter().position(|known| known == lane) {
            Some(place) => place + 1,
            None => {
                self.lanes.push(lane.clone());
                self.lanes.len()
            }
        }
    }

    pub(super) fn lanes(&self) -> &[Lane] {
        &self.lanes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;

    #[test]
    fn a_delivery_that_ended_does_not_end_a_later_one_of_its_entry() {
        let held = Holdings::default();
        let lane = Lane::unrouted();
        let receipt =
            |deliveries| Receipt { event_id: EventId::new(), lane: lane.clone(), entry: "1-0".into(), deliveries };
        assert!(held.insert(&lane, "1-0", 2, 9, false));
        held.remove(&receipt(1));
        assert!(held.contains(&lane, "1-0"));
        held.remove(&receipt(2));
        assert!(!held.contains(&lane, "1-0"));
    }

    #[test]
    fn an_answer_that_comes_after_what_it_names_was_found_again_hands_nothing_out_twice() {
        let held = Holdings::default();
        let lane = Lane::unrouted();
        assert!(held.insert(&lane, "1-0", 1, 9, true));
        assert!(!held.insert(&lane, "1-0", 1, 9, false), "the late one");
        assert!(!held.insert(&lane, "1-0", 1, 9, true), "found twice at once");
        assert!(held.insert(&lane, "1-0", 2, 9, false), "its lease was over");
        assert!(held.insert(&lane, "1-0", 1, 9, false), "its group was destroyed and began anew");
    }

    #[test]
    fn lanes_are_asked_for_in_either_form() {
        let word = Value::BulkString(b"LANES".to_vec());
        assert!(asks_for_lanes(&word) && asks_for_lanes(&Value::Array(vec![word])));
        assert!(!asks_for_lanes(&Value::Nil) && !asks_for_lanes(&Value::Array(Vec::new())));
    }
}
