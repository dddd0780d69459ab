//! Checks the server and the store, at the start, regularly, and after each new connection.
//!
//! Settings change at run time, and a new connection may lead to another server. What a check finds becomes a trouble of
//! the connection's [`TroubleBoard`](super::connection::TroubleBoard).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::capacity::StoreCapacity;
use super::client::StoreClient;
use super::connection::{CallFailure, FailureCause, LOSS, TroubleKind, join_messages, reply};
use super::epoch::StoreEpoch;
use super::lanes::LaneDirectory;
use super::server_settings::{SettingsVerdict, inspect_server};

/// The period of the probe.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// The time limit of the probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The least time for which a loss of data stays visible.
const LOSS_SHOWN: Duration = Duration::from_secs(1);
/// The longest pause after a failed check.
const FAILED_CHECK_PAUSE: Duration = Duration::from_millis(500);

/// Checks one store.
pub(super) struct HealthCheck {
    pub(super) client: Arc<StoreClient>,
    pub(super) lanes: Arc<LaneDirectory>,
    pub(super) epoch: Arc<StoreEpoch>,
    pub(super) capacity: Arc<StoreCapacity>,
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
    async fn inspect_store(&self) -> Result<Option<(String, u64)>, CallFailure> {
        let client = &self.client;
        let lanes = self.lanes.known().lanes.clone();
        let call = client.script_call(&client.scripts.inspect).lane_keys(&client.keys, &lanes).number(lanes.len());
        let [epoch, accepted, misplaced] = reply::tuple(client.call(&call).await?)?;
        let misplaced = reply::array(misplaced)?.into_iter().map(reply::text).collect::<Result<_, _>>()?;
        match join_messages(misplaced) {
            Some(message) => client.troubles().raise(TroubleKind::Misplaced, message),
            None => client.troubles().clear(TroubleKind::Misplaced),
        }
        match reply::bytes(epoch.clone())? {
            Some(_) => Ok(Some((reply::text(epoch)?, reply::count(&accepted)?))),
            None => Ok(None),
        }
    }

    /// Checks everything once.
    pub(super) async fn check(&self) -> Result<(), CallFailure> {
        let seen = self.epoch.accepted_seen();
        let troubles = self.client.troubles();
        let verdict =
            self.inspect_server().await?.after(troubles.health().durability, troubles.message_of(TroubleKind::Unsafe));
        troubles.set_durability(verdict.durability);
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
        let Some((epoch, accepted)) = found else { return Ok(()) };
        if self.epoch.confirm(&epoch, accepted, seen) {
            troubles.clear(TroubleKind::Loss);
            return Ok(());
        }
        self.recover_from_loss().await
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
        let lost = self.epoch.current().to_string();
        self.epoch.adopt(&lost).await?;
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

    /// Probes every second and checks every period, until `ends` is cancelled.
    pub(super) async fn run(self, ends: CancellationToken) {
        let mut checked_at = Instant::now();
        loop {
            let is_check_due = tokio::select! {
                () = ends.cancelled() => return,
                () = tokio::time::sleep(self.check_every.min(PROBE_EVERY)) => checked_at.elapsed() >= self.check_every,
                () = self.client.check_soon.notified() => true,
                () = self.client.link.connected() => true,
            };
            self.probe().await;
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
