//! Judges a server: its version, its role, and whether its settings keep accepted events.

use std::collections::BTreeMap;

use super::connection::{CallFailure, RedisLink, reply};
use super::server_info::ServerInfo;
use crate::broker::Durability;

/// The trouble while an append-only file that was switched on is not complete.
const FIRST_LOG: &str =
    "Redis writes its append-only file for the first time: accepted events are kept once it is complete";

/// Reads the settings of a server and judges them.
pub(super) async fn inspect_server(link: &RedisLink) -> Result<SettingsVerdict, CallFailure> {
    let info = ServerInfo::parse(&reply::text(link.command(&redis::cmd("INFO")).await?)?);
    if info.is_loading() {
        return Err(CallFailure::busy("Redis is loading its data"));
    }
    let mut config = BTreeMap::new();
    for name in ["appendfsync", "no-appendfsync-on-rewrite"] {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg(name);
        // Hosted servers often forbid or rename the command. Their durability is then unknown.
        let Some(answer) = link.try_command(&command).await? else { return Ok(judge(link.cli_words(), info, None)) };
        for (name, value) in reply::pairs(answer)? {
            config.insert(reply::text(name)?, reply::text(value)?);
        }
    }
    Ok(judge(link.cli_words(), info, Some(&config)))
}

/// What the settings of a server mean for the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SettingsVerdict {
    /// Why the server cannot be used at all.
    pub(super) unsupported: Option<String>,
    /// Why accepted events may be lost, and the command that repairs it.
    pub(super) unsafe_settings: Option<String>,
    /// Why the server refuses to write.
    pub(super) cannot_persist: Option<String>,
    /// True if the append-only file from before the start of the server was not rewritten yet.
    pub(super) has_old_log: bool,
    /// True if the append-only file is being rewritten, or if that failed.
    pub(super) is_writing_log: bool,
    /// The memory that the server may use; 0 if it is unknown.
    pub(super) memory_bytes: u64,
    pub(super) durability: Durability,
    /// What a failover may lose, and the command that prevents it.
    pub(super) warning: Option<String>,
    /// What the server reported.
    pub(super) info: ServerInfo,
}

impl SettingsVerdict {
    /// Corrects the verdict by the previous one. A server reports an append-only file from the moment at which it is
    /// switched on. But until the file is complete, a power cut loses everything.
    pub(super) fn after(self, durability: Durability, unsafe_settings: Option<String>) -> Self {
        if durability != Durability::None || !self.is_writing_log {
            return self;
        }
        let unsafe_settings = self.unsafe_settings.or_else(|| unsafe_settings.map(|_| FIRST_LOG.to_owned()));
        Self { durability, unsafe_settings, ..self }
    }
}

/// Judges a server by its `INFO` and, where that is allowed, its `CONFIG`. `cli` calls it from a shell.
fn judge(cli: &str, info: ServerInfo, config: Option<&BTreeMap<String, String>>) -> SettingsVerdict {
    let fact = |name: &str| info.text(name);
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
    // A service that forbids CONFIG has its settings elsewhere, or has no such setting at all.
    let advise = |setting: &str| match config {
        Some(_) => format!("run `{cli} CONFIG SET {setting}`"),
        None => format!(
            "this service forbids CONFIG, so set `{setting}` where its settings are made; if it has no such setting, use \
             another service"
        ),
    };
    let policy = fact("maxmemory_policy");
    let unsafe_settings = if policy != "noeviction" {
        let advice = advise("maxmemory-policy noeviction");
        Some(format!(
            "Redis may evict accepted events (maxmemory-policy is {policy}): {advice}, or set broker.allow_unsafe"
        ))
    } else if !keeps_log {
        let advice = advise("appendonly yes");
        Some(format!(
            "Redis loses accepted events at a restart (appendonly is no): {advice}, or set broker.allow_unsafe"
        ))
    } else {
        None
    };
    let warning = (info.replicas() > 0 && !info.waits_for_replicas()).then(|| {
        let advice = advise("min-replicas-to-write 1");
        format!(
            "a failover of Redis may lose the events that were accepted in about the last second, since it does not wait \
             for its replicas (min-replicas-to-write is 0): {advice}"
        )
    });
    let cannot_persist = (keeps_log && fact("aof_last_write_status") == "err").then(|| {
        "Redis cannot write its append-only file: free disk space, and restart Redis if the trouble stays".to_owned()
    });
    let has_old_log = keeps_log && ["aof_rewrites", "aof_rewrite_in_progress"].iter().all(|name| fact(name) == "0");
    let is_writing_log = keeps_log
        && (["aof_rewrite_in_progress", "aof_rewrite_scheduled"].iter().any(|name| fact(name) == "1")
            || fact("aof_last_bgrewrite_status") == "err");
    let bytes = |name: &str| info.number(name).filter(|bytes| *bytes > 0);
    let memory_bytes = bytes("maxmemory").or_else(|| bytes("total_system_memory")).unwrap_or(0);
    SettingsVerdict {
        unsupported: find_unsupported(&info),
        unsafe_settings,
        cannot_persist,
        has_old_log,
        is_writing_log,
        memory_bytes,
        durability,
        warning,
        info,
    }
}

