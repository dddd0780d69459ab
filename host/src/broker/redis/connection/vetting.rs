//! Examines the server behind each new connection, before the first command goes over that connection.
//!
//! After a failover, the old primary may come back and act as a primary until its set demotes it. What it accepts until
//! then is lost with the demotion. So a server that has just restarted is held for a while if its set has replicas. A new
//! primary in turn may lack events that the old one answered: its total of accepted events is lower.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use redis::RedisError;
use redis::aio::MultiplexedConnection;

use super::fault::{ConnectionFate, classify};
use super::reply::{self, RedisReply};
use crate::broker::redis::scripts::keys::StoreKeys;
use crate::broker::redis::server_info::ServerInfo;

/// For how long a restarted server of a replicated set has to remain a primary. Sentinel demotes it after about 11 s.
pub(in crate::broker::redis) const RESTART_QUARANTINE: Duration = Duration::from_secs(15);
/// The field of the totals that holds the time at which a replica was last connected, in seconds.
pub(in crate::broker::redis) const REPLICAS_SEEN: &str = "replicas_seen";

/// An epoch of the store, and the highest total of accepted events that the store reported in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::broker::redis) struct StoreMark {
    pub(in crate::broker::redis) epoch: Arc<str>,
    pub(in crate::broker::redis) accepted: u64,
}

impl StoreMark {
    /// True if the store that reports `now` has lost events since it reported this mark.
    pub(in crate::broker::redis) fn is_ahead_of(&self, now: &Self) -> bool {
        self.epoch == now.epoch && self.accepted > now.accepted
    }
}

/// What a connection showed of its server and its store.
#[derive(Clone, Debug)]
pub(super) struct ServerSighting {
    pub(super) info: ServerInfo,
    /// `None` if the store is empty or its keys hold other types.
    pub(super) mark: Option<StoreMark>,
    /// True if the store remembers that it had replicas.
    pub(super) remembers_replicas: bool,
}

/// Whether a new connection may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VettingVerdict {
    Usable,
    /// The server reads its data.
    Loading,
    /// The server restarted, and another one may be the primary by now.
    Quarantined,
}

/// What one broker knows of its server and its store. All links of the broker share it.
#[derive(Debug)]
pub(in crate::broker::redis) struct ServerVetting {
    epoch_key: Bytes,
    counts_key: Bytes,
    state: Mutex<VettingState>,
}

#[derive(Debug, Default)]
struct VettingState {
    mark: StoreMark,
    /// The mark with which a new connection proved a loss of events.
    lost: Option<StoreMark>,
    /// The server whose connections are used.
    run_id: String,
    replication_id: String,
    /// A server that was seen while it read its data, and so has just restarted.
    loading_run_id: String,
    has_replicas: bool,
    quarantine: Option<RestartQuarantine>,
}

/// The time during which a restarted server is not used.
#[derive(Debug)]
struct RestartQuarantine {
    run_id: String,
    until: Instant,
}

impl ServerVetting {
    pub(in crate::broker::redis) fn new(keys: &StoreKeys) -> Self {
        let [epoch, .., counts, _] = keys.fixed();
        Self { epoch_key: epoch.clone(), counts_key: counts.clone(), state: Mutex::default() }
    }

    /// The mark of the store.
    pub(in crate::broker::redis) fn mark(&self) -> StoreMark {
        self.state.lock().mark.clone()
    }

    /// Notes a total of accepted events of the current epoch.
    pub(in crate::broker::redis) fn note_accepted(&self, accepted: u64) {
        let mark = &mut self.state.lock().mark;
        mark.accepted = mark.accepted.max(accepted);
    }

    /// Begins to work with this epoch and total.
    pub(in crate::broker::redis) fn set_mark(&self, mark: StoreMark) {
        let mut state = self.state.lock();
        state.mark = mark;
        state.lost = None;
    }

    /// True if a new connection proved that events of the current epoch were lost.
    pub(in crate::broker::redis) fn has_found_loss(&self) -> bool {
        self.state.lock().lost.is_some()
    }

