//! Checks the server and the store, at the start, regularly, and after each new connection.
//!
//! Settings change at run time, and a new connection may lead to another server. What a check finds becomes a trouble of
//! the connection's [`TroubleBoard`](super::connection::TroubleBoard).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::capacity::StoreCapacity;
use super::client::StoreClient;
use super::connection::{CallFailure, FailureCause, LOSS, REPLICAS_SEEN, StoreMark, TroubleKind, join_messages, reply};
use super::epoch::StoreEpoch;
use super::known_store::KnownStoreFile;
use super::lanes::LaneDirectory;
use super::server_info::ServerInfo;
use super::server_settings::{SettingsVerdict, inspect_server};

/// The period of the probe.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// The time limit of the probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The least time for which a loss of data stays visible.
const LOSS_SHOWN: Duration = Duration::from_secs(1);
/// The longest pause after a failed check.
const FAILED_CHECK_PAUSE: Duration = Duration::from_millis(500);
/// How often the store is told that it has replicas, in seconds.
const REPLICAS_NOTED_EVERY_S: u64 = 600;
/// After so many seconds without a replica, a server that ran all the time counts as one without.
const REPLICAS_FORGOTTEN_AFTER_S: u64 = 3_600;

/// Checks one store.
pub(super) struct HealthCheck {
    pub(super) client: Arc<StoreClient>,
    pub(super) lanes: Arc<LaneDirectory>,
    pub(super) epoch: Arc<StoreEpoch>,
    pub(super) capacity: Arc<StoreCapacity>,
    pub(super) known_store: KnownStoreFile,
    /// Accept events in spite of settings that may lose them.
    pub(super) allow_unsafe: bool,
    /// The period of the whole check.
    pub(super) check_every: Duration,
}

impl HealthCheck {
    /// Reads the settings of the server, and notes its memory.
    pub(super) async fn inspect_server(&self) -> Result<SettingsVerdict, CallFailure> {
        let verdict = inspect_server(&self.client.link).await?;
        self.capacity.set_memory_bytes(verdict.memory_bytes);
        Ok(verdict)
    }

    /// Reads the epoch and the total of accepted events, and raises a trouble for misplaced keys. `None` if those keys
    /// themselves are misplaced.
    pub(super) async fn inspect_store(&self) -> Result<Option<StoreMark>, CallFailure> {
        let client = &self.client;
        let lanes = self.lanes.known().lanes.clone();
        let mut call = client.script_call(&client.scripts.inspect).lane_keys(&client.keys, &lanes);
        call.push_key(client.keys.discarded());
        let [epoch, accepted, misplaced] = reply::tuple(client.call(&call).await?)?;
        let misplaced = reply::array(misplaced)?.into_iter().map(reply::text).collect::<Result<_, _>>()?;
        match join_messages(misplaced) {
            Some(message) => client.troubles().raise(TroubleKind::Misplaced, message),
            None => client.troubles().clear(TroubleKind::Misplaced),
        }
        match reply::bytes(epoch.clone())? {
            Some(_) => Ok(Some(StoreMark { epoch: reply::text(epoch)?.into(), accepted: reply::count(&accepted)? })),
            None => Ok(None),
        }
    }

    /// Checks everything once.
    pub(super) async fn check(&self) -> Result<(), CallFailure> {
        let before = self.epoch.mark();
        let troubles = self.client.troubles();
        let verdict =
            self.inspect_server().await?.after(troubles.health().durability, troubles.message_of(TroubleKind::Unsafe));
        troubles.set_durability(verdict.durability);
        troubles.set_warning(verdict.warning);
        let set = |trouble, found: Option<String>| match found {
            Some(message) => troubles.raise(trouble, message),
            None => troubles.clear(trouble),
        };
        set(TroubleKind::Unsupported, verdict.unsupported);
        set(TroubleKind::Unsafe, verdict.unsafe_settings.filter(|_| !self.allow_unsafe));
        // Only the probe clears this trouble, because it has more than one cause.
        if let Some(message) = verdict.cannot_persist {
            troubles.raise(TroubleKind::CannotPersist, message);
        }
        if verdict.has_old_log {
            self.rewrite_log().await?;
        }
        let found = self.inspect_store().await?;
        troubles.clear(TroubleKind::Denied);
        let Some(found) = found else { return Ok(()) };
        self.note_replicas(&verdict.info).await?;
        if self.epoch.confirm(&found, &before) {
            troubles.clear(TroubleKind::Loss);
            return Ok(());
        }
        self.recover_from_loss().await
    }

    /// Writes into the store whether it has replicas. The next process learns it from there, even if none is connected.
    async fn note_replicas(&self, info: &ServerInfo) -> Result<(), CallFailure> {
        let client = &self.client;
        let command = |name: &str| {
            let mut command = redis::cmd(name);
            command.arg(client.keys.counts().as_ref()).arg(REPLICAS_SEEN);
            command
        };
        let Some(seen) = client.link.try_command(&command("HGET")).await? else { return Ok(()) };
        match judge_replicas(info, reply::count(&seen).ok(), client.link.vetting().has_replicas()) {
            ReplicaNote::Keep => {}
            ReplicaNote::Write(now_s) => drop(client.link.try_command(command("HSET").arg(now_s)).await?),
            ReplicaNote::Remove => {
                client.link.try_command(&command("HDEL")).await?;
                client.link.vetting().set_has_replicas(false);
            }
        }
        Ok(())
    }

