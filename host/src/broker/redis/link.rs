//! One connection to Redis, made when it is needed and made again when it broke.
//!
//! Calls of many tasks share it; Redis answers them in order. Unlike the connection manager of the client library, it is
//! rebuilt when the server was demoted, and a caller is told at once, not after a long wait, when there is no connection
//! to be had. It never repeats a call by itself but where [`Link::repeat`] is asked to, for scripts of which a
//! repetition is recognised.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd};
use tokio::sync::{Notify, Semaphore};

use super::board::{TroubleBoard, TroubleKind};
use super::fault::{CallFailure, ConnectionFate, FailureCause, classify, classify_connect};
use super::gate::AppendGate;
use super::reply::RedisReply;
use super::scripts::ScriptCall;
use crate::secret::SecretText;

/// How long making a connection may take, introductions included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an answer may take.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
/// A call whose answer was lost is repeated so often.
const REPEATS: usize = 3;
/// And given up so long after it was made first.
const REPEAT_WITHIN: Duration = Duration::from_secs(5);
/// How a server that does not know a command begins to quote what followed it.
const ARGUMENTS: &str = ", with args beginning with";
/// What is shorter would be found in ordinary words.
const MIN_PASSWORD_BYTES: usize = 4;

/// What the links of one broker share.
pub(super) struct LinkState {
    /// Where Redis is, as it may be shown: without a password.
    pub(super) address: String,
    /// What Redis is told of us and nobody else is: the password of the URL.
    pub(super) password: Option<SecretText>,
    pub(super) gate: AppendGate,
    pub(super) board: TroubleBoard,
    /// Told whenever a connection was made.
    pub(super) connected: Notify,
}

/// A connection.
pub(super) struct RedisLink {
    client: redis::Client,
    config: AsyncConnectionConfig,
    line: Arc<LinkState>,
    live: ArcSwapOption<LiveConnection>,
    connecting: Semaphore,
}

/// A connection that is up, as far as is known.
pub(super) struct LiveConnection {
    connection: MultiplexedConnection,
    /// The name by which Redis knows it.
    pub(super) client_id: i64,
}

