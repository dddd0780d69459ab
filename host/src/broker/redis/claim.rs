//! Claims entries that wait.
//!
//! A claim is one script over the lanes that may hold entries. A script copies every payload twice, which is the largest
//! cost of a claim in Redis. So if a lane returned its full share, the next claim reads each lane with a plain command.
//!
//! A lane that was empty is skipped for a moment while other lanes are not. So an event costs the same with one plugin or
//! with hundreds. No entry is missed: a claim without result is followed by a wait, which covers all lanes.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use redis::Value;

use super::client::StoreClient;
use super::connection::{CallFailure, TroubleKind, join_messages, reply};
use super::entry::{EntryDecoder, RawEntry};
use super::entry_wait::EntryWaiter;
use super::lanes::LaneDirectory;
use super::scripts::keys::GROUP;
use crate::broker::fair_share::fair_shares;
use crate::broker::{ClaimRequest, Delivery, Error, Lane, LaneDemand};

/// The most entries of one claim, so that its script does not block Redis for long.
const MAX_CLAIM: usize = 500;
/// The most lanes that are read by commands of their own.
const MAX_READS: usize = 8;

/// Claims entries for this consumer.
pub(super) struct EntryClaimer {
    client: Arc<StoreClient>,
    lanes: Arc<LaneDirectory>,
    decoder: Arc<EntryDecoder>,
    waiter: Arc<EntryWaiter>,
    budget: ClaimBudget,
    /// True if the last claim returned the full share of some lane.
    has_backlog: AtomicBool,
}

impl EntryClaimer {
    pub(super) fn new(
        client: Arc<StoreClient>,
        lanes: Arc<LaneDirectory>,
        decoder: Arc<EntryDecoder>,
        waiter: Arc<EntryWaiter>,
    ) -> Self {
        let budget = ClaimBudget::new(MAX_CLAIM);
        Self { client, lanes, decoder, waiter, budget, has_backlog: AtomicBool::new(false) }
    }

    /// Claims entries that wait in the lanes of the request. Returns at once, with nothing if none waits.
    pub(super) async fn claim(&self, request: ClaimRequest) -> Result<Vec<Delivery>, Error> {
        let demands = self.waiter.skip_empty_lanes(request.lanes.iter().filter(|demand| demand.free > 0).collect());
        let lanes: Vec<Lane> = demands.iter().map(|demand| demand.lane.clone()).collect();
        if lanes.is_empty() || request.max == 0 {
            return Ok(Vec::new());
        }
        let max = self.budget.limit(request.max);
        let shares = fair_shares(&demands.iter().map(|demand| demand.free).collect::<Vec<_>>(), max);
        let may_read = lanes.len() <= MAX_READS.min(max);
        let (mut raw, mut all_read) = (Vec::new(), true);
        if may_read && self.has_backlog.load(Ordering::Relaxed) {
            let read = self.read_lanes(&lanes, &shares).await;
            all_read = read.iter().all(Result::is_ok);
            if read.iter().any(|read| matches!(read, Err(failure) if failure.is_ambiguous())) {
                self.budget.note_loss(max);
            }
            raw = read.into_iter().flatten().flatten().collect();
        }
        if raw.is_empty() {
            self.lanes.make(self.lanes.find_missing(&lanes)).await?;
            let max = self.budget.limit(max);
            raw = self.call_claim(&demands, &lanes, max).await.inspect_err(|failure| {
                if failure.is_ambiguous() {
                    self.budget.note_loss(max);
                }
            })?;
        }
        self.budget.note_result(raw.len());
        let has_its_share = |(lane, share): (&Lane, &usize)| {
            *share > 0 && raw.iter().filter(|entry| entry.lane == *lane).count() >= *share
        };
        self.has_backlog.store(all_read && lanes.iter().zip(&shares).any(has_its_share), Ordering::Relaxed);
        Ok(self.decoder.deliver(raw).await)
    }

    /// Reads each lane with a command of its own. The script deals with failures: in this claim if nothing was read,
    /// otherwise in the next.
    async fn read_lanes(&self, lanes: &[Lane], shares: &[usize]) -> Vec<Result<Vec<RawEntry>, CallFailure>> {
        let client = &self.client;
        let reads = lanes.iter().zip(shares).map(|(lane, share)| async move {
            let mut command = redis::cmd("XREADGROUP");
            command.arg("GROUP").arg(GROUP).arg(client.consumer.as_str()).arg("COUNT").arg(*share);
            command.arg("STREAMS").arg(client.keys.lane(lane).as_ref()).arg(">");
            match client.link.try_command(&command).await? {
                Some(reply) => read_stream(lane, reply),
                None => Err(CallFailure::not_understood("the lane cannot be read")),
            }
        });
        join_all(reads).await
    }

