//! Who this consumer is, and which other ones are alive.
//!
//! A name is new at each start, so that nothing that an earlier process left behind passes for ours. Whether another
//! consumer lives is told without comparing clocks: its heartbeat is a counter, and one that was seen not to move for a
//! lease by our own monotonic clock is dead. One that ran on this very machine is gone as soon as its process is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// The readable part of a name is cut to so many characters.
const MAX_READABLE_CHARS: usize = 64;

/// A name for this start: the readable part, the process id and 64 random bits.
pub(super) fn consumer_name(readable: &str) -> String {
    let readable: String = readable
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .take(MAX_READABLE_CHARS)
        .collect();
    format!("{readable}-{}-{:016x}", std::process::id(), fastrand::u64(..))
}

/// A process, as it can be recognised later by another one on the same machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProcessIdentity {
    boot_id: String,
    pid_namespace: String,
    pid: u32,
    started: String,
}

impl ProcessIdentity {
    /// This process. Parts that the system does not show are empty, and then nobody is recognised.
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

    /// As it is kept beside the heartbeat.
    pub(super) fn to_text(&self) -> String {
        format!("{} {} {} {}", self.boot_id, self.pid_namespace, self.pid, self.started)
    }

    /// From the text; `None` if it says too little to recognise anyone.
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

    /// Whether the other one ran where we run and is gone. Another process with the same id does not count as it.
    pub(super) fn saw_end_of(&self, other: &Self) -> bool {
        self.boot_id == other.boot_id
            && self.pid_namespace == other.pid_namespace
            && match ProcessStatus::of(other.pid) {
                ProcessStatus::Gone => true,
                ProcessStatus::Started(at) => at != other.started,
                ProcessStatus::Hidden => false,
            }
    }
}

/// What can be told of the process of an id.
#[derive(Debug, PartialEq, Eq)]
enum ProcessStatus {
    /// There is none, or only what is left of one.
    Gone,
    /// It started then, in ticks since boot.
    Started(String),
    /// It is there and not shown, as those of other users may be.
    Hidden,
}

impl ProcessStatus {
    fn of(pid: u32) -> Self {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let is_gone = pid.is_none_or(|pid| test_kill_process(pid) == Err(Errno::SRCH));
            return if is_gone { Self::Gone } else { Self::Hidden };
        };
        // The name in parentheses may itself contain spaces and parentheses.
        let mut fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
        match (fields.next(), fields.nth(18)) {
            (Some("Z" | "X"), _) => Self::Gone,
            (Some(_), Some(started)) => Self::Started(started.to_owned()),
            _ => Self::Hidden,
        }
    }
}

/// What was seen of the other consumers.
#[derive(Debug, Default)]
pub(super) struct PeerTable {
    seen: BTreeMap<String, PeerObservation>,
}

#[derive(Debug)]
struct PeerObservation {
    heartbeat: Option<i64>,
    seen_at: Instant,
    /// For how long the heartbeat was seen not to move.
    still: Duration,
    process_gone: bool,
}

impl PeerTable {
    /// Takes in the consumers that the store knows, each with its heartbeat, if it has one, and its identity. Of the time
    /// since the last look no more than `most` counts: while this process stood still, or the store was away, nobody could
    /// be seen to live.
    pub(super) fn observe(
        &mut self,
        now: Instant,
        most: Duration,
        own: &ProcessIdentity,
        consumers: impl IntoIterator<Item = (String, Option<i64>, Option<String>)>,
    ) {
        let mut gone: BTreeSet<String> = self.seen.keys().cloned().collect();
        for (name, heartbeat, identity) in consumers {
            gone.remove(&name);
            let identity = identity.as_deref().and_then(ProcessIdentity::parse);
            let process_gone = identity.is_some_and(|identity| own.saw_end_of(&identity));
            match self.seen.get_mut(&name) {
                Some(peer) if peer.heartbeat == heartbeat => {
                    peer.still += now.duration_since(peer.seen_at).min(most);
                    (peer.seen_at, peer.process_gone) = (now, process_gone);
                }
                _ => {
                    self.seen
                        .insert(name, PeerObservation { heartbeat, seen_at: now, still: Duration::ZERO, process_gone });
                }
            }
        }
        for name in gone {
            self.seen.remove(&name);
        }
    }

    /// The store does not know it any more.
    pub(super) fn forget(&mut self, name: &str) {
        self.seen.remove(name);
    }

    /// Those that are dead. What they hold is not free for that alone: their leases may have been renewed after their last
    /// heartbeat.
    pub(super) fn dead(&self, lease: Duration) -> Vec<String> {
        self.which(|peer| peer.process_gone || peer.still >= lease)
    }

    /// Those that live and show it, each with the time since its last sign of life.
    pub(super) fn living(&self, lease: Duration) -> Vec<(String, Duration)> {
        let lives = |peer: &PeerObservation| peer.heartbeat.is_some() && !peer.process_gone && peer.still < lease;
        self.seen.iter().filter(|(_, peer)| lives(peer)).map(|(name, peer)| (name.clone(), peer.still)).collect()
    }