    /// True if the store is known to have replicas, or to have had some.
    pub(in crate::broker::redis) fn has_replicas(&self) -> bool {
        self.state.lock().has_replicas
    }

    pub(in crate::broker::redis) fn set_has_replicas(&self, has_replicas: bool) {
        self.state.lock().has_replicas = has_replicas;
    }

    /// The replication id of the server that was last connected to.
    pub(in crate::broker::redis) fn replication_id(&self) -> String {
        self.state.lock().replication_id.clone()
    }

    /// The time until a restarted server may be used; zero if no server is held.
    pub(in crate::broker::redis) fn quarantine_left(&self) -> Duration {
        let state = self.state.lock();
        state.quarantine.as_ref().map_or(Duration::ZERO, |it| it.until.saturating_duration_since(Instant::now()))
    }

    /// Asks the server what a verdict needs. `None` if the user may not ask, which the health check reports.
    pub(super) async fn ask(&self, connection: &MultiplexedConnection) -> Result<Option<ServerSighting>, RedisError> {
        let ask = |command: redis::Cmd| {
            let mut connection = connection.clone();
            async move { command.query_async::<RedisReply>(&mut connection).await }
        };
        let mut counts = redis::cmd("HMGET");
        counts.arg(self.counts_key.as_ref()).arg("accepted").arg(REPLICAS_SEEN);
        let mut epoch = redis::cmd("GET");
        epoch.arg(self.epoch_key.as_ref());
        let (info, epoch, counts) = tokio::join!(ask(redis::cmd("INFO")), ask(epoch), ask(counts));
        let info = match info {
            Ok(info) => ServerInfo::parse(&reply::text(info).unwrap_or_default()),
            Err(error) if classify(&error).connection == ConnectionFate::Rebuild => return Err(error),
            Err(_) => return Ok(None),
        };
        // The store's keys cannot be read while the server loads, or if they hold other types.
        let [accepted, seen] = counts.ok().map(reply::tuple).transpose().ok().flatten().unwrap_or_default();
        let epoch = epoch.ok().and_then(|epoch| reply::text(epoch).ok());
        let mark = epoch.map(|epoch| StoreMark { epoch: epoch.into(), accepted: reply::count(&accepted).unwrap_or(0) });
        Ok(Some(ServerSighting { info, mark, remembers_replicas: reply::count(&seen).is_ok() }))
    }

