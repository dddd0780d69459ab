//! Whether handlers may publish and how much of their attempts is kept, given what waits.
//!
//! Handlers may publish beyond the limit at which clients are refused, because a full store must still be worked off. But
//! an attempt is deferred if it publishes
//! - into the lane of another plugin that is half full, so that the other half stays free for clients;
//! - into a lane past its limit while twice as many events wait in all as clients may add to;
//! - into a lane whose waiting and failed events take as many bytes as they may.
//!
//! So a plugin that publishes more than it handles stops itself, and does not fill the lanes of others. All lanes together
//! stay within a part of the store. Half of that part is for clients, and for what plugins publish into their own lanes.
//!
//! A retry adds an attempt to an event that waits, and no settle is ever refused. So of the attempts of a lane that holds
//! half of its bytes the output is left out, and records in a full lane shrink ([`AttemptDetail`]).
//!
//! The host looks at the store about once a second. In between it counts what its own attempts publish and end. So one host
//! exceeds a limit of events by what a single attempt publishes, at most, and that of bytes only in its own lane, by half.
//! It does not see what other hosts publish. Of `n` hosts, each therefore fills a `2n`-th of the free room between two
//! looks. Together they exceed a limit by one attempt of each and a few percent of the room. The few percent are there
//! because the hosts do not look at the same moment.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::broker::{ATTEMPTS_ROOM_BYTES, Lane, LaneLimits, QueueDepth, SettleRequest, lane_level_bytes};
use crate::event::{AttemptDetail, Event, Settlement};

/// Handlers may publish until `max_waiting`, at which clients are refused, is exceeded by this factor.
const MAX_WAITING_FACTOR: u64 = 2;
/// Other plugins may fill a lane up to its limit divided by this.
const OTHERS_DIVISOR: u64 = 2;

/// What an attempt publishes may exceed the limit of its own lane, if it is no more than the limit divided by this. A lane
/// that clients have filled must still be worked off.
const EXCESS_DIVISOR: u64 = 2;
/// The most that an event takes besides its attributes and its data, with the room for its attempts.
pub(super) const EVENT_BYTES: u64 = 360 + ATTEMPTS_ROOM_BYTES;
/// The least that it takes.
const LEAST_EVENT_BYTES: u64 = 200 + ATTEMPTS_ROOM_BYTES;
/// Attempts are kept whole until their lane holds its limit of bytes divided by this.
const WHOLE_DIVISOR: u64 = 2;

/// Limits what handlers publish and what is kept of their attempts by what the store holds.
#[derive(Debug)]
pub(super) struct BacklogLimit {
    known: Mutex<KnownBacklog>,
}

#[derive(Debug)]
struct KnownBacklog {
    limits: LaneLimits,
    lanes: HashMap<Lane, LaneBacklog>,
    /// The events that waited in all lanes at the last look.
    waiting: u64,
    max_lane_bytes: Option<u64>,
    /// What one lane may take of the store, see [`QueueDepth::lane_share_bytes`].
    lane_share_bytes: Option<u64>,
    hosts: u64,
}

/// What is known of one lane.
#[derive(Debug, Default, PartialEq)]
struct LaneBacklog {
    /// What waited at the last look.
    waiting: EventVolume,
    /// What the failed events took at the last look.
    failed_bytes: u64,
    /// What attempts add that are not settled yet: events that they publish, and records that they make longer.
    in_flight: EventVolume,
    /// What attempts added that were settled after the last look began.
    published: EventVolume,
    /// The same of attempts settled before the look that runs now. The answer may or may not contain it.
    published_before_look: EventVolume,
    /// What this host ended since the last look.
    ended: EventVolume,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct EventVolume {
    events: u64,
    bytes: u64,
}

/// Counts what an attempt adds to lanes until the figures of the store include it.
#[derive(Debug)]
pub(super) struct LaneReservation {
    backlog: Arc<BacklogLimit>,
    lanes: Vec<(Lane, EventVolume)>,
}

impl BacklogLimit {
    /// A limit without figures. Clients are refused when `max_waiting` events wait.
    pub(super) fn new(max_waiting: u64) -> Self {
        let known = KnownBacklog {
            limits: LaneLimits::new(max_waiting, BTreeMap::new()),
            lanes: HashMap::new(),
            waiting: 0,
            max_lane_bytes: None,
            lane_share_bytes: None,
            hosts: 1,
        };
        Self { known: Mutex::new(known) }
    }