impl RedisLink {
    /// A link that is not connected yet. Answers may take `response_timeout`.
    pub(super) fn new(client: redis::Client, line: Arc<LinkState>, response_timeout: Duration) -> Self {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(response_timeout));
        Self { client, config, line, live: ArcSwapOption::empty(), connecting: Semaphore::new(1) }
    }

    /// A second link to the same server, not connected yet.
    pub(super) fn sibling(&self, response_timeout: Duration) -> Self {
        Self::new(self.client.clone(), self.line.clone(), response_timeout)
    }

    /// What is shared with other links.
    pub(super) fn line(&self) -> &Arc<LinkState> {
        &self.line
    }

    /// Sends a command and waits for its answer. May be dropped; the command may take effect all the same.
    pub(super) async fn command(&self, command: &Cmd) -> Result<RedisReply, CallFailure> {
        let live = self.connect().await?;
        self.send(&live, command).await
    }

    /// Sends a command that the server may refuse without harm; `None` if it does, and nothing follows from it.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Option<RedisReply>, CallFailure> {
        let live = self.connect().await?;
        match command.query_async::<RedisReply>(&mut live.connection.clone()).await {
            Ok(answer) => {
                self.works();
                Ok(Some(answer))
            }
            Err(error) => {
                let failure = CallFailure { reaction: classify(&error), message: self.line.describe(&error) };
                if matches!(failure.reaction.cause, FailureCause::Denied | FailureCause::Misplaced) {
                    self.works();
                    return Ok(None);
                }
                self.react(&live, &failure);
                Err(failure)
            }
        }
    }

    /// Calls a script by its digest, and with its text if the server does not know it.
    pub(super) async fn call(&self, call: &ScriptCall<'_>) -> Result<RedisReply, CallFailure> {
        match self.command(&call.by_digest()).await {
            Err(failure) if failure.reaction.cause == FailureCause::NoScript => self.command(&call.by_text()).await,
            answered => answered,
        }
    }

    /// Calls a script and calls it again while it is not known whether it took effect: only for scripts that recognise
    /// their repetition. Takes up to about five seconds.
    pub(super) async fn repeat(&self, call: &ScriptCall<'_>) -> Result<RedisReply, CallFailure> {
        let gives_up_at = Instant::now() + REPEAT_WITHIN;
        let mut in_doubt = None;
        for _ in 0..=REPEATS {
            let left = gives_up_at.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.call(call)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) if failure.is_ambiguous() => in_doubt = Some(failure),
                Ok(Err(failure)) if in_doubt.is_none() || failure.reaction.cause == FailureCause::Misplaced => {
                    return Err(failure);
                }
                // Redis cannot be asked what became of the first call; that stays the answer.
                Ok(Err(_)) => {}
                Err(_) => {
                    in_doubt.get_or_insert_with(|| CallFailure::interrupted("Redis did not answer in time"));
                    break;
                }
            }
            let pause = self.line.gate.wait().max(Duration::from_millis(20));
            if Instant::now() + pause >= gives_up_at {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        Err(in_doubt.unwrap_or_else(|| CallFailure::interrupted("Redis did not answer in time")))
    }

    /// The connection, if one is up.
    pub(super) fn live(&self) -> Option<Arc<LiveConnection>> {
        self.live.load_full()
    }

    /// The connection, made now if there is none.
    pub(super) async fn connect(&self) -> Result<Arc<LiveConnection>, CallFailure> {
        if let Some(live) = self.live.load_full() {
            return Ok(live);
        }
        let Ok(_permit) = self.connecting.acquire().await else {
            return Err(CallFailure::unreachable("the connection is closed"));
        };
        if let Some(live) = self.live.load_full() {
            return Ok(live);
        }
        if let Err(shut) = self.line.gate.enter() {
            return Err(CallFailure::unreachable(shut.why));
        }
        match self.introduce().await {
            Ok(live) => {
                let live = Arc::new(live);
                self.live.store(Some(live.clone()));
                self.line.connected.notify_one();
                Ok(live)
            }
            Err(error) => {
                let reaction = classify_connect(&error);
                let said = self.line.without_password(error.to_string());
                let message = format!("{}{said}", unreachable(&self.line.address));
                self.line.gate.failed(&message, reaction.connection);
                let failure = CallFailure { reaction, message };
                self.line.board.note(&failure);
                Err(failure)
            }
        }
    }

    async fn introduce(&self) -> Result<LiveConnection, redis::RedisError> {
        let making = async {
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&self.config).await?;
            let client_id =
                redis::cmd("CLIENT").arg("ID").query_async::<i64>(&mut connection).await.or_else(|error| {
                    // Who may not ask for the name is served all the same; only waiting cannot be cut short then.
                    if classify(&error).cause == FailureCause::Denied { Ok(0) } else { Err(error) }
                })?;
            Ok(LiveConnection { connection, client_id })
        };
        tokio::time::timeout(CONNECT_TIMEOUT, making).await.unwrap_or_else(|_| {
            Err(redis::RedisError::from(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time")))
        })
    }

    async fn send(&self, live: &Arc<LiveConnection>, command: &Cmd) -> Result<RedisReply, CallFailure> {
        match command.query_async::<RedisReply>(&mut live.connection.clone()).await {
            Ok(answer) => {
                self.works();
                Ok(answer)
            }
            Err(error) => {
                let failure = CallFailure { reaction: classify(&error), message: self.line.describe(&error) };
                self.react(live, &failure);
                Err(failure)
            }
        }
    }

    /// A command was answered.
    fn works(&self) {
        self.line.gate.succeeded();
        self.line.board.clear(TroubleKind::Unreachable);
    }

    /// Does what the failure asks for.
    fn react(&self, live: &Arc<LiveConnection>, failure: &CallFailure) {
        match failure.reaction.connection {
            ConnectionFate::Keep => self.works(),
            ConnectionFate::Rebuild => self.drop_if_same(live),
            ConnectionFate::RebuildSlowly => {
                self.line.gate.failed(&failure.message, failure.reaction.connection);
                self.drop_if_same(live);
            }
        }
        self.line.board.note(failure);
    }

    /// Forgets the connection unless it was replaced already by another caller that saw it break.
    fn drop_if_same(&self, live: &Arc<LiveConnection>) {
        let current = self.live.load();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, live)) {
            self.live.compare_and_swap(&current, None);
        }
    }
}

/// How a message begins that says why no connection was made.
pub(super) fn unreachable(address: &str) -> String {
    format!("Redis at {address} cannot be reached: ")
}

impl LinkState {
    /// What went wrong in words: the server's own, or the connection's.
    fn describe(&self, error: &redis::RedisError) -> String {
        self.without_password(match (error.code(), error.detail()) {
            (Some("ERR"), Some(detail)) => detail.to_owned(),
            (Some(code), Some(detail)) => format!("{code} {detail}"),
            (Some(code), None) => code.to_owned(),
            (None, _) => format!("the connection to Redis failed: {error}"),
        })
    }

    /// The words of a server, which may repeat what it was sent: one that does not know `AUTH` quotes the password.
    fn without_password(&self, words: String) -> String {
        let told = words.split_once(ARGUMENTS).map_or(words.as_str(), |(told, _)| told);
        match self.password.as_ref().map(SecretText::expose).filter(|password| password.len() >= MIN_PASSWORD_BYTES) {
            Some(password) => told.replace(password, "***"),
            None => told.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_repeats_the_password_is_not_quoted() {
        let line = LinkState {
            address: "h:1".into(),
            password: Some("hunter2".into()),
            gate: AppendGate::default(),
            board: TroubleBoard::new(),
            connected: Notify::new(),
        };
        for words in [
            "unknown command 'AUTH', with args beginning with: 'hunter2' ",
            "unknown command 'AUTH', with args beginning with: 'hunt",
            "500 unrecognized command AUTH hunter2",
        ] {
            let told = line.without_password(words.into());
            assert!(told.contains("AUTH") && !told.contains("hunt"), "{told}");
        }
    }
}
