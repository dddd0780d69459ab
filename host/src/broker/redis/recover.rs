//! Taking over what the dead left behind, and what this consumer was given without hearing of it.
//!
//! Three kinds of entries are taken over: those past their lease, those of a consumer whose process is gone, and this
//! consumer's own that it never saw, since the answer to its claim was lost. What is pending is read first and judged
//! here; taking it then checks in one step that it still is as it was seen, so that of several takers one wins and a
//! renewal in between wins over all of them.

use std::collections::HashSet;
use std::sync::PoisonError;

use redis::Value;

use super::core::{Core, LaneBook};
use super::entry::{RawEntry, read_fields};
use super::fault::Failure;
use super::reply;
use super::scripts::Call;
use crate::broker::{Delivery, Error, Lane};

/// An own entry that was never handed out is taken after so long: the answer may still be on its way before.
const UNSEEN_MS: u64 = 2_000;
/// The most entries that one call takes over.
const MAX_TAKEN: usize = 100;
/// The most dead consumers that are looked at in one call.
const MAX_DEAD: usize = 20;

/// An entry that is pending for someone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pending {
    place: usize,
    entry: String,
    owner: String,
    idle_ms: u64,
    deliveries: u32,
}

/// An entry to be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    row: Pending,
    /// It is this consumer's own, and nobody here has seen it.
    is_unseen: bool,
    least_idle_ms: u64,
}

impl Wanted {
    /// How often it was delivered once it is taken over. An answer that was lost is no delivery: nobody was given it, and
    /// after a few of them the event would pass for one that takes hosts down.
    fn deliveries(&self) -> u32 {
        if self.is_unseen { self.row.deliveries.max(1) } else { self.row.deliveries.saturating_add(1) }
    }
}

impl Core {
    /// Takes over deliveries; see [`crate::broker::Broker::recover`].
    pub(super) async fn recover(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        let mut dead = self.peers.lock().unwrap_or_else(PoisonError::into_inner).gone();
        dead.retain(|name| *name != self.consumer);
        dead.truncate(MAX_DEAD);
        let (book, answer) = self.with_all_lanes(|book| self.pending_call(book, &dead)).await?;
        let lanes = &book.lanes;
        let pending = reply::array(answer)?.into_iter().map(read_pending).collect::<Result<_, _>>()?;
        let wanted = self.select(pending, lanes, &dead, max.min(MAX_TAKEN));
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let taken = self.take(lanes, &wanted).await?;
        Ok(self.deliver(taken).await)
    }

    fn pending_call(&self, book: &LaneBook, dead: &[String]) -> Call<'_> {
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

    /// What of it is to be taken, each entry once: those that were delivered the fewest times first, so that what takes its
    /// host down again and again holds up none that does not.
    fn select(&self, pending: Vec<Pending>, lanes: &[Lane], dead: &[String], max: usize) -> Vec<Wanted> {
        let lease_ms = self.options.lease_ms;
        let mut seen = HashSet::new();
        let mut wanted = Vec::new();
        for row in pending {
            let Some(lane) = lanes.get(row.place - 1) else { continue };
            if self.held.is_left_alone(lane, &row.entry) {
                continue;
            }
            let is_unseen = row.owner == self.consumer && !self.held.contains(lane, &row.entry);
            let least_idle_ms = match (dead.contains(&row.owner), is_unseen) {
                (true, _) => 0,
                (false, true) => self.unseen_ms(),
                (false, false) => lease_ms,
            };
            if row.idle_ms >= least_idle_ms && seen.insert((row.place, row.entry.clone())) {
                wanted.push(Wanted { row, is_unseen, least_idle_ms });
            }
        }
        wanted.sort_by_key(|wanted| wanted.row.deliveries);
        wanted.truncate(max);
        wanted
    }

    async fn take(&self, lanes: &[Lane], wanted: &[Wanted]) -> Result<Vec<RawEntry>, Failure> {
        let mut call = self.script(&self.scripts.take).lane_keys(&self.keys, lanes).text(&self.consumer);
        for each in wanted {
            call.push_number(each.row.place);
            call.push_text(&each.row.entry);
            call.push_text(&each.row.owner);
            call.push_number(each.row.deliveries);
            call.push_number(each.deliveries());
            call.push_number(each.least_idle_ms);
        }
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
            let Some(lane) = lanes.get(taken.row.place - 1) else { continue };
            entries.push(RawEntry {
                lane: lane.clone(),
                entry: taken.row.entry.clone(),
                deliveries: taken.deliveries(),
                was_unseen: taken.is_unseen,
                fields: read_fields(fields)?,
            });
        }
        Ok(entries)
    }

    fn unseen_ms(&self) -> u64 {
        UNSEEN_MS.min(self.options.lease_ms)
    }
}

fn read_pending(row: Value) -> Result<Pending, Failure> {
    let [place, entry, owner, idle_ms, deliveries] = reply::tuple(row)?;
    Ok(Pending {
        place: reply::place(&place)?.max(1),
        entry: reply::text(entry)?,
        owner: reply::text(owner)?,
        idle_ms: reply::count(&idle_ms)?,
        deliveries: u32::try_from(reply::count(&deliveries)?).unwrap_or(u32::MAX),
    })
}