    /// Sets the limits of lanes that have their own.
    pub(super) fn limit_lanes(&self, own: BTreeMap<Lane, u64>) {
        let known = &mut *self.known.lock();
        known.limits = LaneLimits::new(known.limits.all(), own);
    }

    /// Notes that a look at the store begins. What was published before counts until [`BacklogLimit::update`].
    pub(super) fn begin_look(&self) {
        for lane in self.known.lock().lanes.values_mut() {
            lane.published_before_look.add(std::mem::take(&mut lane.published));
        }
    }

    /// Replaces the figures with the answer to a look.
    pub(super) fn update(&self, depth: &QueueDepth) {
        let known = &mut *self.known.lock();
        let of = |figures: &BTreeMap<String, u64>, lane: &Lane| figures.get(lane.as_str()).copied().unwrap_or(0);
        for name in depth.waiting_by_lane.keys().chain(depth.failed_bytes_by_lane.keys()) {
            if let Ok(lane) = name.parse::<Lane>() {
                known.lanes.entry(lane).or_default();
            }
        }
        known.lanes.retain(|lane, backlog| {
            *backlog = LaneBacklog {
                waiting: EventVolume {
                    events: of(&depth.waiting_by_lane, lane),
                    bytes: of(&depth.waiting_bytes_by_lane, lane),
                },
                failed_bytes: of(&depth.failed_bytes_by_lane, lane),
                in_flight: backlog.in_flight,
                published: backlog.published,
                ..LaneBacklog::default()
            };
            *backlog != LaneBacklog::default()
        });
        known.waiting = depth.waiting();
        known.max_lane_bytes = depth.max_lane_bytes;
        known.lane_share_bytes = depth.lane_share_bytes;
        known.hosts = depth.consumers.max(1);
    }

    /// Lets an attempt of the plugin with the lane `own` publish, or says why it must not now. `targets` are lanes and
    /// the bytes that an event takes there, with the room for its attempts.
    ///
    /// # Errors
    /// The limit that is in the way, with its figures.
    pub(super) fn reserve(
        self: &Arc<Self>,
        own: &Lane,
        targets: impl Iterator<Item = (Lane, u64)>,
    ) -> Result<LaneReservation, String> {
        let mut lanes = Vec::<(Lane, EventVolume)>::new();
        for (lane, bytes) in targets {
            let more = EventVolume { events: 1, bytes };
            match lanes.iter_mut().find(|(known, _)| *known == lane) {
                Some((_, volume)) => volume.add(more),
                None => lanes.push((lane, more)),
            }
        }
        let known = &mut *self.known.lock();
        let obstacle = |(lane, volume): &(Lane, EventVolume)| {
            known.count_obstacle(own, lane).or_else(|| known.bytes_obstacle(own, lane, volume.bytes))
        };
        if let Some(obstacle) = lanes.iter().find_map(obstacle) {
            return Err(obstacle);
        }
        for (lane, volume) in &lanes {
            known.lanes.entry(lane.clone()).or_default().in_flight.add(*volume);
        }
        Ok(LaneReservation { backlog: self.clone(), lanes })
    }

    /// Decides how much is kept of an attempt of `attempt_bytes` whose event waits in `lane` next or failed there. Reserves
    /// what it adds to the lane.
    pub(super) fn keep_attempt(
        self: &Arc<Self>,
        lane: &Lane,
        attempt_bytes: u64,
    ) -> (AttemptDetail, Option<LaneReservation>) {
        let known = &mut *self.known.lock();
        let Some(limit_bytes) = known.max_lane_bytes else { return (AttemptDetail::Whole, None) };
        let backlog = known.lanes.get(lane).unwrap_or(&LaneBacklog::NOTHING);
        let stored_bytes = backlog.estimate().bytes.saturating_add(backlog.failed_bytes);
        let seen_bytes = backlog.waiting.bytes.saturating_add(backlog.failed_bytes);
        let [whole_bytes, full_bytes] =
            [limit_bytes / WHOLE_DIVISOR, limit_bytes].map(|limit| known.fill_level(seen_bytes, limit));
        let detail = AttemptDetail::for_room(stored_bytes, attempt_bytes, whole_bytes, full_bytes);
        let volume = EventVolume { events: 0, bytes: detail.kept_bytes(attempt_bytes) };
        known.lanes.entry(lane.clone()).or_default().in_flight.add(volume);
        (detail, Some(LaneReservation { backlog: self.clone(), lanes: vec![(lane.clone(), volume)] }))
    }

