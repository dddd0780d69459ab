//! One connection to Redis, made on demand and replaced when it breaks.
//!
//! Many tasks share it, and Redis answers their calls in order. Unlike the connection manager of the client library, it
//! reconnects after the server was demoted, and a call fails at once when no connection can be made. Only
//! [`RedisLink::call_until_known`] repeats a call by itself. No call goes over a connection whose server was not vetted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd};
use tokio::sync::{Notify, Semaphore};

use super::fault::{CallFailure, ConnectionFate, FailureCause, classify, classify_connect};
use super::gate::ConnectionGate;
use super::reply::RedisReply;
use super::target::{LinkTarget, unreachable};
use super::troubles::{LOSS, TroubleBoard, TroubleKind};
use super::vetting::{RESTART_QUARANTINE, ServerVetting, VettingVerdict};
use crate::broker::redis::scripts::ScriptCall;
use crate::broker::redis::scripts::keys::StoreKeys;

/// The time limit for connecting, `CLIENT ID` included, and for vetting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The time limit for one reply.
pub(in crate::broker::redis) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a call is repeated after its reply was lost.
const REPEATS: usize = 3;
/// The time limit for a call and its repetitions.
const REPEAT_WITHIN: Duration = Duration::from_secs(5);

/// What the links of one broker share.
struct SharedLinkState {
    target: LinkTarget,
    gate: ConnectionGate,
    troubles: TroubleBoard,
    vetting: ServerVetting,
    /// Notified after each new connection.
    connected: Notify,
}

/// A connection that is made on demand.
pub(in crate::broker::redis) struct RedisLink {
    client: redis::Client,
    config: AsyncConnectionConfig,
    shared: Arc<SharedLinkState>,
    live: ArcSwapOption<LiveConnection>,
    connecting: Semaphore,
}

/// A connection that worked when it was last used.
pub(in crate::broker::redis) struct LiveConnection {
    connection: MultiplexedConnection,
    /// What `CLIENT ID` answered; 0 if the command is not allowed.
    pub(in crate::broker::redis) client_id: i64,
    is_vetted: AtomicBool,
}

impl RedisLink {
    /// A link that is not connected yet.
    pub(in crate::broker::redis) fn new(client: redis::Client, target: LinkTarget) -> Self {
        Self::with_timeout(client, Arc::new(SharedLinkState::new(target)), RESPONSE_TIMEOUT)
    }

