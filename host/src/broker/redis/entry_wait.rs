//! Waits until an entry may be claimed.
//!
//! A wait is a blocking read that claims nothing, on a connection of its own, from where the last claim ended. So a wait
//! may be dropped at any time, and a dropped wait delivers nothing.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::Value;

use super::client::StoreClient;
use super::connection::{CallFailure, FailureCause, RESPONSE_TIMEOUT, RedisLink, reply};
use super::lanes::LaneDirectory;
use crate::broker::{Error, Lane, LaneDemand};

/// How long a read blocks.
const BLOCK: Duration = Duration::from_secs(1);
/// How long an empty lane is skipped, for each lane of the claim. Asking for one lane takes Redis about 5 µs.
const SKIP_EACH: Duration = Duration::from_micros(100);
/// The longest time for which an empty lane is skipped.
const MAX_SKIP: Duration = Duration::from_millis(20);
/// The pause between two `CLIENT UNBLOCK` for the same read.
const UNBLOCK_EVERY: Duration = Duration::from_millis(5);

/// Waits for entries, and knows which lanes were empty a moment ago.
pub(super) struct EntryWaiter {
    client: Arc<StoreClient>,
    lanes: Arc<LaneDirectory>,
    link: Arc<RedisLink>,
    /// Where the group stood in each lane after the last claim.
    positions: Mutex<HashMap<Lane, GroupPosition>>,
    /// The read in progress. There is one at a time, because a second one would wait for the first on this connection.
    /// The read of a dropped wait stays here. The next wait must end it first, since it may read other lanes.
    read: tokio::sync::Mutex<Option<BlockingRead>>,
}

/// A blocking read, which connects first if it has to.
type BlockingRead = Pin<Box<dyn Future<Output = Result<Value, CallFailure>> + Send>>;

struct GroupPosition {
    /// The last delivered entry.
    entry: String,
    /// When the lane had no entry after it; `None` if it may have one.
    empty_at: Option<Instant>,
}

impl EntryWaiter {
    /// Connects at the first wait.
    pub(super) fn new(client: Arc<StoreClient>, lanes: Arc<LaneDirectory>) -> Self {
        let link = Arc::new(client.link.sibling(BLOCK + RESPONSE_TIMEOUT));
        Self { client, lanes, link, positions: Mutex::default(), read: tokio::sync::Mutex::default() }
    }

    /// Notes where a claim ended in a lane: the next wait reads after `entry`. An empty `entry` means that the lane has
    /// no group.
    pub(super) fn note_claimed(&self, lane: &Lane, entry: String, is_empty: bool) {
        let mut positions = self.positions.lock();
        if entry.is_empty() {
            positions.remove(lane);
        } else {
            positions.insert(lane.clone(), GroupPosition { entry, empty_at: is_empty.then(Instant::now) });
        }
    }

    /// Leaves out the demands for lanes that were empty a moment ago. If all lanes were empty, returns all demands.
    pub(super) fn skip_empty_lanes<'a>(&self, demands: Vec<&'a LaneDemand>) -> Vec<&'a LaneDemand> {
        let positions = self.positions.lock();
        let skip_for = MAX_SKIP.min(SKIP_EACH * u32::try_from(demands.len()).unwrap_or(u32::MAX));
        let was_empty = |demand: &&LaneDemand| {
            let empty_at = positions.get(&demand.lane).and_then(|position| position.empty_at);
            empty_at.is_some_and(|at| at.elapsed() < skip_for)
        };
        let rest: Vec<_> = demands.iter().filter(|demand| !was_empty(demand)).copied().collect();
        if rest.is_empty() { demands } else { rest }
    }

    /// Returns when an entry may wait in one of the lanes, or after about a second. May be dropped.
    pub(super) async fn wait(&self, lanes: &[Lane]) -> Result<(), Error> {
        // Redis refuses a read of several keys if one of them is no stream.
        let known = self.lanes.known();
        let lanes: Vec<Lane> = lanes.iter().filter(|lane| !known.is_misplaced(lane)).cloned().collect();
        if lanes.is_empty() {
            tokio::time::sleep(BLOCK).await;
            return Ok(());
        }
        let mut read = self.read.lock().await;
        let waited = self.read_blocking(&lanes, &mut read).await;
        if let Err(failure) = &waited {
            if failure.reaction.cause == FailureCause::NoGroup {
                self.client.check_soon.notify_one();
            }
            // Callers wait in a loop, which must not spin while Redis fails.
            tokio::time::sleep(self.link.remaining_pause().clamp(BLOCK / 10, BLOCK)).await;
        }
        match waited {
            Err(failure) if failure.reaction.cause != FailureCause::NoGroup => Err(failure.into()),
            _ => Ok(()),
        }
    }

    async fn read_blocking(&self, lanes: &[Lane], read: &mut Option<BlockingRead>) -> Result<(), CallFailure> {
        if let Some(abandoned) = read {
            self.end_abandoned_read(abandoned).await?;
            *read = None;
        }
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(1).arg("BLOCK").arg(BLOCK.as_millis() as u64).arg("STREAMS");
        for lane in lanes {
            command.arg(self.client.keys.lane(lane).as_ref());
        }
        {
            let positions = self.positions.lock();
            for lane in lanes {
                command.arg(positions.get(lane).map_or("$", |position| position.entry.as_str()));
            }
        }
        let link = self.link.clone();
        let reply = read.insert(Box::pin(async move { link.command(&command).await })).await;
        *read = None;
        self.note_found(lanes, reply?)
    }

    /// Notes the lanes in which a read found entries.
    fn note_found(&self, lanes: &[Lane], reply: Value) -> Result<(), CallFailure> {
        let mut keys = HashSet::new();
        for stream in reply::array(reply)? {
            let [key, _] = reply::tuple(stream)?;
            keys.insert(reply::text(key)?.into_bytes());
        }
        let mut positions = self.positions.lock();
        for lane in lanes.iter().filter(|lane| keys.contains(self.client.keys.lane(lane).as_ref())) {
            if let Some(position) = positions.get_mut(lane) {
                position.empty_at = None;
            }
        }
        Ok(())
    }

    /// Makes Redis end the read of a dropped wait. The outcome of that read does not matter.
    async fn end_abandoned_read(&self, read: &mut BlockingRead) -> Result<(), CallFailure> {
        let mut patience = Duration::ZERO;
        while tokio::time::timeout(patience, &mut *read).await.is_err() {
            // The read may reach Redis after this command, which uses another connection. So it is sent again.
            patience = UNBLOCK_EVERY;
            match self.link.live().map(|live| live.client_id) {
                Some(client_id) if client_id > 0 => {
                    let mut unblock = redis::cmd("CLIENT");
                    unblock.arg("UNBLOCK").arg(client_id);
                    self.client.link.try_command(&unblock).await?;
                }
                // Without a client id, only the time limit of the read ends it.
                Some(_) => patience = BLOCK,
                None => {}
            }
        }
        Ok(())
    }
}