    /// Decides whether the connection that showed `sighting` may be used. `mark` is the mark from before the question.
    pub(super) fn judge(&self, sighting: ServerSighting, mark: &StoreMark, now: Instant) -> VettingVerdict {
        let mut state = self.state.lock();
        let info = sighting.info;
        state.has_replicas |= info.replicas() > 0 || sighting.remembers_replicas;
        let run_id = info.text("run_id");
        if info.is_loading() {
            run_id.clone_into(&mut state.loading_run_id);
            return VettingVerdict::Loading;
        }
        let has_restarted =
            state.run_id != run_id && (info.uptime() < RESTART_QUARANTINE || state.loading_run_id == run_id);
        // A primary that waits for its replicas accepts nothing without them.
        if has_restarted && state.has_replicas && info.is_primary() && !info.waits_for_replicas() {
            let quarantine = match state.quarantine.take() {
                Some(known) if known.run_id == run_id => known,
                _ => RestartQuarantine { run_id: run_id.to_owned(), until: now + RESTART_QUARANTINE },
            };
            let is_over = quarantine.until <= now;
            state.quarantine = Some(quarantine);
            if !is_over {
                return VettingVerdict::Quarantined;
            }
        }
        state.quarantine = None;
        run_id.clone_into(&mut state.run_id);
        info.text("master_replid").clone_into(&mut state.replication_id);
        if sighting.mark.is_some_and(|found| mark.is_ahead_of(&found)) && state.mark.epoch == mark.epoch {
            state.lost = Some(mark.clone());
        }
        VettingVerdict::Usable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sighting(run_id: &str, uptime: u64, more: &str) -> ServerSighting {
        let text = format!("run_id:{run_id}\r\nuptime_in_seconds:{uptime}\r\nrole:master\r\nloading:0\r\n{more}");
        ServerSighting { info: ServerInfo::parse(&text), mark: None, remembers_replicas: false }
    }

    fn vetting() -> ServerVetting {
        ServerVetting::new(&StoreKeys::new("es"))
    }

    fn judge(vetting: &ServerVetting, sighting: ServerSighting, after: Duration) -> VettingVerdict {
        vetting.judge(sighting, &vetting.mark(), Instant::now() + after)
    }

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn a_restarted_primary_is_quarantined_only_if_it_has_replicas() {
        let alone = vetting();
        assert_eq!(judge(&alone, sighting("a", 99, ""), NOW), VettingVerdict::Usable);
        assert_eq!(judge(&alone, sighting("b", 0, ""), NOW), VettingVerdict::Usable);

        let replicated = vetting();
        assert_eq!(judge(&replicated, sighting("a", 99, "connected_slaves:1"), NOW), VettingVerdict::Usable);
        assert_eq!(judge(&replicated, sighting("a", 1, ""), NOW), VettingVerdict::Usable, "the same process goes on");
        assert_eq!(judge(&replicated, sighting("b", 1, ""), NOW), VettingVerdict::Quarantined);
        assert!(replicated.quarantine_left() > RESTART_QUARANTINE / 2);
        assert_eq!(judge(&replicated, sighting("b", 14, ""), RESTART_QUARANTINE / 2), VettingVerdict::Quarantined);
        assert_eq!(judge(&replicated, sighting("b", 17, ""), RESTART_QUARANTINE * 2), VettingVerdict::Usable);
        assert_eq!(replicated.quarantine_left(), NOW);
    }

    #[test]
    fn a_promoted_replica_is_used_at_once() {
        let vetting = vetting();
        assert_eq!(judge(&vetting, sighting("a", 99, "connected_slaves:1"), NOW), VettingVerdict::Usable);
        assert_eq!(judge(&vetting, sighting("b", 1, ""), NOW), VettingVerdict::Quarantined);
        assert_eq!(judge(&vetting, sighting("c", 99, ""), NOW), VettingVerdict::Usable);
        assert_eq!(vetting.quarantine_left(), NOW, "the quarantine was for another server");
    }

    #[test]
    fn a_server_that_waits_for_its_replicas_is_not_held() {
        let vetting = vetting();
        let waits = "connected_slaves:1\r\nmin_slaves_good_slaves:1";
        assert_eq!(judge(&vetting, sighting("a", 0, waits), NOW), VettingVerdict::Usable);
    }

    #[test]
    fn the_store_and_the_loading_of_its_data_tell_a_new_process_enough() {
        let vetting = vetting();
        let remembered = ServerSighting { remembers_replicas: true, ..sighting("a", 3, "") };
        assert_eq!(judge(&vetting, remembered.clone(), NOW), VettingVerdict::Quarantined);
        let loading = ServerSighting {
            info: ServerInfo::parse("run_id:b\r\nuptime_in_seconds:600\r\nrole:master\r\nloading:1"),
            ..remembered
        };
        assert_eq!(judge(&vetting, loading, NOW), VettingVerdict::Loading);
        assert_eq!(judge(&vetting, sighting("b", 601, ""), NOW), VettingVerdict::Quarantined, "it has loaded for long");
    }

    #[test]
    fn a_lower_total_of_the_same_epoch_is_a_loss_and_another_epoch_is_left_to_the_check() {
        let vetting = vetting();
        vetting.set_mark(StoreMark { epoch: "e".into(), accepted: 10 });
        let found = |epoch: &str, accepted| ServerSighting {
            mark: Some(StoreMark { epoch: epoch.into(), accepted }),
            ..sighting("a", 99, "")
        };
        for (found, is_loss) in [(found("e", 10), false), (found("f", 3), false), (found("e", 9), true)] {
            judge(&vetting, found, NOW);
            assert_eq!(vetting.has_found_loss(), is_loss);
        }
        vetting.set_mark(StoreMark { epoch: "g".into(), accepted: 9 });
        assert!(!vetting.has_found_loss());
    }
}