fn find_unsupported(info: &ServerInfo) -> Option<String> {
    let (server, version, least) = match info.text("valkey_version") {
        "" => ("Redis", info.text("redis_version"), (7, 0)),
        version => ("Valkey", version, (7, 2)),
    };
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < least {
        return Some(format!("{server} {version} is too old: {}.{} or later is needed", least.0, least.1));
    }
    if info.text("cluster_enabled") == "1" {
        return Some(format!("this {server} is part of a cluster, which is not supported"));
    }
    if !info.is_primary() {
        return Some(format!("this {server} is a replica: connect to its primary"));
    }
    None
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
            .map(|(name, value)| (name, value)),
        );
        let mut config = BTreeMap::from([("appendfsync".to_owned(), "always".to_owned())]);
        for (name, value) in changes {
            if name.contains("appendfsync") {
                config.insert((*name).to_owned(), (*value).to_owned());
            } else {
                info.insert(name, value);
            }
        }
        let text: String = info.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect();
        let may_ask = !changes.contains(&("CONFIG", "forbidden"));
        judge("redis-cli -u redis://127.0.0.1:6380", ServerInfo::parse(&text), may_ask.then_some(&config))
    }

    #[test]
    fn durability_follows_from_the_settings() {
        for (changes, durability) in [
            (&[][..], Durability::Fsync),
            (&[("appendfsync", "everysec")], Durability::Everysec),
            (&[("appendfsync", "no")], Durability::None),
            (&[("no-appendfsync-on-rewrite", "yes")], Durability::None),
            (&[("aof_enabled", "0")], Durability::None),
        ] {
            assert_eq!(judged(changes).durability, durability, "{changes:?}");
        }
        assert_eq!(judged(&[("CONFIG", "forbidden")]).durability, Durability::Unknown);
    }

    #[test]
    fn an_unsafe_setting_comes_with_the_command_that_repairs_it() {
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
    fn where_config_is_forbidden_another_way_is_advised() {
        for change in [("aof_enabled", "0"), ("maxmemory_policy", "allkeys-lru")] {
            let advice = judged(&[change, ("CONFIG", "forbidden")]).unsafe_settings.unwrap();
            assert!(advice.contains("another service") && !advice.contains("CONFIG SET"), "{advice}");
        }
    }

    #[test]
    fn replicas_that_are_not_waited_for_are_worth_a_warning() {
        assert_eq!(judged(&[]).warning, None);
        let replicas = ("connected_slaves", "2");
        assert!(judged(&[replicas]).warning.unwrap().contains("CONFIG SET min-replicas-to-write 1"));
        assert_eq!(judged(&[replicas, ("min_slaves_good_slaves", "2")]).warning, None);
    }

    #[test]
    fn a_new_append_only_file_keeps_nothing_until_it_is_complete() {
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
    fn the_old_append_only_file_is_rewritten_once() {
        for (rewrites, in_progress, keeps_log, is_old) in
            [("0", "0", "1", true), ("0", "1", "1", false), ("1", "0", "1", false), ("0", "0", "0", false)]
        {
            let changes =
                [("aof_rewrites", rewrites), ("aof_rewrite_in_progress", in_progress), ("aof_enabled", keeps_log)];
            assert_eq!(judged(&changes).has_old_log, is_old, "{changes:?}");
        }
    }

    #[test]
    fn unsupported_servers_are_refused() {
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