    /// Makes the server rewrite its append-only file, once in the life of the server.
    ///
    /// After a power cut, the file may end in an incomplete transaction. Redis (and Valkey until its pull request 4342 of
    /// August 2026) ignores it at the next start, but leaves it in the file. At the start after that, the commands that were
    /// written since become part of the transaction. A rewritten file does not contain it.
    async fn rewrite_log(&self) -> Result<(), CallFailure> {
        // The server refuses if another host asked first, or if the command is forbidden.
        self.client.link.try_command(&redis::cmd("BGREWRITEAOF")).await.map(drop)
    }

    /// Raises the loss, begins a new epoch or joins that of another host, and clears the loss.
    async fn recover_from_loss(&self) -> Result<(), CallFailure> {
        self.client.troubles().raise(TroubleKind::Loss, LOSS);
        self.lanes.refresh(&[]).await?;
        self.epoch.adopt(&self.epoch.current()).await?;
        tokio::time::sleep(LOSS_SHOWN).await;
        self.client.troubles().clear(TroubleKind::Loss);
        Ok(())
    }

    /// Tests whether Redis would accept events, and raises or clears the probed troubles.
    pub(super) async fn probe(&self) {
        let client = &self.client;
        let call = client.script_call(&client.scripts.probe);
        match tokio::time::timeout(PROBE_TIMEOUT, client.call(&call)).await {
            Ok(Ok(_)) => client.troubles().note_probe(None),
            // A broken connection tells nothing about the server.
            Ok(Err(failure))
                if matches!(failure.reaction.cause, FailureCause::Interrupted | FailureCause::Unreachable) => {}
            Ok(Err(failure)) => client.troubles().note_probe(Some(&failure)),
            Err(_) => {
                let address = client.link.address();
                let message = format!(
                    "Redis at {address} takes longer to answer than {PROBE_TIMEOUT:?}: is it stopped or overloaded?"
                );
                client.troubles().raise(TroubleKind::Silent, message);
            }
        }
    }

    /// Keeps what a later process of this host compares the store with.
    pub(super) async fn remember_store(&self) {
        let client = &self.client;
        let (vetting, troubles) = (client.link.vetting(), client.troubles());
        self.known_store
            .write(vetting.mark(), vetting.replication_id(), vetting.has_replicas(), client.had_keys(), troubles)
            .await;
    }

    /// Probes every second and checks every period, until `ends` is cancelled.
    pub(super) async fn run(self, ends: CancellationToken) {
        let mut checked_at = Instant::now();
        loop {
            let is_check_due = tokio::select! {
                () = ends.cancelled() => {
                    self.remember_store().await;
                    return;
                }
                () = tokio::time::sleep(self.check_every.min(PROBE_EVERY)) => checked_at.elapsed() >= self.check_every,
                () = self.client.check_soon.notified() => true,
                () = self.client.link.connected() => true,
            };
            self.probe().await;
            self.remember_store().await;
            if !is_check_due {
                continue;
            }
            checked_at = Instant::now();
            if self.check().await.is_err() {
                // The failure is a trouble already. Without a pause, many requests for a check could keep this loop busy.
                tokio::time::sleep(self.check_every.min(FAILED_CHECK_PAUSE)).await;
            }
        }
    }
}

/// What is to be written into the store about its replicas.
#[derive(Debug, PartialEq, Eq)]
enum ReplicaNote {
    Keep,
    /// A replica was connected at this time, in seconds.
    Write(u64),
    /// There are no replicas any more.
    Remove,
}

/// Compares the replicas of a server with the time at which the store last had some.
fn judge_replicas(info: &ServerInfo, seen_s: Option<u64>, has_replicas: bool) -> ReplicaNote {
    let now_s = info.clock_s();
    let age_s = seen_s.map_or(u64::MAX, |seen_s| now_s.saturating_sub(seen_s));
    let is_alone = info.replicas() == 0;
    if !is_alone && age_s >= REPLICAS_NOTED_EVERY_S {
        ReplicaNote::Write(now_s)
    } else if is_alone && has_replicas && age_s.min(info.uptime().as_secs()) > REPLICAS_FORGOTTEN_AFTER_S {
        ReplicaNote::Remove
    } else {
        ReplicaNote::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_told_of_its_replicas_and_forgets_them_after_an_hour_alone() {
        let judge = |replicas: u64, uptime: u64, seen| {
            let text = format!("connected_slaves:{replicas}\nuptime_in_seconds:{uptime}\nserver_time_usec:9000000000");
            judge_replicas(&ServerInfo::parse(&text), seen, seen.is_some())
        };
        assert_eq!(judge(0, 9_000, None), ReplicaNote::Keep);
        assert_eq!(judge(1, 9_000, None), ReplicaNote::Write(9_000));
        assert_eq!(judge(1, 9_000, Some(8_900)), ReplicaNote::Keep);
        assert_eq!(judge(1, 9_000, Some(8_000)), ReplicaNote::Write(9_000));
        assert_eq!(judge(0, 9_000, Some(8_000)), ReplicaNote::Keep);
        assert_eq!(judge(0, 9_000, Some(1_000)), ReplicaNote::Remove);
        assert_eq!(judge(0, 60, Some(1_000)), ReplicaNote::Keep, "it restarted, and its replicas may be elsewhere");
    }
}
