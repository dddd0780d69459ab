//! Whether Redis is what the broker needs: its version, its role, its settings, and the data that was there before.
//!
//! [`judge`] is pure. The rest asks Redis at the start, every few seconds and after each new connection, since settings
//! change at run time and a new connection may lead to another server. Data loss is told by two things: the epoch, which
//! is gone after a flush, and the total of accepted events, which is lower in an older copy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::board::{LOSS, TroubleKind, told};
use super::core::RedisCore;
use super::fault::{CallFailure, FailureCause};
use super::reply;
use crate::broker::Durability;

/// What is said while a log that was switched on is not complete.
const FIRST_LOG: &str =
    "Redis writes its log for the first time since it was switched on: what is accepted is kept once that has ended";
/// How often Redis is asked whether it takes events in.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// An answer that takes longer is none.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a loss is shown at least.
const LOSS_SHOWN: Duration = Duration::from_secs(1);

/// What the settings of a server amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SettingsVerdict {
    /// Why this server cannot be used at all.
    pub(super) unsupported: Option<String>,
    /// Why what is accepted may be lost, and the line that mends it.
    pub(super) unsafe_settings: Option<String>,
    /// Why the server refuses to write.
    pub(super) cannot_persist: Option<String>,
    /// Whether the log that the server started on was not replaced yet.
    pub(super) has_old_log: bool,
    /// Whether the log is being written anew, or that failed.
    pub(super) is_writing_log: bool,
    pub(super) durability: Durability,
}

impl SettingsVerdict {
    /// The verdict on a server of which this was known before. It says that it keeps a log from the moment at which one is
    /// switched on, but a power cut would leave none until all data was written to it once.
    fn after(self, durability: Durability, unsafe_settings: Option<String>) -> Self {
        if durability != Durability::None || !self.is_writing_log {
            return self;
        }
        let unsafe_settings = self.unsafe_settings.or_else(|| unsafe_settings.map(|_| FIRST_LOG.to_owned()));
        Self { durability, unsafe_settings, ..self }
    }
}

/// Judges a server at an address by its `INFO` and, where it may be asked, its `CONFIG`.
pub(super) fn judge(
    address: &str,
    info: &BTreeMap<String, String>,
    config: Option<&BTreeMap<String, String>>,
) -> SettingsVerdict {
    let fact = |name: &str| info.get(name).map(String::as_str).unwrap_or_default();
    let setting = |name: &str| config.and_then(|config| config.get(name)).map(String::as_str);
    let keeps_log = fact("aof_enabled") == "1";
    let durability = match setting("appendfsync") {
        _ if !keeps_log => Durability::None,
        Some(_) if setting("no-appendfsync-on-rewrite") == Some("yes") => Durability::None,
        Some("always") => Durability::Fsync,
        Some("everysec") => Durability::Everysec,
        Some("no") => Durability::None,
        _ => Durability::Unknown,
    };
    let policy = fact("maxmemory_policy");
    let unsafe_settings = if policy != "noeviction" {
        Some(format!(
            "Redis may evict what was accepted (maxmemory-policy is {policy}): run \
             `redis-cli -u redis://{address} CONFIG SET maxmemory-policy noeviction`, or set broker.allow_unsafe"
        ))
    } else if !keeps_log {
        Some(format!(
            "Redis keeps nothing over a restart (appendonly is no): run \
             `redis-cli -u redis://{address} CONFIG SET appendonly yes`, or set broker.allow_unsafe"
        ))
    } else {
        None
    };
    let cannot_persist = (keeps_log && fact("aof_last_write_status") == "err")
        .then(|| "Redis cannot write its log: free its disk, then restart it if this does not pass".to_owned());
    let has_old_log = keeps_log && ["aof_rewrites", "aof_rewrite_in_progress"].iter().all(|name| fact(name) == "0");
    let is_writing_log = keeps_log
        && (["aof_rewrite_in_progress", "aof_rewrite_scheduled"].iter().any(|name| fact(name) == "1")
            || fact("aof_last_bgrewrite_status") == "err");
    let unsupported = unsupported(&fact);
    SettingsVerdict { unsupported, unsafe_settings, cannot_persist, has_old_log, is_writing_log, durability }
}

