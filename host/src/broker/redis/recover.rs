//! Taking over what the dead left behind, and what this consumer was given without hearing of it.
//!
//! Three kinds of entries are taken over: those past their lease, those of a consumer whose process is gone, and this
//! consumer's own that it never saw, since the answer to its claim was lost. What is pending is read first and judged
//! here; taking it then checks in one step that it still is as it was seen, so that of several takers one wins and a
//! renewal in between wins over all of them.
//!
//! What was read is kept for a moment: of thousands of suspects, handled one at a time, each would cost a look through all
//! lanes. Since taking checks again, it does not matter that it may have changed meanwhile.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;
use redis::Value;

use super::core::{KnownLanes, LanePlaces, RedisCore};
use super::entry::{RawEntry, read_fields};
use super::fault::CallFailure;
use super::reply;
use super::scripts::ScriptCall;
use crate::broker::takeover_order::takeover_order;
use crate::broker::{Delivery, Error, Lane};

/// An own entry that was never handed out is taken after so long: the answer may still be on its way before.
const UNSEEN_MS: u64 = 2_000;
/// The most entries that one call takes over.
const MAX_TAKEN: usize = 100;
/// The most dead consumers that are looked at in one call.
const MAX_DEAD: usize = 20;
/// The most suspects that are kept to be taken later.
const MAX_KEPT: usize = 100;
/// For how long they are kept: others that are to come before them may have been left meanwhile.
const KEPT_FOR: Duration = Duration::from_secs(2);

/// An entry that is pending for someone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PendingEntry {
    lane: Lane,
    entry: String,
    owner: String,
    idle_ms: u64,
    deliveries: u32,
}

/// What may have to be taken over, as it was read last, in the order in which it is to be.
#[derive(Debug, Default)]
pub(super) struct SuspectList {
    waiting: VecDeque<PendingEntry>,
    read_at: Option<Instant>,
    /// The lane of which one was to be taken last.
    last: Option<Lane>,
}

impl SuspectList {
    /// Keeps what was read by now. The fewest deliveries come first, so that what takes its host down again and again holds
    /// up none that does not; then the lanes in turn.
    fn keep(&mut self, found: Vec<PendingEntry>, now: Instant) {
        let ordered = takeover_order(found, self.last.as_ref(), |row| (row.deliveries, row.lane.clone()));
        self.waiting = ordered.into_iter().take(MAX_KEPT).collect();
        self.read_at = Some(now);
    }

    /// The next ones, unless they were read too long ago.
    fn next(&mut self, max: usize, now: Instant) -> Vec<PendingEntry> {
        if self.read_at.is_none_or(|read_at| now.saturating_duration_since(read_at) >= KEPT_FOR) {
            self.waiting.clear();
        }
        let next: Vec<PendingEntry> = self.waiting.drain(..max.min(self.waiting.len())).collect();
        if let Some(row) = next.last() {
            self.last = Some(row.lane.clone());
        }
        next
    }
}

/// An entry to be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TakeoverTarget {
    row: PendingEntry,
    /// It is this consumer's own, and nobody here has seen it.
    is_unseen: bool,
    least_idle_ms: u64,
}

impl TakeoverTarget {
    /// How often it was delivered once it is taken over. An answer that was lost is no delivery: nobody was given it, and
    /// after a few of them the event would pass for one that takes hosts down.
    fn deliveries(&self) -> u32 {
        if self.is_unseen { self.row.deliveries.max(1) } else { self.row.deliveries.saturating_add(1) }
    }
}

impl RedisCore {
    /// Takes over deliveries; see [`crate::broker::WorkQueue::recover`].
    pub(super) async fn recover(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let mut dead = self.peers.lock().gone();
        dead.retain(|name| *name != self.consumer);
        dead.truncate(MAX_DEAD);
        let mut may_read = true;
        loop {
            let next = self.suspects().next(max.min(MAX_TAKEN), Instant::now());
            let wanted: Vec<TakeoverTarget> = next.into_iter().filter_map(|row| self.judge(row, &dead)).collect();
            let is_used_up = self.suspects().waiting.is_empty();
            if !wanted.is_empty() {
                let taken = self.take(&wanted).await?;
                let deliveries = self.deliver(taken).await;
                if !deliveries.is_empty() {
                    return Ok(deliveries);
                }
            } else if is_used_up && !(std::mem::take(&mut may_read) && self.read_suspects(&dead).await?) {
                return Ok(Vec::new());
            }
        }
    }

    /// Looks through all lanes; whether there are any.
    async fn read_suspects(&self, dead: &[String]) -> Result<bool, CallFailure> {
        let read_at = Instant::now();
        let (book, answer) = self.with_all_lanes(|book| self.pending_call(book, dead)).await?;
        let (mut seen, mut found) = (HashSet::new(), Vec::new());
        for row in reply::array(answer)? {
            let Some(row) = read_pending(row, &book)? else { continue };
            let is_due = self.judge(row.clone(), dead).is_some_and(|wanted| row.idle_ms >= wanted.least_idle_ms);
            if is_due && seen.insert((row.lane.clone(), row.entry.clone())) {
                found.push(row);
            }
        }
        let mut suspects = self.suspects();
        suspects.keep(found, read_at);
        Ok(!suspects.waiting.is_empty())
    }