    /// Notes settles that took effect. Events that ended make room before the next look.
    pub(super) fn note_settled<'a>(&self, settles: impl Iterator<Item = &'a SettleRequest>) {
        let known = &mut *self.known.lock();
        for settle in settles.filter(|settle| settle.settlement.is_end()) {
            let SettleRequest { receipt, record, settlement, .. } = settle;
            // A failed event keeps its bytes.
            let bytes = match settlement {
                Settlement::Processed => LEAST_EVENT_BYTES + attribute_and_data_bytes(&record.event),
                _ => 0,
            };
            let ended = EventVolume { events: 1, bytes };
            match known.lanes.get_mut(&receipt.lane) {
                Some(lane) => lane.ended.add(ended),
                None => known.lanes.entry(receipt.lane.clone()).or_default().ended = ended,
            }
        }
    }
}

/// The bytes of an event's attributes and data.
pub(super) fn attribute_and_data_bytes(event: &Event) -> u64 {
    let optional = [&event.subject, &event.time, &event.data_content_type, &event.data_schema];
    let attributes =
        optional.into_iter().flatten().chain(event.extensions.iter().flat_map(|(name, value)| [name, value]));
    let data_bytes = event.data.as_ref().map_or(0, |data| data.bytes.len());
    (event.source.len() + attributes.map(String::len).sum::<usize>() + data_bytes) as u64
}

impl Drop for LaneReservation {
    fn drop(&mut self) {
        let known = &mut *self.backlog.known.lock();
        for (lane, volume) in &self.lanes {
            let lane = known.lanes.entry(lane.clone()).or_default();
            lane.in_flight = lane.in_flight.less(*volume);
            lane.published.add(*volume);
        }
    }
}