/// Whether the server still reads its log. Until then it says of itself that it keeps none.
fn is_loading(info: &BTreeMap<String, String>) -> bool {
    info.get("loading").is_some_and(|loading| loading != "0")
}

fn unsupported<'a>(fact: &impl Fn(&str) -> &'a str) -> Option<String> {
    let (server, version, least) = match fact("valkey_version") {
        "" => ("Redis", fact("redis_version"), (7, 0)),
        version => ("Valkey", version, (7, 2)),
    };
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < least {
        return Some(format!("{server} {version} is too old: {}.{} or later is needed", least.0, least.1));
    }
    if fact("cluster_enabled") == "1" {
        return Some(format!("this {server} is part of a cluster, which is not supported"));
    }
    if fact("role") != "master" {
        return Some(format!("this {server} is a replica: connect to its primary"));
    }
    None
}

impl RedisCore {
    /// Asks Redis what it is.
    pub(super) async fn inspect_server(&self) -> Result<SettingsVerdict, CallFailure> {
        let info = reply::text(self.link.command(&redis::cmd("INFO")).await?)?;
        let info = info.lines().filter_map(|line| line.split_once(':'));
        let info: BTreeMap<String, String> =
            info.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        if is_loading(&info) {
            return Err(CallFailure::busy("Redis is loading its data"));
        }
        let fact = |name: &str| info.get(name).and_then(|value| value.parse::<u64>().ok()).filter(|bytes| *bytes > 0);
        let memory_bytes = fact("maxmemory").or_else(|| fact("total_system_memory")).unwrap_or(0);
        self.memory_bytes.store(memory_bytes, Ordering::Relaxed);
        let address = &self.link.line().address;
        let mut config = BTreeMap::new();
        for name in ["appendfsync", "no-appendfsync-on-rewrite"] {
            let mut ask = redis::cmd("CONFIG");
            ask.arg("GET").arg(name);
            // Hosted servers often forbid or rename the command; what they keep is then simply not known.
            let Some(answer) = self.link.ask(&ask).await? else { return Ok(judge(address, &info, None)) };
            for (name, value) in reply::pairs(answer)? {
                config.insert(reply::text(name)?, reply::text(value)?);
            }
        }
        Ok(judge(address, &info, Some(&config)))
    }

    /// Asks the store whether it is the one that was written to. Answers the epoch and the total of accepted events, and puts
    /// up what is in the wrong place; nothing if that cannot be told for it.
    async fn inspect_store(&self) -> Result<Option<(String, u64)>, CallFailure> {
        let lanes = self.book().lanes.clone();
        let call = self.script(&self.scripts.inspect).lane_keys(&self.keys, &lanes).number(lanes.len());
        let [epoch, accepted, misplaced] = reply::tuple(self.link.call(&call).await?)?;
        let misplaced = reply::array(misplaced)?.into_iter().map(reply::text).collect::<Result<_, _>>()?;
        match told(misplaced) {
            Some(words) => self.board().raise(TroubleKind::Misplaced, words),
            None => self.board().clear(TroubleKind::Misplaced),
        }
        match reply::bytes(epoch.clone())? {
            Some(_) => Ok(Some((reply::text(epoch)?, reply::count(&accepted)?))),
            None => Ok(None),
        }
    }

    /// Looks at everything and puts on the board what was found.
    pub(super) async fn look(&self) -> Result<(), CallFailure> {
        let seen = self.accepted_seen.load(Ordering::SeqCst);
        let board = self.board();
        let verdict = self.inspect_server().await?.after(board.health().durability, board.trouble(TroubleKind::Unsafe));
        board.set_durability(verdict.durability);
        let set = |trouble, found: Option<String>| match found {
            Some(message) => board.raise(trouble, message),
            None => board.clear(trouble),
        };
        set(TroubleKind::Unsupported, verdict.unsupported);
        set(TroubleKind::Unsafe, verdict.unsafe_settings.filter(|_| !self.options.allow_unsafe));
        // That it is over is found out by the probe, which knows more reasons.
        if let Some(words) = verdict.cannot_persist {
            board.raise(TroubleKind::CannotPersist, words);
        }
        if verdict.has_old_log {
            self.replace_log().await?;
        }
        let found = self.inspect_store().await?;
        board.clear(TroubleKind::Denied);
        let Some((epoch, accepted)) = found else { return Ok(()) };
        if epoch == **self.epoch.load() && accepted >= seen {
            self.accepted_seen.fetch_max(accepted, Ordering::SeqCst);
            board.clear(TroubleKind::Loss);
            return Ok(());
        }
        self.accept_loss().await
    }

