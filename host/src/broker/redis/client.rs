//! What every request to the store needs: the connection, the scripts, the key names and this consumer's name.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::codec::RecordVersion;
use super::connection::reply::{self, RedisReply};
use super::connection::{CallFailure, RedisLink, TroubleBoard};
use super::scripts::keys::StoreKeys;
use super::scripts::{Script, ScriptCall, ScriptSet};

/// Sends requests to one store on behalf of one consumer.
pub(super) struct StoreClient {
    pub(super) link: RedisLink,
    pub(super) keys: StoreKeys,
    pub(super) scripts: ScriptSet,
    /// The name of this consumer in every consumer group.
    pub(super) consumer: String,
    /// Whether every host that serves the store reads records of [`RecordVersion::Binary`].
    writes_binary: AtomicBool,
    /// Whether the store had API keys at any time that this host knows of.
    had_keys: AtomicBool,
    /// Notified when the health check should run at once.
    pub(super) check_soon: Notify,
}

impl StoreClient {
    /// A client that is not connected yet.
    pub(super) fn new(link: RedisLink, scripts: ScriptSet, namespace: &str, consumer: String) -> Self {
        Self {
            link,
            keys: StoreKeys::new(namespace),
            scripts,
            consumer,
            writes_binary: AtomicBool::new(false),
            had_keys: AtomicBool::new(false),
            check_soon: Notify::new(),
        }
    }

    /// The version in which records are written now.
    pub(super) fn record_version(&self) -> RecordVersion {
        match self.writes_binary.load(Ordering::Relaxed) {
            true => RecordVersion::Binary,
            false => RecordVersion::Json,
        }
    }

    /// Sets the version in which records are written from now on, and returns the one before.
    pub(super) fn set_record_version(&self, version: RecordVersion) -> RecordVersion {
        match self.writes_binary.swap(version == RecordVersion::Binary, Ordering::Relaxed) {
            true => RecordVersion::Binary,
            false => RecordVersion::Json,
        }
    }

    /// Whether the store had API keys, now or before.
    pub(super) fn had_keys(&self) -> bool {
        self.had_keys.load(Ordering::Relaxed)
    }

    /// Notes that the store has or had API keys.
    pub(super) fn note_keys(&self) {
        self.had_keys.store(true, Ordering::Relaxed);
    }

    pub(super) fn troubles(&self) -> &TroubleBoard {
        self.link.troubles()
    }

    /// Begins a call of a script. The caller adds lanes, keys and arguments.
    pub(super) fn script_call<'a>(&self, script: &'a Script) -> ScriptCall<'a> {
        ScriptCall::new(script, &self.keys)
    }

    /// Calls a script once; see [`RedisLink::call`].
    pub(super) async fn call(&self, call: &ScriptCall<'_>) -> Result<RedisReply, CallFailure> {
        self.link.call(call).await
    }

    /// The names in the set of lanes, as Redis has them.
    pub(super) async fn read_lane_names(&self) -> Result<Vec<String>, CallFailure> {
        let mut command = redis::cmd("SMEMBERS");
        command.arg(self.keys.lanes().as_ref());
        reply::array(self.link.command(&command).await?)?.into_iter().map(reply::text).collect()
    }
}
