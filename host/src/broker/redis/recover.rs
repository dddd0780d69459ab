//! Takes over entries whose consumer does not work on them any more.
//!
//! Three kinds of pending entries are taken over: those past their lease, those of a consumer whose process is gone, and
//! unseen ones. An unseen entry is pending for this consumer, but the reply to its claim was lost. Pending entries are
//! read and judged here. The script that takes them over checks that they have not changed. So one of several takers wins, and a
//! renewal in between wins over all of them.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::Value;

use super::client::StoreClient;
use super::connection::{CallFailure, reply};
use super::entry::{EntryDecoder, RawEntry, read_fields};
use super::hand_overs::HandOvers;
use super::heartbeat::Heartbeat;
use super::lanes::{KnownLanes, LaneDirectory, LanePlaces};
use super::scripts::ScriptCall;
use crate::broker::fair_share::takeover_order;
use crate::broker::{Delivery, Error, Lane};

/// An own unseen entry is taken over after this time. Before, its reply may still arrive.
const UNSEEN_MS: u64 = 2_000;
/// The most entries that one call takes over.
const MAX_TAKEN: usize = 100;
/// The most dead consumers whose entries one call reads.
const MAX_DEAD: usize = 20;

/// An entry to be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TakeoverTarget {
    row: PendingEntry,
    /// It is pending for this consumer, which never saw it.
    is_unseen: bool,
    min_idle_ms: u64,
}

impl TakeoverTarget {
    /// The delivery count after the takeover. A lost reply is no delivery: after a few of them, the event would look like
    /// one that crashes its hosts.
    fn deliveries(&self) -> u32 {
        if self.is_unseen { self.row.deliveries.max(1) } else { self.row.deliveries.saturating_add(1) }
    }
}

/// Takes over entries for this consumer.
pub(super) struct EntryRecovery {
    pub(super) client: Arc<StoreClient>,
    pub(super) lanes: Arc<LaneDirectory>,
    pub(super) hand_overs: Arc<HandOvers>,
    pub(super) decoder: Arc<EntryDecoder>,
    pub(super) heartbeat: Arc<Heartbeat>,
    pub(super) lease_ms: u64,
    pub(super) suspects: Mutex<SuspectList>,
}

impl EntryRecovery {
    /// Takes over up to `max` entries and returns their deliveries.
    pub(super) async fn recover(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let mut dead = self.heartbeat.consumers_without_process();
        dead.truncate(MAX_DEAD);
        let mut may_read = true;
        loop {
            let next = self.suspects.lock().take_next(max.min(MAX_TAKEN), Instant::now());
            let targets: Vec<TakeoverTarget> = next.into_iter().filter_map(|row| self.judge(row, &dead)).collect();
            let is_used_up = self.suspects.lock().is_empty();
            if !targets.is_empty() {
                let taken = self.take_over(&targets).await?;
                let deliveries = self.decoder.deliver(taken).await;
                if !deliveries.is_empty() {
                    return Ok(deliveries);
                }
            } else if is_used_up && !(std::mem::take(&mut may_read) && self.read_suspects(&dead).await?) {
                return Ok(Vec::new());
            }
        }
    }

    /// Looks through all lanes; true if it found suspects.
    async fn read_suspects(&self, dead: &[String]) -> Result<bool, CallFailure> {
        let read_at = Instant::now();
        let (known, reply) = self.lanes.call_with_all(|known| self.pending_call(known, dead)).await?;
        let (mut seen, mut found) = (HashSet::new(), Vec::new());
        for row in reply::array(reply)? {
            let Some(row) = read_pending(row, &known)? else { continue };
            let is_due = self.judge(row.clone(), dead).is_some_and(|target| row.idle_ms >= target.min_idle_ms);
            if is_due && seen.insert((row.lane.clone(), row.entry.clone())) {
                found.push(row);
            }
        }
        let mut suspects = self.suspects.lock();
        suspects.keep(found, read_at);
        Ok(!suspects.is_empty())
    }

    fn pending_call(&self, known: &KnownLanes, dead: &[String]) -> ScriptCall<'_> {
        let client = &self.client;
        let mut call = client
            .script_call(&client.scripts.pending)
            .lane_keys(&client.keys, &known.lanes)
            .number(known.set_size)
            .text(&client.consumer)
            .number(self.lease_ms)
            .number(self.unseen_ms())
            .number(known.lanes.len());
        for name in dead {
            call.push_text(name);
        }
        call
    }

    /// How to take an entry over; `None` if it must stay where it is.
    fn judge(&self, row: PendingEntry, dead: &[String]) -> Option<TakeoverTarget> {
        if self.hand_overs.is_unreadable(&row.lane, &row.entry) || self.heartbeat.is_served_only_by_peers(&row.lane) {
            return None;
        }
        let is_unseen = row.owner == self.client.consumer && !self.hand_overs.contains(&row.lane, &row.entry);
        let min_idle_ms = match (dead.contains(&row.owner), is_unseen) {
            (true, _) => 0,
            (false, true) => self.unseen_ms(),
            (false, false) => self.lease_ms,
        };
        Some(TakeoverTarget { row, is_unseen, min_idle_ms })
    }

    async fn take_over(&self, targets: &[TakeoverTarget]) -> Result<Vec<RawEntry>, CallFailure> {
        let client = &self.client;
        let mut places = LanePlaces::default();
        let mut call = client.script_call(&client.scripts.take_over).text(&client.consumer);
        for target in targets {
            call.push_number(places.place_of(&target.row.lane));
            call.push_text(&target.row.entry);
            call.push_text(&target.row.owner);
            call.push_number(target.row.deliveries);
            call.push_number(target.deliveries());
            call.push_number(target.min_idle_ms);
        }
        let call = call.lane_keys(&client.keys, places.lanes());
        let [taken, ghosts] = reply::tuple(client.call(&call).await?)?;
        let ghosts = reply::count(&ghosts)?;
        if ghosts > 0 {
            client
                .troubles()
                .warn("ghost", || format!("another program deleted {ghosts} entries while they were being handled"));
        }
        let mut entries = Vec::new();
        for item in reply::array(taken)? {
            let [index, fields] = reply::tuple(item)?;
            let Some(target) = targets.get(reply::index(&index)?) else { continue };
            entries.push(RawEntry {
                lane: target.row.lane.clone(),
                entry: target.row.entry.clone(),
                deliveries: target.deliveries(),
                was_unseen: target.is_unseen,
                fields: read_fields(fields)?,
            });
        }
        Ok(entries)
    }

    fn unseen_ms(&self) -> u64 {
        UNSEEN_MS.min(self.lease_ms)
    }
}