    fn with_timeout(client: redis::Client, shared: Arc<SharedLinkState>, response_timeout: Duration) -> Self {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(response_timeout));
        Self { client, config, shared, live: ArcSwapOption::empty(), connecting: Semaphore::new(1) }
    }

    /// A second link to the same server, not connected yet.
    pub(in crate::broker::redis) fn sibling(&self, response_timeout: Duration) -> Self {
        Self::with_timeout(self.client.clone(), self.shared.clone(), response_timeout)
    }

    /// Host and port of the server, or the path of its socket.
    pub(in crate::broker::redis) fn address(&self) -> &str {
        &self.shared.target.address
    }

    /// The beginning of a command line that reaches the server. It has no password.
    pub(in crate::broker::redis) fn cli_words(&self) -> &str {
        &self.shared.target.cli
    }

    pub(in crate::broker::redis) fn troubles(&self) -> &TroubleBoard {
        &self.shared.troubles
    }

    pub(in crate::broker::redis) fn vetting(&self) -> &ServerVetting {
        &self.shared.vetting
    }

    /// Returns when a link of this broker has connected since the last call.
    pub(in crate::broker::redis) async fn connected(&self) {
        self.shared.connected.notified().await;
    }

    /// Time until the next connection may be made.
    pub(in crate::broker::redis) fn remaining_pause(&self) -> Duration {
        self.shared.gate.remaining_pause()
    }

    /// Sends a command and waits for its reply. When this future is dropped, the command may still take effect.
    pub(in crate::broker::redis) async fn command(&self, command: &Cmd) -> Result<RedisReply, CallFailure> {
        self.send(command, None).await
    }

    /// Sends a command, which may be the call of a script.
    async fn send(&self, command: &Cmd, call: Option<&ScriptCall<'_>>) -> Result<RedisReply, CallFailure> {
        let live = self.connect().await?;
        match command.query_async::<RedisReply>(&mut live.connection.clone()).await {
            Ok(reply) => {
                self.note_reply();
                Ok(reply)
            }
            Err(error) => {
                let failure =
                    CallFailure { reaction: classify(&error), message: self.shared.target.describe(&error, call) };
                self.react_to(&live, &failure);
                Err(failure)
            }
        }
    }

    /// Sends a command that the server may refuse; a refusal is `None` and no trouble.
    pub(in crate::broker::redis) async fn try_command(&self, command: &Cmd) -> Result<Option<RedisReply>, CallFailure> {
        let live = self.connect().await?;
        match command.query_async::<RedisReply>(&mut live.connection.clone()).await {
            Ok(reply) => {
                self.note_reply();
                Ok(Some(reply))
            }
            Err(error) => {
                let failure =
                    CallFailure { reaction: classify(&error), message: self.shared.target.describe(&error, None) };
                if matches!(failure.reaction.cause, FailureCause::Denied | FailureCause::Misplaced) {
                    self.note_reply();
                    return Ok(None);
                }
                self.react_to(&live, &failure);
                Err(failure)
            }
        }
    }

    /// Calls a script by its digest, or with its text if the server does not know the digest.
    pub(in crate::broker::redis) async fn call(&self, call: &ScriptCall<'_>) -> Result<RedisReply, CallFailure> {
        match self.send(&call.by_digest(), Some(call)).await {
            Err(failure) if failure.reaction.cause == FailureCause::NoScript => {
                self.send(&call.by_text(), Some(call)).await
            }
            result => result,
        }
    }

    /// Calls a script, and repeats the call while it is unknown whether it took effect. Only for scripts that recognize
    /// a repetition. Takes up to five seconds.
    pub(in crate::broker::redis) async fn call_until_known(
        &self,
        call: &ScriptCall<'_>,
    ) -> Result<RedisReply, CallFailure> {
        let deadline = Instant::now() + REPEAT_WITHIN;
        let mut in_doubt = None;
        for _ in 0..=REPEATS {
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.call(call)).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(failure)) if failure.is_ambiguous() => in_doubt = Some(failure),
                Ok(Err(failure)) if in_doubt.is_none() || failure.reaction.cause == FailureCause::Misplaced => {
                    return Err(failure);
                }
                // This failure does not tell what became of the first call.
                Ok(Err(_)) => {}
                Err(_) => {
                    in_doubt.get_or_insert_with(|| CallFailure::interrupted("Redis did not answer in time"));
                    break;
                }
            }
            let pause = self.remaining_pause().max(Duration::from_millis(20));
            if Instant::now() + pause >= deadline {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        Err(in_doubt.unwrap_or_else(|| CallFailure::interrupted("Redis did not answer in time")))
    }

    /// The current connection; `None` if there is none.
    pub(in crate::broker::redis) fn live(&self) -> Option<Arc<LiveConnection>> {
        self.live.load_full()
    }

    async fn connect(&self) -> Result<Arc<LiveConnection>, CallFailure> {
        if let Some(live) = self.usable_connection() {
            return Ok(live);
        }
        let Ok(_permit) = self.connecting.acquire().await else {
            return Err(CallFailure::unreachable("the connection is closed"));
        };
        // Another task may have connected while this one waited for the permit.
        if let Some(live) = self.usable_connection() {
            return Ok(live);
        }
        let live = match self.live.load_full() {
            Some(unvetted) => unvetted,
            None => {
                if let Err(closed) = self.shared.gate.enter() {
                    return Err(CallFailure::unreachable(closed.reason));
                }
                let opened = self.open_connection().await.map_err(|error| self.note_unreachable(&error))?;
                self.live.store(Some(opened.clone()));
                opened
            }
        };
        self.vet(&live).await?;
        Ok(live)
    }

    fn usable_connection(&self) -> Option<Arc<LiveConnection>> {
        self.live.load_full().filter(|live| live.is_vetted.load(Ordering::Acquire))
    }

    fn note_unreachable(&self, error: &redis::RedisError) -> CallFailure {
        let reaction = classify_connect(error);
        let message = match reaction.cause {
            FailureCause::Denied => self.shared.target.describe(error, None),
            _ => {
                let reason = self.shared.target.without_password(error.to_string());
                format!("{}{reason}", unreachable(self.address()))
            }
        };
        self.shared.gate.note_failure(&message, reaction.connection);
        let failure = CallFailure { reaction, message };
        self.troubles().note_failure(&failure);
        failure
    }

    /// Finds out whether commands may go over a new connection; see [`ServerVetting`].
    async fn vet(&self, live: &Arc<LiveConnection>) -> Result<(), CallFailure> {
        let vetting = &self.shared.vetting;
        let mark = vetting.mark();
        let asked = tokio::time::timeout(CONNECT_TIMEOUT, vetting.ask(&live.connection)).await;
        let sighting = match asked.unwrap_or_else(|_| Err(timed_out())) {
            Ok(sighting) => sighting,
            Err(error) => {
                self.drop_connection(live);
                return Err(self.note_unreachable(&error));
            }
        };
        let verdict = sighting.map_or(VettingVerdict::Usable, |it| vetting.judge(it, &mark, Instant::now()));
        let failure = match verdict {
            VettingVerdict::Usable => {
                if vetting.has_found_loss() {
                    self.troubles().raise(TroubleKind::Loss, LOSS);
                }
                self.troubles().clear(TroubleKind::Quarantined);
                live.is_vetted.store(true, Ordering::Release);
                self.shared.connected.notify_one();
                return Ok(());
            }
            VettingVerdict::Loading => CallFailure::busy("Redis is loading its data"),
            VettingVerdict::Quarantined => CallFailure::quarantined(format!(
                "Redis at {} has restarted and had replicas, one of which may have taken over: nothing is accepted or \
                 handled until it has been the primary for {RESTART_QUARANTINE:?}",
                self.address()
            )),
        };
        self.note_reply();
        self.troubles().note_failure(&failure);
        Err(failure)
    }

    async fn open_connection(&self) -> Result<Arc<LiveConnection>, redis::RedisError> {
        let opening = async {
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&self.config).await?;
            let client_id =
                redis::cmd("CLIENT").arg("ID").query_async::<i64>(&mut connection).await.or_else(|error| {
                    // Without this command, all is possible but to end a blocking read early. It may be forbidden or renamed.
                    let cause = classify(&error).cause;
                    if matches!(cause, FailureCause::Denied | FailureCause::Misplaced) { Ok(0) } else { Err(error) }
                })?;
            Ok(Arc::new(LiveConnection { connection, client_id, is_vetted: AtomicBool::new(false) }))
        };
        tokio::time::timeout(CONNECT_TIMEOUT, opening).await.unwrap_or_else(|_| Err(timed_out()))
    }

    fn note_reply(&self) {
        self.shared.gate.note_success();
        self.troubles().clear(TroubleKind::Unreachable);
    }

    fn react_to(&self, live: &Arc<LiveConnection>, failure: &CallFailure) {
        match failure.reaction.connection {
            ConnectionFate::Keep => self.note_reply(),
            ConnectionFate::Rebuild => self.drop_connection(live),
            ConnectionFate::RebuildSlowly => {
                self.shared.gate.note_failure(&failure.message, failure.reaction.connection);
                self.drop_connection(live);
            }
        }
        self.troubles().note_failure(failure);
    }

    /// Drops a broken connection, unless another task has replaced it already.
    fn drop_connection(&self, broken: &Arc<LiveConnection>) {
        let current = self.live.load();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, broken)) {
            self.live.compare_and_swap(&current, None);
        }
    }
}

fn timed_out() -> redis::RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time").into()
}

impl SharedLinkState {
    fn new(target: LinkTarget) -> Self {
        Self {
            vetting: ServerVetting::new(&StoreKeys::new(&target.namespace)),
            target,
            gate: ConnectionGate::default(),
            troubles: TroubleBoard::new(),
            connected: Notify::new(),
        }
    }
}