    fn pending_call(&self, book: &KnownLanes, dead: &[String]) -> ScriptCall<'_> {
        let mut call = self
            .script(&self.scripts.pending)
            .lane_keys(&self.keys, &book.lanes)
            .number(book.set_size)
            .text(&self.consumer)
            .number(self.options.lease_ms)
            .number(self.unseen_ms())
            .number(book.lanes.len());
        for name in dead {
            call.push_text(name);
        }
        call
    }

    /// How it is to be taken over, if it may be.
    fn judge(&self, row: PendingEntry, dead: &[String]) -> Option<TakeoverTarget> {
        if self.held.is_left_alone(&row.lane, &row.entry) || self.is_of_others(&row.lane) {
            return None;
        }
        let is_unseen = row.owner == self.consumer && !self.held.contains(&row.lane, &row.entry);
        let least_idle_ms = match (dead.contains(&row.owner), is_unseen) {
            (true, _) => 0,
            (false, true) => self.unseen_ms(),
            (false, false) => self.options.lease_ms,
        };
        Some(TakeoverTarget { row, is_unseen, least_idle_ms })
    }

    async fn take(&self, wanted: &[TakeoverTarget]) -> Result<Vec<RawEntry>, CallFailure> {
        let mut places = LanePlaces::default();
        let mut call = self.script(&self.scripts.take).text(&self.consumer);
        for each in wanted {
            call.push_number(places.of(&each.row.lane));
            call.push_text(&each.row.entry);
            call.push_text(&each.row.owner);
            call.push_number(each.row.deliveries);
            call.push_number(each.deliveries());
            call.push_number(each.least_idle_ms);
        }
        let call = call.lane_keys(&self.keys, places.lanes());
        let [taken, ghosts] = reply::tuple(self.link.call(&call).await?)?;
        let ghosts = reply::count(&ghosts)?;
        if ghosts > 0 {
            self.board().remark("ghost", || {
                format!("{ghosts} entries were deleted by somebody else while they were being handled")
            });
        }
        let mut entries = Vec::new();
        for item in reply::array(taken)? {
            let [place, fields] = reply::tuple(item)?;
            let Some(taken) = wanted.get(reply::place(&place)?) else { continue };
            entries.push(RawEntry {
                lane: taken.row.lane.clone(),
                entry: taken.row.entry.clone(),
                deliveries: taken.deliveries(),
                was_unseen: taken.is_unseen,
                fields: read_fields(fields)?,
            });
        }
        Ok(entries)
    }

    fn suspects(&self) -> MutexGuard<'_, SuspectList> {
        self.suspects.lock()
    }

    fn unseen_ms(&self) -> u64 {
        UNSEEN_MS.min(self.options.lease_ms)
    }
}

/// A row of what is pending; `None` for a lane that is not in the book.
fn read_pending(row: Value, book: &KnownLanes) -> Result<Option<PendingEntry>, CallFailure> {
    let [place, entry, owner, idle_ms, deliveries] = reply::tuple(row)?;
    let lane = reply::place(&place)?.checked_sub(1).and_then(|place| book.lanes.get(place));
    let Some(lane) = lane.cloned() else { return Ok(None) };
    Ok(Some(PendingEntry {
        lane,
        entry: reply::text(entry)?,
        owner: reply::text(owner)?,
        idle_ms: reply::count(&idle_ms)?,
        deliveries: u32::try_from(reply::count(&deliveries)?).unwrap_or(u32::MAX),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(lane: &str, number: u32, deliveries: u32) -> PendingEntry {
        let (entry, owner) = (format!("{number}-0"), "gone".into());
        PendingEntry { lane: lane.parse().unwrap(), entry, owner, idle_ms: 60_000, deliveries }
    }

    #[test]
    fn suspects_are_taken_lane_by_lane_from_reading_to_reading() {
        let (mut suspects, now) = (SuspectList::default(), Instant::now());
        assert!(suspects.next(9, now).is_empty());
        let found = || vec![pending("a", 1, 1), pending("a", 2, 1), pending("b", 3, 1), pending("b", 4, 1)];
        suspects.keep(found(), now);
        let lanes = |next: Vec<PendingEntry>| next.iter().map(|row| row.lane.to_string()).collect::<String>();
        assert_eq!(lanes(suspects.next(3, now)), "aba");
        suspects.keep(found(), now);
        assert_eq!(lanes(suspects.next(9, now)), "baba", "the other one's turn");
    }

    #[test]
    fn suspects_are_kept_for_a_moment_and_not_without_bounds() {
        let (mut suspects, now) = (SuspectList::default(), Instant::now());
        suspects.keep((0..1_000).map(|n| pending("a", n, 1)).collect(), now);
        assert_eq!(suspects.next(1, now + KEPT_FOR / 2).len(), 1);
        assert_eq!(suspects.waiting.len(), MAX_KEPT - 1);
        assert!(suspects.next(1, now + KEPT_FOR).is_empty());
        assert!(suspects.waiting.is_empty());
    }
}