    /// Has the server write its log anew, once in its life.
    ///
    /// A power cut may leave the beginning of a transaction at the end of the log. Redis (and Valkey until its pull request
    /// 4342 of August 2026) does not execute it at the next start but leaves it there, and the start after that joins it
    /// with what was written since. A log that was written anew does not have it.
    async fn replace_log(&self) -> Result<(), CallFailure> {
        // Refused where another host asked first, or where the command is forbidden.
        self.link.ask(&redis::cmd("BGREWRITEAOF")).await.map(drop)
    }

    /// The store lost data: says so, begins a new epoch or joins the one that another host began, and goes on.
    async fn accept_loss(&self) -> Result<(), CallFailure> {
        self.board().raise(TroubleKind::Loss, LOSS);
        self.refresh_lanes(&[]).await?;
        self.adopt_epoch(&self.epoch.load_full()).await?;
        tokio::time::sleep(LOSS_SHOWN).await;
        self.board().clear(TroubleKind::Loss);
        Ok(())
    }

    /// Begins an epoch in place of the one that was lost, or joins the one that is there.
    pub(super) async fn adopt_epoch(&self, lost: &str) -> Result<(), CallFailure> {
        let call = self.script(&self.scripts.adopt).text(lost).text(&Uuid::now_v7().to_string());
        let [epoch, _, accepted] = reply::tuple(self.link.call(&call).await?)?;
        self.epoch.store(Arc::new(reply::text(epoch)?));
        self.accepted_seen.store(reply::count(&accepted)?, Ordering::SeqCst);
        Ok(())
    }

    /// Asks whether Redis would take events in, and puts up why not.
    pub(super) async fn probe(&self) {
        let call = self.script(&self.scripts.probe);
        match tokio::time::timeout(PROBE_TIMEOUT, self.link.call(&call)).await {
            Ok(Ok(_)) => self.board().probed(None),
            // Of a connection that broke nothing follows but that it is made again.
            Ok(Err(failure))
                if matches!(failure.reaction.cause, FailureCause::Interrupted | FailureCause::Unreachable) => {}
            Ok(Err(failure)) => self.board().probed(Some(&failure)),
            Err(_) => {
                let address = &self.link.line().address;
                let words = format!(
                    "Redis at {address} takes longer to answer than {PROBE_TIMEOUT:?}: is it stopped or overloaded?"
                );
                self.board().raise(TroubleKind::Silent, words);
            }
        }
    }

