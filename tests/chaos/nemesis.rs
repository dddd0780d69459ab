//! The kinds of faults, how often each comes, and how many there were.

use std::fmt;
use std::time::Duration;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nemesis {
    /// A random host is killed.
    KillHost,
    /// The store is killed, and started again on its data.
    KillStore,
    /// A random host is stopped (SIGSTOP) for longer than its lease.
    StopHost,
    /// A random host gets no more memory for a while; the kernel kills it when it needs some.
    OomHost,
    /// The network of a random host holds everything back for longer than its lease.
    FreezeWire,
    /// The network of a random host is slow for a while.
    DelayWire,
    /// The connections of a random host are cut once.
    CutWire,
    /// A script of a random host takes effect, but its reply is dropped and the connection is cut.
    DropReply,
    /// The consumer groups of all lanes are destroyed.
    DestroyGroups,
    /// The store forgets its scripts.
    FlushScripts,
    /// The store has no memory for new data for a while.
    FillMemory,
    /// A setting of the store makes it less durable for a while.
    ConfigSet,
    /// The power of the store's machine is cut. Data that was not synced may be lost or torn.
    CutPower,
    /// The files of the store cannot grow for a while.
    FillDisk,
    /// The clock of the store's machine jumps ahead, and back after a while.
    JumpClock,
    /// The plugin that handles nearly everything is replaced by another build.
    SwapPlugin,
    /// Each event of a plugin publishes two of its own type, until far more exist than may wait.
    MultiplyEvents,
    /// A random host lacks a plugin that the others have for a while. It may be restarted without it.
    LackPlugin,
    /// Clients of a random host stop for a while, in the middle of a request or before they read its answer.
    StopClients,
}

impl Nemesis {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KillHost => "kill-host",
            Self::KillStore => "kill-store",
            Self::StopHost => "stop-host",
            Self::OomHost => "oom-host",
            Self::FreezeWire => "freeze-wire",
            Self::DelayWire => "delay-wire",
            Self::CutWire => "cut-wire",
            Self::DropReply => "drop-reply",
            Self::DestroyGroups => "destroy-groups",
            Self::FlushScripts => "flush-scripts",
            Self::FillMemory => "fill-memory",
            Self::ConfigSet => "config-set",
            Self::CutPower => "cut-power",
            Self::FillDisk => "fill-disk",
            Self::JumpClock => "jump-clock",
            Self::SwapPlugin => "swap-plugin",
            Self::MultiplyEvents => "multiply-events",
            Self::LackPlugin => "lack-plugin",
            Self::StopClients => "stop-clients",
        }
    }
}

/// How often each fault comes.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// The faults, each with the average time between two of them. Others never come.
    pub every: &'static [(Nemesis, Duration)],
    /// The delay between hosts and store in each direction. It makes the time between two steps long enough to be hit.
    pub delay_ms: u64,
}

impl Faults {
    /// The largest error of the times that the store records.
    pub fn clock_error(&self) -> Duration {
        let jumps = self.every.iter().any(|(nemesis, _)| *nemesis == Nemesis::JumpClock);
        if jumps { MAX_JUMP } else { Duration::ZERO }
    }
}

/// The largest jump of the clock. A run must be able to wait so long for an event that is due later because of it.
pub const MAX_JUMP: Duration = Duration::from_secs(10);

/// Everyday faults in quick succession.
pub const EVERYDAY: Faults = Faults {
    every: &[
        (Nemesis::KillHost, Duration::from_secs(2)),
        (Nemesis::KillStore, Duration::from_secs(8)),
        (Nemesis::StopHost, Duration::from_secs(9)),
        (Nemesis::OomHost, Duration::from_secs(10)),
        (Nemesis::FreezeWire, Duration::from_secs(7)),
        (Nemesis::DelayWire, Duration::from_secs(9)),
        (Nemesis::CutWire, Duration::from_secs(5)),
        (Nemesis::DropReply, Duration::from_secs(3)),
        (Nemesis::DestroyGroups, Duration::from_secs(20)),
        (Nemesis::FlushScripts, Duration::from_secs(6)),
        (Nemesis::FillMemory, Duration::from_secs(15)),
        (Nemesis::ConfigSet, Duration::from_secs(45)),
        (Nemesis::CutPower, Duration::from_secs(11)),
        (Nemesis::FillDisk, Duration::from_secs(17)),
        (Nemesis::JumpClock, Duration::from_secs(13)),
        (Nemesis::SwapPlugin, Duration::from_secs(10)),
        (Nemesis::MultiplyEvents, Duration::from_secs(12)),
        (Nemesis::LackPlugin, Duration::from_secs(12)),
        (Nemesis::StopClients, Duration::from_secs(9)),
    ],
    delay_ms: 1,
};

/// The same for one host on a directory.
pub const EVERYDAY_SINGLE_HOST: Faults = Faults {
    every: &[
        (Nemesis::KillHost, Duration::from_secs(2)),
        (Nemesis::StopHost, Duration::from_secs(9)),
        (Nemesis::OomHost, Duration::from_secs(7)),
        (Nemesis::CutPower, Duration::from_secs(5)),
        (Nemesis::FillDisk, Duration::from_secs(11)),
        (Nemesis::JumpClock, Duration::from_secs(13)),
        (Nemesis::SwapPlugin, Duration::from_secs(10)),
        (Nemesis::MultiplyEvents, Duration::from_secs(12)),
        (Nemesis::StopClients, Duration::from_secs(9)),
    ],
    delay_ms: 0,
};

/// How many faults were injected, and what the hosts did.
#[derive(Clone, Debug, Default)]
pub struct FaultCounts {
    counts: Vec<(Nemesis, u32)>,
    /// Hosts that the kernel killed because they needed memory.
    pub out_of_memory: u32,
    /// Replies that were dropped.
    pub replies_dropped: u32,
    /// Hosts that reported in time that their store is less durable.
    pub settings_reported: u32,
    /// What hosts had to report or do under a fault and did not.
    pub broken: Vec<String>,
}

impl FaultCounts {
    /// Zero of each of these faults.
    pub fn none_of(faults: &Faults) -> Self {
        Self { counts: faults.every.iter().map(|(nemesis, _)| (*nemesis, 0)).collect(), ..Self::default() }
    }

    /// Adds one fault.
    pub fn count(&mut self, nemesis: Nemesis) {
        if let Some((_, count)) = self.counts.iter_mut().find(|(other, _)| *other == nemesis) {
            *count += 1;
        }
    }

    /// How many of this kind there were.
    pub fn of(&self, nemesis: Nemesis) -> u32 {
        self.counts.iter().find(|(other, _)| *other == nemesis).map_or(0, |(_, count)| *count)
    }

    /// Each kind of fault, and how many there were.
    pub fn counts(&self) -> &[(Nemesis, u32)] {
        &self.counts
    }

    /// How many faults there were.
    pub fn total(&self) -> u32 {
        self.counts.iter().map(|(_, count)| count).sum()
    }

    /// Adds the counts of another run under the same faults.
    pub fn add(&mut self, other: Self) {
        for (nemesis, more) in other.counts {
            match self.counts.iter_mut().find(|(known, _)| *known == nemesis) {
                Some((_, count)) => *count += more,
                None => self.counts.push((nemesis, more)),
            }
        }
        self.out_of_memory += other.out_of_memory;
        self.replies_dropped += other.replies_dropped;
        self.settings_reported += other.settings_reported;
        self.broken.extend(other.broken);
    }
}

impl fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> =
            self.counts.iter().map(|(nemesis, count)| format!("{} {count}", nemesis.as_str())).collect();
        f.write_str(&parts.join(", "))
    }
}