    /// Those whose process is gone: what they hold nobody will renew.
    pub(super) fn gone(&self) -> Vec<String> {
        self.which(|peer| peer.process_gone)
    }

    fn which(&self, is_one: impl Fn(&PeerObservation) -> bool) -> Vec<String> {
        self.seen.iter().filter(|(_, peer)| is_one(peer)).map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    #[test]
    fn names_are_new_each_time_and_safe_in_keys() {
        let name = consumer_name("höst 1|a/b");
        assert!(name.starts_with("h-st-1-a-b-"), "{name}");
        assert_ne!(name, consumer_name("höst 1|a/b"));
    }

    #[test]
    fn a_process_is_recognised_until_it_is_gone() {
        let own = ProcessIdentity::own();
        assert_eq!(ProcessIdentity::parse(&own.to_text()), Some(own.clone()));
        assert!(!own.saw_end_of(&own), "this process lives");
        let reused = ProcessIdentity { started: "1".into(), ..own.clone() };
        assert!(own.saw_end_of(&reused), "the same id belongs to another process now");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = ProcessIdentity { pid: child.id(), ..own.clone() };
        child.wait().unwrap();
        assert!(own.saw_end_of(&ended));
        let elsewhere = ProcessIdentity { boot_id: "another machine".into(), ..ended };
        assert!(!own.saw_end_of(&elsewhere), "nothing is known of other machines");
        assert_eq!(ProcessIdentity::parse("  7 "), None);
    }

    #[test]
    fn a_heartbeat_that_stands_still_for_a_lease_is_death() {
        let own = ProcessIdentity::own();
        let start = Instant::now();
        let mut peers = PeerTable::default();
        let mut beat = |after: Duration, a: Option<i64>, b: Option<i64>| {
            peers.observe(start + after, LEASE / 2, &own, [("a".to_owned(), a, None), ("b".to_owned(), b, None)]);
            assert_eq!(peers.gone(), [""; 0]);
            peers.dead(LEASE)
        };
        assert!(beat(Duration::ZERO, Some(1), None).is_empty());
        assert!(beat(LEASE / 2, Some(2), None).is_empty());
        assert_eq!(beat(LEASE, Some(2), None), ["b"]);
        assert_eq!(beat(LEASE * 3 / 2, Some(2), Some(1)), ["a"]);
        peers.observe(start + LEASE * 4, LEASE / 2, &own, []);
        assert!(peers.dead(LEASE).is_empty(), "who is forgotten by the store is forgotten");
    }

    #[test]
    fn who_did_not_look_has_seen_nobody_die() {
        let (own, start) = (ProcessIdentity::own(), Instant::now());
        let mut peers = PeerTable::default();
        let mut look = |after: Duration| {
            peers.observe(start + after, LEASE / 2, &own, [("a".to_owned(), Some(1), None)]);
            peers.dead(LEASE)
        };
        assert!(look(Duration::ZERO).is_empty());
        assert!(look(LEASE * 10).is_empty(), "this process stood still, and so may the other have done");
        assert!(look(LEASE * 10 + LEASE / 4).is_empty());
        assert_eq!(look(LEASE * 10 + LEASE / 2), ["a"]);
    }

    #[test]
    fn a_process_that_may_not_be_looked_at_is_not_gone() {
        let is_gone = |pid| ProcessStatus::of(pid) == ProcessStatus::Gone;
        assert!(!is_gone(std::process::id()));
        assert!(!is_gone(1), "it is there, whether or not it may be signalled");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        while std::fs::read_to_string(format!("/proc/{}/stat", child.id())).is_ok_and(|stat| !stat.contains(") Z")) {
            std::thread::yield_now();
        }
        assert!(is_gone(child.id()), "what is left of it is not waited for yet");
        child.wait().unwrap();
        assert!(is_gone(child.id()));
    }

    #[test]
    fn who_ran_here_and_is_gone_is_dead_at_once() {
        let own = ProcessIdentity::own();
        let mut peers = PeerTable::default();
        let gone = ProcessIdentity { started: "1".into(), ..own.clone() };
        let now = Instant::now();
        peers.observe(now, LEASE / 2, &own, [("gone".to_owned(), Some(1), Some(gone.to_text()))]);
        assert_eq!((peers.dead(LEASE), peers.gone()), (vec!["gone".to_owned()], vec!["gone".to_owned()]));
        assert_eq!(peers.living(LEASE), []);
    }

    #[test]
    fn who_moved_within_a_lease_lives_and_who_never_did_does_not() {
        let (own, start) = (ProcessIdentity::own(), Instant::now());
        let mut peers = PeerTable::default();
        let mut look = |after: Duration| {
            let consumers = [("a".to_owned(), Some(1), None), ("b".to_owned(), None, None)];
            peers.observe(start + after, LEASE / 2, &own, consumers);
            peers.living(LEASE)
        };
        assert_eq!(look(Duration::ZERO), [("a".to_owned(), Duration::ZERO)]);
        assert_eq!(look(LEASE / 2), [("a".to_owned(), LEASE / 2)]);
        assert_eq!(look(LEASE), []);
    }
}