    /// Looks again and again until the token is cancelled, and asks more often whether events would be taken in.
    pub(super) async fn keep_looking(self: Arc<Self>, ends: CancellationToken) {
        let period = Duration::from_millis(self.tuning.look_every_ms);
        let mut looked_at = Instant::now();
        loop {
            let is_due = tokio::select! {
                () = ends.cancelled() => return,
                () = tokio::time::sleep(period.min(PROBE_EVERY)) => looked_at.elapsed() >= period,
                () = self.look.notified() => true,
                () = self.link.line().connected.notified() => true,
            };
            self.probe().await;
            if !is_due {
                continue;
            }
            looked_at = Instant::now();
            if self.look().await.is_err() {
                // What failed is on the board already. The pause keeps a flood of hints from becoming a flood of looks.
                tokio::time::sleep(period.min(Duration::from_millis(500))).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(changes: &[(&str, &str)]) -> SettingsVerdict {
        let mut info = BTreeMap::from(
            [
                ("redis_version", "7.0.15"),
                ("role", "master"),
                ("cluster_enabled", "0"),
                ("maxmemory_policy", "noeviction"),
                ("aof_enabled", "1"),
                ("aof_last_write_status", "ok"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let mut config = BTreeMap::from([("appendfsync".to_owned(), "always".to_owned())]);
        for (name, value) in changes {
            let facts = if name.contains("appendfsync") { &mut config } else { &mut info };
            facts.insert((*name).to_owned(), (*value).to_owned());
        }
        judge("127.0.0.1:6380", &info, Some(&config))
    }

    #[test]
    fn durability_is_what_the_settings_give() {
        for (changes, durability) in [
            (&[][..], Durability::Fsync),
            (&[("appendfsync", "everysec")], Durability::Everysec),
            (&[("appendfsync", "no")], Durability::None),
            (&[("no-appendfsync-on-rewrite", "yes")], Durability::None),
            (&[("aof_enabled", "0")], Durability::None),
        ] {
            assert_eq!(judged(changes).durability, durability, "{changes:?}");
        }
        let info = BTreeMap::from([("aof_enabled".to_owned(), "1".to_owned())]);
        assert_eq!(judge("a", &info, None).durability, Durability::Unknown);
    }

    #[test]
    fn what_is_unsafe_comes_with_the_line_that_mends_it() {
        assert_eq!(judged(&[]).unsafe_settings, None);
        for (change, line) in [
            (
                ("maxmemory_policy", "allkeys-lru"),
                "`redis-cli -u redis://127.0.0.1:6380 CONFIG SET maxmemory-policy noeviction`",
            ),
            (("aof_enabled", "0"), "`redis-cli -u redis://127.0.0.1:6380 CONFIG SET appendonly yes`"),
        ] {
            assert!(judged(&[change]).unsafe_settings.unwrap().contains(line), "{line}");
        }
        assert!(judged(&[("aof_last_write_status", "err")]).cannot_persist.is_some());
    }

    #[test]
    fn a_log_that_was_switched_on_keeps_nothing_until_it_is_complete() {
        let none = Some("appendonly is no".to_owned());
        for (changes, before, durability, words) in [
            (("aof_rewrite_in_progress", "1"), (Durability::None, &none), Durability::None, Some(FIRST_LOG)),
            (("aof_rewrite_scheduled", "1"), (Durability::None, &None), Durability::None, None),
            (("aof_last_bgrewrite_status", "err"), (Durability::None, &none), Durability::None, Some(FIRST_LOG)),
            (("aof_rewrite_in_progress", "0"), (Durability::None, &none), Durability::Fsync, None),
            (("aof_rewrite_in_progress", "1"), (Durability::Everysec, &None), Durability::Fsync, None),
            (("aof_rewrite_in_progress", "1"), (Durability::Unknown, &None), Durability::Fsync, None),
        ] {
            let verdict = judged(&[changes]).after(before.0, before.1.clone());
            assert_eq!((verdict.durability, verdict.unsafe_settings.as_deref()), (durability, words), "{changes:?}");
        }
    }

    #[test]
    fn the_log_that_a_server_started_on_is_replaced_once() {
        for (rewrites, in_progress, keeps_log, is_old) in
            [("0", "0", "1", true), ("0", "1", "1", false), ("1", "0", "1", false), ("0", "0", "0", false)]
        {
            let changes =
                [("aof_rewrites", rewrites), ("aof_rewrite_in_progress", in_progress), ("aof_enabled", keeps_log)];
            assert_eq!(judged(&changes).has_old_log, is_old, "{changes:?}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for (changes, is_supported) in [
            (&[][..], true),
            (&[("redis_version", "6.2.14")], false),
            (&[("redis_version", "8.10.0")], true),
            (&[("redis_version", "nonsense")], false),
            (&[("valkey_version", "7.2.1"), ("redis_version", "7.2.4")], true),
            (&[("valkey_version", "7.1.9"), ("redis_version", "7.2.4")], false),
            (&[("role", "slave")], false),
            (&[("cluster_enabled", "1")], false),
        ] {
            assert_eq!(judged(changes).unsupported.is_none(), is_supported, "{changes:?}");
        }
    }
}