/// Reads a pending entry; `None` if its lane is unknown.
fn read_pending(row: Value, known: &KnownLanes) -> Result<Option<PendingEntry>, CallFailure> {
    let [place, entry, owner, idle_ms, deliveries] = reply::tuple(row)?;
    let lane = reply::index(&place)?.checked_sub(1).and_then(|index| known.lanes.get(index));
    let Some(lane) = lane.cloned() else { return Ok(None) };
    Ok(Some(PendingEntry {
        lane,
        entry: reply::text(entry)?,
        owner: reply::text(owner)?,
        idle_ms: reply::count(&idle_ms)?,
        deliveries: u32::try_from(reply::count(&deliveries)?).unwrap_or(u32::MAX),
    }))
}

/// The most suspects that are kept for later calls.
const MAX_KEPT: usize = 100;
/// How long suspects are kept. Others with a better claim may appear meanwhile.
const KEPT_FOR: Duration = Duration::from_secs(2);

/// An entry that is pending for some consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PendingEntry {
    pub(super) lane: Lane,
    pub(super) entry: String,
    /// The consumer that holds it.
    pub(super) owner: String,
    pub(super) idle_ms: u64,
    pub(super) deliveries: u32,
}

/// The entries of the last reading of all lanes that were not tried yet.
#[derive(Debug, Default)]
pub(super) struct SuspectList {
    waiting: VecDeque<PendingEntry>,
    read_at: Option<Instant>,
    /// The lane of the last suspect that was handed out.
    last_lane: Option<Lane>,
}

impl SuspectList {
    /// Keeps what was read at `now`. Entries with the fewest deliveries come first, so that an event that crashes its
    /// hosts delays no other. Among these, the lanes take turns.
    pub(super) fn keep(&mut self, found: Vec<PendingEntry>, now: Instant) {
        let ordered = takeover_order(found, self.last_lane.as_ref(), |row| (row.deliveries, row.lane.clone()));
        self.waiting = ordered.into_iter().take(MAX_KEPT).collect();
        self.read_at = Some(now);
    }

    /// Removes the next suspects, at most `max`; none if they were read too long ago.
    pub(super) fn take_next(&mut self, max: usize, now: Instant) -> Vec<PendingEntry> {
        if self.read_at.is_none_or(|read_at| now.saturating_duration_since(read_at) >= KEPT_FOR) {
            self.waiting.clear();
        }
        let next: Vec<PendingEntry> = self.waiting.drain(..max.min(self.waiting.len())).collect();
        if let Some(row) = next.last() {
            self.last_lane = Some(row.lane.clone());
        }
        next
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(lane: &str, number: u32, deliveries: u32) -> PendingEntry {
        let (entry, owner) = (format!("{number}-0"), "gone".into());
        PendingEntry { lane: lane.parse().unwrap(), entry, owner, idle_ms: 60_000, deliveries }
    }

    #[test]
    fn lanes_take_turns_across_readings() {
        let (mut suspects, now) = (SuspectList::default(), Instant::now());
        assert!(suspects.take_next(9, now).is_empty());
        let found = || vec![pending("a", 1, 1), pending("a", 2, 1), pending("b", 3, 1), pending("b", 4, 1)];
        suspects.keep(found(), now);
        let lanes = |next: Vec<PendingEntry>| next.iter().map(|row| row.lane.to_string()).collect::<String>();
        assert_eq!(lanes(suspects.take_next(3, now)), "aba");
        suspects.keep(found(), now);
        assert_eq!(lanes(suspects.take_next(9, now)), "baba", "it is the turn of the other lane");
    }

    #[test]
    fn suspects_are_kept_for_a_moment_and_in_limited_number() {
        let (mut suspects, now) = (SuspectList::default(), Instant::now());
        suspects.keep((0..1_000).map(|n| pending("a", n, 1)).collect(), now);
        assert_eq!(suspects.take_next(1, now + KEPT_FOR / 2).len(), 1);
        assert_eq!(suspects.waiting.len(), MAX_KEPT - 1);
        assert!(suspects.take_next(1, now + KEPT_FOR).is_empty());
        assert!(suspects.is_empty());
    }
}