    /// Claims a fair share of each lane in one script, which also repairs missing groups.
    async fn call_claim(
        &self,
        demands: &[&LaneDemand],
        lanes: &[Lane],
        max: usize,
    ) -> Result<Vec<RawEntry>, CallFailure> {
        let client = &self.client;
        let mut call = client
            .script_call(&client.scripts.claim)
            .text(&client.consumer)
            .number(max)
            .number(lanes.len())
            .lane_keys(&client.keys, lanes);
        for demand in demands {
            call.push_number(demand.free);
        }
        let [entries, last, problems, n_repaired] = reply::tuple(client.call(&call).await?)?;
        let mut raw = Vec::new();
        for entry in reply::array(entries)? {
            let [place, entry, fields] = reply::tuple(entry)?;
            let Some(lane) = reply::index(&place)?.checked_sub(1).and_then(|index| lanes.get(index)) else { continue };
            raw.push(RawEntry::read(lane, entry, fields)?);
        }
        let found: HashSet<&Lane> = raw.iter().map(|entry| &entry.lane).collect();
        for (lane, last) in lanes.iter().zip(reply::array(last)?) {
            self.waiter.note_claimed(lane, reply::text(last)?, !found.contains(lane));
        }
        let problems = reply::array(problems)?.into_iter().map(reply::text).collect::<Result<_, _>>()?;
        if let Some(message) = join_messages(problems) {
            client.troubles().raise(TroubleKind::Misplaced, message);
        }
        if reply::count(&n_repaired)? > 0 {
            // Groups do not vanish by themselves, so the store may have lost more.
            client
                .troubles()
                .warn("group", || "a consumer group was missing and was made again at its first entry".into());
            client.check_soon.notify_one();
        }
        Ok(raw)
    }
}

/// Reads the reply to `XREADGROUP` for one lane.
fn read_stream(lane: &Lane, reply: Value) -> Result<Vec<RawEntry>, CallFailure> {
    let Some(stream) = reply::array(reply)?.into_iter().next() else { return Ok(Vec::new()) };
    let [_, entries] = reply::tuple(stream)?;
    let read = |entry| {
        let [entry, fields] = reply::tuple(entry)?;
        RawEntry::read(lane, entry, fields)
    };
    reply::array(entries)?.into_iter().map(read).collect()
}

/// A full claim raises the budget by one part in so many, and by at least one.
const GROWTH_PARTS: usize = 16;

/// The most entries that the next claim may ask for.
#[derive(Debug)]
pub(super) struct ClaimBudget {
    max: usize,
    current: AtomicUsize,
}

impl ClaimBudget {
    /// A budget of `max` until a reply is lost.
    pub(super) fn new(max: usize) -> Self {
        Self { max, current: AtomicUsize::new(max) }
    }

    /// Limits a number of wanted entries.
    pub(super) fn limit(&self, wanted: usize) -> usize {
        wanted.min(self.current.load(Ordering::Relaxed))
    }

    /// Notes that the reply to a claim of so many entries was lost.
    pub(super) fn note_loss(&self, asked: usize) {
        let halved = |now: usize| Some(now.min(asked / 2).max(1));
        let _ = self.current.fetch_update(Ordering::Relaxed, Ordering::Relaxed, halved);
    }

    /// Notes that a claim returned so many entries.
    pub(super) fn note_result(&self, n: usize) {
        let grown =
            |now: usize| (n >= now && now < self.max).then(|| (now + (now / GROWTH_PARTS).max(1)).min(self.max));
        let _ = self.current.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lost_reply_halves_the_budget_and_full_claims_raise_it_again() {
        let budget = ClaimBudget::new(500);
        assert_eq!((budget.limit(9), budget.limit(800)), (9, 500));
        budget.note_loss(500);
        assert_eq!((budget.limit(9), budget.limit(800)), (9, 250));
        budget.note_loss(40);
        assert_eq!(budget.limit(800), 20);
        budget.note_result(3);
        assert_eq!(budget.limit(800), 20, "a claim that found few entries proves nothing");
        budget.note_result(20);
        assert_eq!(budget.limit(800), 21);
        for _ in 0..100 {
            budget.note_result(budget.limit(800));
        }
        assert_eq!(budget.limit(800), 500);
        for _ in 0..20 {
            budget.note_loss(budget.limit(800));
        }
        assert_eq!(budget.limit(800), 1, "the budget never reaches 0");
    }
}
