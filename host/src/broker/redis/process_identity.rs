//! The name of this consumer, and the identity of its process.
//!
//! Each start makes a new name, so that entries of an earlier process never pass for ours. The identity lets another
//! consumer on the same machine see at once that the process is gone.

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// The longest readable part of a name.
const MAX_READABLE_CHARS: usize = 64;

/// A name for this start: the readable part, the process id and 64 random bits.
pub(super) fn new_consumer_name(readable: &str) -> String {
    let readable: String = readable
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .take(MAX_READABLE_CHARS)
        .collect();
    format!("{readable}-{}-{:016x}", std::process::id(), fastrand::u64(..))
}

/// Identifies a process for other processes on the same machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProcessIdentity {
    boot_id: String,
    pid_namespace: String,
    pid: u32,
    started: String,
}

impl ProcessIdentity {
    /// The identity of this process. Parts that the system hides stay empty, and then no process is recognized.
    pub(super) fn own() -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let pid_namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let pid = std::process::id();
        let started = match ProcessStatus::of(pid) {
            ProcessStatus::Started(at) => at,
            ProcessStatus::Gone | ProcessStatus::Hidden => String::new(),
        };
        Self {
            boot_id: boot_id.trim().to_owned(),
            pid_namespace: pid_namespace.to_string_lossy().into_owned(),
            pid,
            started,
        }
    }

    /// The text that is stored beside the heartbeat.
    pub(super) fn to_text(&self) -> String {
        format!("{} {} {} {}", self.boot_id, self.pid_namespace, self.pid, self.started)
    }

    /// Parses the stored text; `None` if it identifies no process.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let [boot_id, pid_namespace, pid, started] = words.as_slice() else { return None };
        if boot_id.is_empty() || pid_namespace.is_empty() || started.is_empty() {
            return None;
        }
        Some(Self {
            boot_id: (*boot_id).to_owned(),
            pid_namespace: (*pid_namespace).to_owned(),
            pid: pid.parse().ok()?,
            started: (*started).to_owned(),
        })
    }

    /// True if the other process ran on this machine and is gone. A new process with the same id does not count.
    pub(super) fn has_seen_end_of(&self, other: &Self) -> bool {
        self.boot_id == other.boot_id
            && self.pid_namespace == other.pid_namespace
            && match ProcessStatus::of(other.pid) {
                ProcessStatus::Gone => true,
                ProcessStatus::Started(at) => at != other.started,
                ProcessStatus::Hidden => false,
            }
    }
}

/// What `/proc` tells about a process id.
#[derive(Debug, PartialEq, Eq)]
enum ProcessStatus {
    /// There is no such process, or only a zombie.
    Gone,
    /// It runs, and started at this many ticks after boot.
    Started(String),
    /// It runs, but its details are hidden, as those of other users may be.
    Hidden,
}

impl ProcessStatus {
    fn of(pid: u32) -> Self {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let is_gone = pid.is_none_or(|pid| test_kill_process(pid) == Err(Errno::SRCH));
            return if is_gone { Self::Gone } else { Self::Hidden };
        };
        // The command name is in parentheses and may contain spaces and parentheses.
        let mut fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
        match (fields.next(), fields.nth(18)) {
            (Some("Z" | "X"), _) => Self::Gone,
            (Some(_), Some(started)) => Self::Started(started.to_owned()),
            _ => Self::Hidden,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_safe_in_keys() {
        let name = new_consumer_name("höst 1|a/b");
        assert!(name.starts_with("h-st-1-a-b-"), "{name}");
        assert_ne!(name, new_consumer_name("höst 1|a/b"));
    }

    #[test]
    fn a_process_is_recognized_until_it_is_gone() {
        let own = ProcessIdentity::own();
        assert_eq!(ProcessIdentity::parse(&own.to_text()), Some(own.clone()));
        assert!(!own.has_seen_end_of(&own), "this process lives");
        let reused = ProcessIdentity { started: "1".into(), ..own.clone() };
        assert!(own.has_seen_end_of(&reused), "the same id belongs to another process now");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = ProcessIdentity { pid: child.id(), ..own.clone() };
        child.wait().unwrap();
        assert!(own.has_seen_end_of(&ended));
        let elsewhere = ProcessIdentity { boot_id: "another machine".into(), ..ended };
        assert!(!own.has_seen_end_of(&elsewhere), "other machines are unknown");
        assert_eq!(ProcessIdentity::parse("  7 "), None);
    }

    #[test]
    fn a_hidden_process_is_not_gone() {
        let is_gone = |pid| ProcessStatus::of(pid) == ProcessStatus::Gone;
        assert!(!is_gone(std::process::id()));
        assert!(!is_gone(1), "it is there, whether or not it may be signalled");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        while std::fs::read_to_string(format!("/proc/{}/stat", child.id())).is_ok_and(|stat| !stat.contains(") Z")) {
            std::thread::yield_now();
        }
        assert!(is_gone(child.id()), "it is a zombie");
        child.wait().unwrap();
        assert!(is_gone(child.id()));
    }
}
