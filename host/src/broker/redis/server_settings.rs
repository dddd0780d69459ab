//! Judges a server: its version, its role, and whether its settings keep accepted events.

use std::collections::BTreeMap;

use super::connection::{CallFailure, RedisLink, reply};
use crate::broker::Durability;

/// The trouble while an append-only file that was switched on is not complete.
const FIRST_LOG: &str =
    "Redis writes its append-only file for the first time: accepted events are kept once it is complete";

/// Reads the settings of a server and judges them.
pub(super) async fn inspect_server(link: &RedisLink) -> Result<SettingsVerdict, CallFailure> {
    let info = reply::text(link.command(&redis::cmd("INFO")).await?)?;
    let info = info.lines().filter_map(|line| line.split_once(':'));
    let info: BTreeMap<String, String> = info.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
    if is_loading(&info) {
        return Err(CallFailure::busy("Redis is loading its data"));
    }
    let mut config = BTreeMap::new();
    for name in ["appendfsync", "no-appendfsync-on-rewrite"] {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg(name);
        // Hosted servers often forbid or rename the command. Their durability is then unknown.
        let Some(answer) = link.try_command(&command).await? else { return Ok(judge(link.address(), &info, None)) };
        for (name, value) in reply::pairs(answer)? {
            config.insert(reply::text(name)?, reply::text(value)?);
        }
    }
    Ok(judge(link.address(), &info, Some(&config)))
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

/// Judges a server by its `INFO` and, where that is allowed, its `CONFIG`.
fn judge(address: &str, info: &BTreeMap<String, String>, config: Option<&BTreeMap<String, String>>) -> SettingsVerdict {
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
            "Redis may evict accepted events (maxmemory-policy is {policy}): run \
             `redis-cli -u redis://{address} CONFIG SET maxmemory-policy noeviction`, or set broker.allow_unsafe"
        ))
    } else if !keeps_log {
        Some(format!(
            "Redis loses accepted events at a restart (appendonly is no): run \
             `redis-cli -u redis://{address} CONFIG SET appendonly yes`, or set broker.allow_unsafe"
        ))
    } else {
        None
    };
    let cannot_persist = (keeps_log && fact("aof_last_write_status") == "err").then(|| {
        "Redis cannot write its append-only file: free disk space, and restart Redis if the trouble stays".to_owned()
    });
    let has_old_log = keeps_log && ["aof_rewrites", "aof_rewrite_in_progress"].iter().all(|name| fact(name) == "0");
    let is_writing_log = keeps_log
        && (["aof_rewrite_in_progress", "aof_rewrite_scheduled"].iter().any(|name| fact(name) == "1")
            || fact("aof_last_bgrewrite_status") == "err");
    let number = |name: &str| fact(name).parse::<u64>().ok().filter(|bytes| *bytes > 0);
    let memory_bytes = number("maxmemory").or_else(|| number("total_system_memory")).unwrap_or(0);
    SettingsVerdict {
        unsupported: find_unsupported(&fact),
        unsafe_settings,
        cannot_persist,
        has_old_log,
        is_writing_log,
        memory_bytes,
        durability,
    }
}

/// True while the server reads its data. Until then it reports that it has no append-only file.
fn is_loading(info: &BTreeMap<String, String>) -> bool {
    info.get("loading").is_some_and(|loading| loading != "0")
}

fn find_unsupported<'a>(fact: &impl Fn(&str) -> &'a str) -> Option<String> {
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
        let info = BTreeMap::from([("aof_enabled".to_owned(), "1".to_owned())]);
        assert_eq!(judge("a", &info, None).durability, Durability::Unknown);
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
