//! Taking what waits, and waiting until there is something to take.
//!
//! Taking is one script over all lanes, without blocking. Waiting is apart from it: a blocking read that takes nothing,
//! on a connection of its own, from where the last claim left off. So a wait may be dropped at any time, and an answer
//! that nobody hears delivers nothing to nobody.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::board::Trouble;
use super::core::Core;
use super::entry::{RawEntry, read_fields};
use super::fault::Cause;
use super::link::{Link, RESPONSE_TIMEOUT};
use super::reply;
use crate::broker::{Claim, Delivery, Error, Lane};

/// How long a read blocks.
const BLOCK: Duration = Duration::from_secs(1);
/// The most entries of one claim: a script is not to hold up Redis.
const MAX_CLAIM: usize = 500;

impl Core {
    /// Takes new entries; see [`crate::broker::Broker::claim`].
    pub(super) async fn claim(&self, claim: Claim, waiter: &Waiter) -> Result<Vec<Delivery>, Error> {
        let wants: Vec<_> = claim.lanes.iter().filter(|want| want.free > 0).collect();
        let lanes: Vec<Lane> = wants.iter().map(|want| want.lane.clone()).collect();
        if lanes.is_empty() || claim.max == 0 {
            return Ok(Vec::new());
        }
        self.make_lanes(self.missing_lanes(&lanes)).await?;
        let mut call = self
            .script(&self.scripts.claim)
            .text(&self.consumer)
            .number(claim.max.min(MAX_CLAIM))
            .number(lanes.len())
            .lane_keys(&self.keys, &lanes);
        for want in &wants {
            call.push_number(want.free);
        }
        let [entries, last, problems, mended] = reply::tuple(self.link.call(&call).await?)?;
        let mut raw = Vec::new();
        for entry in reply::array(entries)? {
            let [place, entry, fields] = reply::tuple(entry)?;
            let Some(lane) = reply::place(&place)?.checked_sub(1).and_then(|place| lanes.get(place)) else { continue };
            raw.push(RawEntry {
                lane: lane.clone(),
                entry: reply::text(entry)?,
                deliveries: 1,
                fields: read_fields(fields)?,
            });
        }
        for (lane, last) in lanes.iter().zip(reply::array(last)?) {
            waiter.goes_on_from(lane, reply::text(last)?);
        }
        for problem in reply::array(problems)? {
            self.board().raise(Trouble::Misplaced, reply::text(problem)?);
        }
        if reply::count(&mended)? > 0 {
            // A group does not go by itself: the rest of the store may be gone as well.
            self.board().remark("group", || "a consumer group was gone and begins anew at its first entry".into());
            self.look.notify_one();
        }
        Ok(self.deliver(raw).await)
    }
}

/// Waits for entries.
pub(super) struct Waiter {
    link: Link,
    /// Where the group stood in each lane when it was last asked.
    positions: Mutex<HashMap<Lane, String>>,
    /// One read at a time: a second one on the same connection would wait for the first in any case.
    turn: Semaphore,
    /// A wait was dropped, so its read may still block the connection.
    is_abandoned: AtomicBool,
}

impl Waiter {
    /// A waiter with a connection of its own, made when it is needed.
    pub(super) fn new(link: &Link) -> Self {
        Self {
            link: link.sibling(BLOCK + RESPONSE_TIMEOUT),
            positions: Mutex::default(),
            turn: Semaphore::new(1),
            is_abandoned: AtomicBool::new(false),
        }
    }

    /// The next wait for this lane goes on behind this entry.
    fn goes_on_from(&self, lane: &Lane, position: String) {
        let mut positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        if position.is_empty() {
            positions.remove(lane);
        } else {
            positions.insert(lane.clone(), position);
        }
    }

    /// Ends when something may wait in one of the lanes, or after about a second. May be dropped.
    pub(super) async fn wait(&self, core: &Core, lanes: &[Lane]) -> Result<(), Error> {
        if lanes.is_empty() {
            tokio::time::sleep(BLOCK).await;
            return Ok(());
        }
        let Ok(_turn) = self.turn.acquire().await else { return Ok(()) };
        let waited = self.read(core, lanes).await;
        if let Err(failure) = &waited {
            if failure.reaction.cause == Cause::NoGroup {
                core.look.notify_one();
            }
            // Whoever calls this in a loop is held here, so that no failure makes the loop a busy one.
            let pause = self.link.line().gate.wait();
            tokio::time::sleep(pause.clamp(BLOCK / 10, BLOCK)).await;
        }
        match waited {
            Err(failure) if failure.reaction.cause != Cause::NoGroup => Err(failure.into()),
            _ => Ok(()),
        }
    }

    async fn read(&self, core: &Core, lanes: &[Lane]) -> Result<(), super::fault::Failure> {
        let live = self.link.connect().await?;
        if self.is_abandoned.swap(false, Ordering::SeqCst) && live.client_id > 0 {
            let mut unblock = redis::cmd("CLIENT");
            unblock.arg("UNBLOCK").arg(live.client_id);
            core.link.ask(&unblock).await?;
        }
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(1).arg("BLOCK").arg(BLOCK.as_millis() as u64).arg("STREAMS");
        for lane in lanes {
            read.arg(core.keys.lane(lane).as_ref());
        }
        {
            let positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
            for lane in lanes {
                read.arg(positions.get(lane).map_or("$", String::as_str));
            }
        }
        let under_way = UnderWay(&self.is_abandoned);
        let answer = self.link.command(&read).await;
        std::mem::forget(under_way);
        answer.map(|_| ())
    }
}

/// Notes that a read was dropped before it was answered.
struct UnderWay<'a>(&'a AtomicBool);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
