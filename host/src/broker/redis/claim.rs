//! Taking what waits, and waiting until there is something to take.
//!
//! Taking is one script over the lanes that may hold something, without blocking; where much waits, a plain read of each
//! lane, since a script copies every payload in and out, which costs Redis more than anything else about a claim. Waiting
//! is apart from it: a blocking read that takes nothing, on a connection of its own, from where the last claim left off.
//! So a wait may be dropped at any time, and an answer that nobody hears delivers nothing to nobody.
//!
//! A lane that was found empty is left out for a moment while others are not, so that an event costs the same whether one
//! plugin is loaded or hundreds. Nothing is overlooked for it: a claim that brings nothing is followed by a wait, which is
//! for all lanes and tells which of them are not empty any more.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::{Mutex, MutexGuard};
use redis::Value;

use super::appetite::ClaimBudget;
use super::board::{TroubleKind, told};
use super::core::RedisCore;
use super::entry::RawEntry;
use super::fault::{CallFailure, FailureCause};
use super::keys::GROUP;
use super::link::{RESPONSE_TIMEOUT, RedisLink};
use super::reply;
use crate::broker::fair_share::fair_shares;
use crate::broker::{ClaimRequest, Delivery, Error, Lane, LaneDemand};

/// How long a read blocks.
const BLOCK: Duration = Duration::from_secs(1);
/// For how long a lane that was empty is not asked while there are others to ask, for each lane that there is: asking for
/// one takes Redis about 5 µs.
const EMPTY_FOR: Duration = Duration::from_micros(100);
/// The most that it is with many lanes.
const MAX_EMPTY_FOR: Duration = Duration::from_millis(20);
/// How often Redis is told to end a read that nobody waits for.
const UNBLOCK_EVERY: Duration = Duration::from_millis(5);
/// The most entries of one claim: a script is not to hold up Redis.
const MAX_CLAIM: usize = 500;
/// The most lanes that are read by commands of their own.
const MAX_READS: usize = 8;

impl RedisCore {
    /// Takes new entries; see [`crate::broker::WorkQueue::claim`].
    pub(super) async fn claim(&self, claim: ClaimRequest, waiter: &EntryWaiter) -> Result<Vec<Delivery>, Error> {
        let wants = waiter.worth_asking(claim.lanes.iter().filter(|want| want.free > 0).collect());
        let lanes: Vec<Lane> = wants.iter().map(|want| want.lane.clone()).collect();
        if lanes.is_empty() || claim.max == 0 {
            return Ok(Vec::new());
        }
        let max = waiter.appetite.of(claim.max);
        let demands: Vec<usize> = wants.iter().map(|want| want.free).collect();
        let shares = fair_shares(&demands, max);
        let may_read = lanes.len() <= MAX_READS.min(max);
        let (mut raw, mut all_read) = (Vec::new(), true);
        if may_read && waiter.much_waits.load(Ordering::Relaxed) {
            let read = self.read_lanes(&lanes, &shares).await;
            all_read = read.iter().all(Result::is_ok);
            if read.iter().any(|read| matches!(read, Err(failure) if failure.is_ambiguous())) {
                waiter.appetite.lost(max);
            }
            raw = read.into_iter().flatten().flatten().collect();
        }
        if raw.is_empty() {
            self.make_lanes(self.missing_lanes(&lanes)).await?;
            let max = waiter.appetite.of(max);
            raw = self.take_new(&wants, &lanes, max, waiter).await.inspect_err(|failure| {
                if failure.is_ambiguous() {
                    waiter.appetite.lost(max);
                }
            })?;
        }
        waiter.appetite.brought(raw.len());
        let has_its_share = |(lane, share): (&Lane, &usize)| {
            *share > 0 && raw.iter().filter(|entry| entry.lane == *lane).count() >= *share
        };
        waiter.much_waits.store(all_read && lanes.iter().zip(&shares).any(has_its_share), Ordering::Relaxed);
        Ok(self.deliver(raw).await)
    }

    /// Reads each lane by itself. What goes wrong is left to the script: it is called at once if this brings nothing, else
    /// the next time.
    async fn read_lanes(&self, lanes: &[Lane], shares: &[usize]) -> Vec<Result<Vec<RawEntry>, CallFailure>> {
        let reads = lanes.iter().zip(shares).map(|(lane, share)| async move {
            let mut read = redis::cmd("XREADGROUP");
            read.arg("GROUP").arg(GROUP).arg(self.consumer.as_str()).arg("COUNT").arg(*share);
            read.arg("STREAMS").arg(self.keys.lane(lane).as_ref()).arg(">");
            match self.link.ask(&read).await? {
                Some(answer) => read_lane(lane, answer),
                None => Err(CallFailure::not_understood("the lane cannot be read")),
            }
        });
        join_all(reads).await
    }