impl EventVolume {
    fn add(&mut self, other: Self) {
        self.events = self.events.saturating_add(other.events);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    /// The room for the attempts of events that the store does not count in its bytes.
    fn room_bytes(self) -> u64 {
        self.events.saturating_mul(ATTEMPTS_ROOM_BYTES)
    }

    fn less(self, other: Self) -> Self {
        Self { events: self.events.saturating_sub(other.events), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

impl LaneBacklog {
    /// A lane in which nothing waits.
    const NOTHING: Self = {
        let nothing = EventVolume { events: 0, bytes: 0 };
        Self {
            waiting: nothing,
            failed_bytes: 0,
            in_flight: nothing,
            published: nothing,
            published_before_look: nothing,
            ended: nothing,
        }
    };

    /// The bytes that it holds now, with the room for the attempts of what waits.
    fn stored_bytes(&self) -> u64 {
        let seen_room_bytes = self.waiting.room_bytes();
        self.estimate().bytes.saturating_add(seen_room_bytes).saturating_add(self.failed_bytes)
    }

    /// What waits now, by the last look and by what this host did since. Never less than what waits if this is the only host.
    fn estimate(&self) -> EventVolume {
        let mut volume = self.waiting;
        [self.in_flight, self.published, self.published_before_look].into_iter().for_each(|more| volume.add(more));
        volume.less(self.ended)
    }
}

impl KnownBacklog {
    /// How far this host may fill what held `seen` at the last look and may hold `limit`.
    fn fill_level(&self, seen: u64, limit: u64) -> u64 {
        let room = limit.saturating_sub(seen);
        if self.hosts == 1 || room == 0 { limit } else { seen + (room / (2 * self.hosts)).max(1) }
    }

    /// What the message says of a level below its limit.
    fn share_remark(&self, level: u64, limit: u64) -> String {
        if level == limit {
            return String::new();
        }
        format!(
            "; {} hosts share the store, and until it looks again this one may fill the lane up to {level}",
            self.hosts
        )
    }

    /// The most bytes that one lane may hold now if only one part in `divisor` of all room may be used.
    fn limit_bytes(&self, divisor: u64) -> Option<u64> {
        let stored_bytes = self.lanes.values().fold(0_u64, |sum, lane| sum.saturating_add(lane.stored_bytes()));
        let share_bytes = self.lane_share_bytes.map(|share| share / divisor);
        let max_lane_bytes = self.max_lane_bytes? / divisor;
        Some(lane_level_bytes(max_lane_bytes, share_bytes, stored_bytes, self.lanes.len() as u64))
    }

    fn count_obstacle(&self, own: &Lane, lane: &Lane) -> Option<String> {
        let backlog = self.lanes.get(lane).unwrap_or(&LaneBacklog::NOTHING);
        let (waiting, limit) = (backlog.estimate().events, self.limits.of(lane));
        let limit_for_others = limit.div_ceil(OTHERS_DIVISOR);
        let level = self.fill_level(backlog.waiting.events, limit_for_others);
        if lane != own && waiting >= level {
            let setting = if *lane == Lane::unrouted() { "broker".to_owned() } else { format!("plugins.{lane}") };
            return Some(format!(
                "{waiting} events wait in the lane {lane}; other plugins may publish into it while fewer than \
                 {limit_for_others} wait (half of {setting}.max_waiting){}",
                self.share_remark(level, limit_for_others)
            ));
        }
        if waiting < self.fill_level(backlog.waiting.events, limit) {
            return None;
        }
        let most = self.limits.all().saturating_mul(MAX_WAITING_FACTOR);
        let changed: u64 = self.lanes.values().map(|lane| lane.estimate().events).sum();
        let seen: u64 = self.lanes.values().map(|lane| lane.waiting.events).sum();
        let all = self.waiting.saturating_add(changed).saturating_sub(seen);
        let level = self.fill_level(self.waiting, most);
        (all >= level).then(|| {
            format!(
                "{all} events wait, {waiting} of them in the lane {lane}; handlers may publish into a lane past its limit of \
                 {limit} while fewer than {most} wait in all ({MAX_WAITING_FACTOR} times broker.max_waiting){}",
                self.share_remark(level, most)
            )
        })
    }

    /// `more_bytes` is what the attempt publishes into the lane. It must fit into the lane of another plugin. Into its own it
    /// may exceed the limit: a lane that clients have filled must still be worked off.
    fn bytes_obstacle(&self, own: &Lane, lane: &Lane, more_bytes: u64) -> Option<String> {
        let limit_bytes = self.limit_bytes(if lane == own { 1 } else { OTHERS_DIVISOR })?;
        let backlog = self.lanes.get(lane).unwrap_or(&LaneBacklog::NOTHING);
        let (all_bytes, failed_bytes) = (backlog.stored_bytes(), backlog.failed_bytes);
        let waiting_bytes = all_bytes.saturating_sub(failed_bytes);
        let seen_bytes =
            backlog.waiting.bytes.saturating_add(backlog.waiting.room_bytes()).saturating_add(failed_bytes);
        let level = self.fill_level(seen_bytes, limit_bytes);
        let is_full = all_bytes > 0 && all_bytes >= level;
        let may_exceed = lane == own && more_bytes <= limit_bytes / EXCESS_DIVISOR;
        let fits = may_exceed || all_bytes.saturating_add(more_bytes) <= limit_bytes;
        (is_full || !fits).then(|| {
            format!(
                "the waiting events of the lane {lane} take {waiting_bytes} bytes and its failed events {failed_bytes}; with \
                 the {more_bytes} bytes that this attempt publishes into it they may take {limit_bytes}{}: replay or discard \
                 failed events (eventstream failed discard --plugin {lane}), or raise broker.max_waiting_bytes if the store \
                 has the space",
                self.share_remark(level, limit_bytes)
            )
        })
    }
}

#[cfg(test)]
mod tests;
