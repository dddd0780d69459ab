//! The lanes that this process knows.
//!
//! The set of lanes is in Redis, and this is a copy. A script that needs every lane gets the size of the copy and
//! refuses if the set has another size. So no script misses a lane that another host has just made.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use redis::Value;

use super::client::StoreClient;
use super::connection::reply::{self, RedisReply};
use super::connection::{CallFailure, TroubleKind, join_messages};
use super::scripts::ScriptCall;
use crate::broker::Lane;

/// How often a call is made while other hosts add lanes.
pub(super) const LANE_TRIES: usize = 4;

/// The lanes as they were last read.
#[derive(Debug, Default)]
pub(super) struct KnownLanes {
    /// Sorted by name.
    pub(super) lanes: Vec<Lane>,
    /// The size of the set in Redis, names that are no lanes included.
    pub(super) set_size: usize,
    /// The lanes whose keys hold another type.
    misplaced: BTreeSet<Lane>,
}

impl KnownLanes {
    /// True if the key of this lane holds another type than a stream.
    pub(super) fn is_misplaced(&self, lane: &Lane) -> bool {
        self.misplaced.contains(lane)
    }

    /// The place of the lane for unrouted events, counted from 1 as scripts do.
    pub(super) fn unrouted_place(&self) -> usize {
        let unrouted = Lane::unrouted();
        self.lanes.iter().position(|lane| *lane == unrouted).map_or(1, |place| place + 1)
    }
}

/// The known lanes, with the means to read and make them.
pub(super) struct LaneDirectory {
    client: Arc<StoreClient>,
    known: ArcSwap<KnownLanes>,
}

impl LaneDirectory {
    /// A directory that knows no lane yet.
    pub(super) fn new(client: Arc<StoreClient>) -> Self {
        Self { client, known: ArcSwap::default() }
    }

    /// The lanes as they were last read.
    pub(super) fn known(&self) -> Arc<KnownLanes> {
        self.known.load_full()
    }

    /// Makes the wanted lanes and remakes the known ones where they are missing in Redis, then reads the whole set. A
    /// lane whose key holds another type raises a trouble and is no failure.
    pub(super) async fn refresh(&self, wanted: &[Lane]) -> Result<(), CallFailure> {
        let known = self.known();
        let all: BTreeSet<&Lane> = known.lanes.iter().chain(wanted).collect();
        let client = &self.client;
        let mut call = client.script_call(&client.scripts.lanes).lane_keys(&client.keys, all.iter().copied());
        for lane in all {
            call.push_text(lane.as_str());
        }
        let [members, wrong] = reply::tuple(client.call(&call).await?)?;
        let misplaced = self.raise_misplaced(reply::array(wrong)?)?;
        if misplaced.is_empty() && !known.misplaced.is_empty() {
            client.check_soon.notify_one();
        }
        let names = reply::array(members)?.into_iter().map(reply::text).collect::<Result<Vec<_>, _>>()?;
        let lanes: BTreeSet<Lane> = names.iter().filter_map(|name| name.parse().ok()).collect();
        self.known.store(Arc::new(KnownLanes { lanes: lanes.into_iter().collect(), set_size: names.len(), misplaced }));
        Ok(())
    }

    /// Reads the lanes that other hosts made. Writes nothing, so it works while Redis refuses writes.
    async fn read_new_lanes(&self) -> Result<(), CallFailure> {
        let names = self.client.read_lane_names().await?;
        let known = self.known();
        let found = names.iter().filter_map(|name| name.parse().ok());
        let lanes: BTreeSet<Lane> = known.lanes.iter().cloned().chain(found).collect();
        let misplaced = known.misplaced.clone();
        self.known.store(Arc::new(KnownLanes { lanes: lanes.into_iter().collect(), set_size: names.len(), misplaced }));
        Ok(())
    }

    /// Raises a trouble for misplaced lanes, each given as a message and a name, and returns them.
    fn raise_misplaced(&self, wrong: Vec<Value>) -> Result<BTreeSet<Lane>, CallFailure> {
        let (mut messages, mut lanes) = (Vec::new(), BTreeSet::new());
        for each in wrong {
            let [message, name] = reply::tuple(each)?;
            messages.push(reply::text(message)?);
            lanes.extend(reply::text(name)?.parse::<Lane>());
        }
        if let Some(message) = join_messages(messages) {
            self.client.troubles().raise(TroubleKind::Misplaced, message);
        }
        Ok(lanes)
    }

    /// Those of the lanes that are not known; usually none.
    pub(super) fn find_missing<'l>(&self, lanes: impl IntoIterator<Item = &'l Lane>) -> Vec<Lane> {
        let known = self.known();
        let missing: BTreeSet<&Lane> =
            lanes.into_iter().filter(|lane| known.lanes.binary_search(lane).is_err()).collect();
        missing.into_iter().cloned().collect()
    }

    /// Makes lanes. Sends nothing if there are none to make.
    pub(super) async fn make(&self, missing: Vec<Lane>) -> Result<(), CallFailure> {
        if missing.is_empty() { Ok(()) } else { self.refresh(&missing).await }
    }

    /// Calls a script that needs every lane, and repeats the call with the lanes that appeared meanwhile. Returns the
    /// lanes of the successful call and its reply.
    pub(super) async fn call_with_all<'a>(
        &self,
        make_call: impl Fn(&KnownLanes) -> ScriptCall<'a>,
    ) -> Result<(Arc<KnownLanes>, RedisReply), CallFailure> {
        for _ in 0..LANE_TRIES {
            let known = self.known();
            let reply = self.client.call(&make_call(&known)).await?;
            if !is_lane_missing(&reply) {
                return Ok((known, reply));
            }
            self.read_new_lanes().await?;
        }
        Err(CallFailure::unreachable("lanes are added faster than they can be read"))
    }
}

/// True if the script refused because the call did not name every lane.
pub(super) fn is_lane_missing(reply: &RedisReply) -> bool {
    let is_word = |value: &Value| matches!(value, Value::BulkString(word) if word == b"LANES");
    match reply {
        Value::Array(items) => items.first().is_some_and(is_word),
        value => is_word(value),
    }
}

/// Gives each lane of a call one place, counted from 1 as scripts do.
#[derive(Debug, Default)]
pub(super) struct LanePlaces {
    lanes: Vec<Lane>,
}

impl LanePlaces {
    /// The place of a lane. A lane without one gets the next.
    pub(super) fn place_of(&mut self, lane: &Lane) -> usize {
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

    #[test]
    fn a_missing_lane_is_reported_as_a_word_or_as_an_array() {
        let word = Value::BulkString(b"LANES".to_vec());
        assert!(is_lane_missing(&word) && is_lane_missing(&Value::Array(vec![word])));
        assert!(!is_lane_missing(&Value::Nil) && !is_lane_missing(&Value::Array(Vec::new())));
    }
}