    /// Reads all lanes in one step, each its fair share, and puts right what stands in the way.
    async fn take_new(
        &self,
        wants: &[&LaneDemand],
        lanes: &[Lane],
        max: usize,
        waiter: &EntryWaiter,
    ) -> Result<Vec<RawEntry>, CallFailure> {
        let mut call = self
            .script(&self.scripts.claim)
            .text(&self.consumer)
            .number(max)
            .number(lanes.len())
            .lane_keys(&self.keys, lanes);
        for want in wants {
            call.push_number(want.free);
        }
        let [entries, last, problems, mended] = reply::tuple(self.link.call(&call).await?)?;
        let mut raw = Vec::new();
        for entry in reply::array(entries)? {
            let [place, entry, fields] = reply::tuple(entry)?;
            let Some(lane) = reply::place(&place)?.checked_sub(1).and_then(|place| lanes.get(place)) else { continue };
            raw.push(RawEntry::new(lane, entry, fields)?);
        }
        let found: HashSet<&Lane> = raw.iter().map(|entry| &entry.lane).collect();
        for (lane, last) in lanes.iter().zip(reply::array(last)?) {
            waiter.goes_on_from(lane, reply::text(last)?, !found.contains(lane));
        }
        if let Some(words) = told(reply::array(problems)?.into_iter().map(reply::text).collect::<Result<_, _>>()?) {
            self.board().raise(TroubleKind::Misplaced, words);
        }
        if reply::count(&mended)? > 0 {
            // A group does not go by itself: the rest of the store may be gone as well.
            self.board().remark("group", || "a consumer group was gone and begins anew at its first entry".into());
            self.look.notify_one();
        }
        Ok(raw)
    }
}

/// The entries in the answer to a read of one lane.
fn read_lane(lane: &Lane, answer: Value) -> Result<Vec<RawEntry>, CallFailure> {
    let Some(stream) = reply::array(answer)?.into_iter().next() else { return Ok(Vec::new()) };
    let [_, entries] = reply::tuple(stream)?;
    let read = |entry| {
        let [entry, fields] = reply::tuple(entry)?;
        RawEntry::new(lane, entry, fields)
    };
    reply::array(entries)?.into_iter().map(read).collect()
}

/// Waits for entries.
pub(super) struct EntryWaiter {
    link: Arc<RedisLink>,
    /// Where the group stood in each lane when it was last asked.
    positions: Mutex<HashMap<Lane, GroupPosition>>,
    /// How much a claim may bring.
    appetite: ClaimBudget,
    /// Whether the last claim brought as much of a lane as was asked for.
    much_waits: AtomicBool,
    /// The read under way. One at a time: a second one on the same connection would wait for the first in any case. That
    /// of a wait that was dropped stays here until it has been ended, since it may be for other lanes than the next.
    under_way: tokio::sync::Mutex<Option<BlockingRead>>,
}

/// A blocking read, making the connection for it included; gives what Redis found.
type BlockingRead = Pin<Box<dyn Future<Output = Result<Value, CallFailure>> + Send>>;

/// Where the group of a lane stood.
struct GroupPosition {
    /// The last entry that was delivered.
    entry: String,
    /// When nothing was behind it.
    empty_at: Option<Instant>,
}

impl EntryWaiter {
    /// A waiter with a connection of its own, made when it is needed.
    pub(super) fn new(link: &RedisLink) -> Self {
        Self {
            link: Arc::new(link.sibling(BLOCK + RESPONSE_TIMEOUT)),
            positions: Mutex::default(),
            appetite: ClaimBudget::new(MAX_CLAIM),
            much_waits: AtomicBool::new(false),
            under_way: tokio::sync::Mutex::default(),
        }
    }

    /// The next wait for this lane goes on behind this entry.
    fn goes_on_from(&self, lane: &Lane, entry: String, is_empty: bool) {
        let mut positions = self.positions();
        if entry.is_empty() {
            positions.remove(lane);
        } else {
            positions.insert(lane.clone(), GroupPosition { entry, empty_at: is_empty.then(Instant::now) });
        }
    }

    /// Those that are not known to be empty; all, if that is known of all.
    fn worth_asking<'a>(&self, wants: Vec<&'a LaneDemand>) -> Vec<&'a LaneDemand> {
        let positions = self.positions();
        let empty_for = MAX_EMPTY_FOR.min(EMPTY_FOR * u32::try_from(wants.len()).unwrap_or(u32::MAX));
        let was_empty = |want: &&LaneDemand| {
            let empty_at = positions.get(&want.lane).and_then(|position| position.empty_at);
            empty_at.is_some_and(|at| at.elapsed() < empty_for)
        };
        let worth: Vec<_> = wants.iter().filter(|want| !was_empty(want)).copied().collect();
        if worth.is_empty() { wants } else { worth }
    }

    /// Something was found in the lanes that a read of these names.
    fn note(&self, core: &RedisCore, lanes: &[Lane], found: Value) -> Result<(), CallFailure> {
        let mut keys = HashSet::new();
        for stream in reply::array(found)? {
            let [key, _] = reply::tuple(stream)?;
            keys.insert(reply::text(key)?.into_bytes());
        }
        let mut positions = self.positions();
        for lane in lanes.iter().filter(|lane| keys.contains(core.keys.lane(lane).as_ref())) {
            if let Some(position) = positions.get_mut(lane) {
                position.empty_at = None;
            }
        }
        Ok(())
    }

    fn positions(&self) -> MutexGuard<'_, HashMap<Lane, GroupPosition>> {
        self.positions.lock()
    }

    /// Ends when something may wait in one of the lanes, or after about a second. May be dropped.
    pub(super) async fn wait(&self, core: &RedisCore, lanes: &[Lane]) -> Result<(), Error> {
        // A read of which one lane is no stream is refused for all.
        let book = core.book();
        let lanes: Vec<Lane> = lanes.iter().filter(|lane| !book.is_misplaced(lane)).cloned().collect();
        if lanes.is_empty() {
            tokio::time::sleep(BLOCK).await;
            return Ok(());
        }
        let mut under_way = self.under_way.lock().await;
        let waited = self.read(core, &lanes, &mut under_way).await;
        if let Err(failure) = &waited {
            if failure.reaction.cause == FailureCause::NoGroup {
                core.look.notify_one();
            }
            // Whoever calls this in a loop is held here, so that no failure makes the loop a busy one.
            let pause = self.link.line().gate.wait();
            tokio::time::sleep(pause.clamp(BLOCK / 10, BLOCK)).await;
        }
        match waited {
            Err(failure) if failure.reaction.cause != FailureCause::NoGroup => Err(failure.into()),
            _ => Ok(()),
        }
    }

    async fn read(
        &self,
        core: &RedisCore,
        lanes: &[Lane],
        under_way: &mut Option<BlockingRead>,
    ) -> Result<(), CallFailure> {
        if let Some(abandoned) = under_way {
            self.end(core, abandoned).await?;
            *under_way = None;
        }
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(1).arg("BLOCK").arg(BLOCK.as_millis() as u64).arg("STREAMS");
        for lane in lanes {
            read.arg(core.keys.lane(lane).as_ref());
        }
        {
            let positions = self.positions();
            for lane in lanes {
                read.arg(positions.get(lane).map_or("$", |position| position.entry.as_str()));
            }
        }
        let link = self.link.clone();
        let answer = under_way.insert(Box::pin(async move { link.command(&read).await })).await;
        *under_way = None;
        self.note(core, lanes, answer?)
    }

    /// Has Redis answer a read that nobody waits for any more. What it says does not matter, nor how it failed.
    async fn end(&self, core: &RedisCore, abandoned: &mut BlockingRead) -> Result<(), CallFailure> {
        let mut patience = Duration::ZERO;
        while tokio::time::timeout(patience, &mut *abandoned).await.is_err() {
            // The read may reach Redis after this does, on another connection, and is then told once more.
            patience = UNBLOCK_EVERY;
            match self.link.live().map(|live| live.client_id) {
                Some(client_id) if client_id > 0 => {
                    let mut unblock = redis::cmd("CLIENT");
                    unblock.arg("UNBLOCK").arg(client_id);
                    core.link.ask(&unblock).await?;
                }
                // Who may not ask for a client's name waits until the read ends by itself.
                Some(_) => patience = BLOCK,
                None => {}
            }
        }
        Ok(())
    }
}
