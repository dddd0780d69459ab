//! What goes wrong, by name, how often, and what was done in the end.

use std::fmt;
use std::time::Duration;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nemesis {
    /// A random host is killed.
    KillHost,
    /// The store is killed and started again on its data.
    KillStore,
    /// A random host stands still for longer than its lease.
    StopHost,
    /// A random host finds no more memory, for a while: the kernel kills it when it needs some.
    OomHost,
    /// The wire of a random host holds everything back for longer than the host's lease.
    FreezeWire,
    /// The wire of a random host is slow for a while: everything on it is late.
    DelayWire,
    /// The connections of a random host are cut off once, wherever they stand.
    CutWire,
    /// A script of a random host takes effect, its reply reaches nobody, and the connection is cut off.
    DropReply,
    /// The consumer groups of all lanes are destroyed.
    DestroyGroups,
    /// The store forgets its scripts.
    FlushScripts,
    /// The store has no memory left for new data, for a while.
    FillMemory,
    /// Somebody changes a setting of the store so that it keeps less than it did, for a while.
    ConfigSet,
    /// The power of the store's machine is cut: what was not synced may be lost or torn.
    CutPower,
    /// The files of the store cannot grow, for a while.
    FillDisk,
    /// The clock of the store's machine jumps ahead, and after a while back.
    JumpClock,
    /// The plugin that handles nearly everything is replaced by another build.
    SwapPlugin,
    /// A plugin publishes its own type twice, again and again, until there are far more than it may have waiting.
    MultiplyEvents,
    /// A random host lacks a plugin that the others have, for a while; it may be started without it.
    LackPlugin,
    /// Clients of a random host stand still, for a while: in the midst of a request, or before its answer.
    StopClients,
}

impl Nemesis {
    /// How it is called.
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

/// How often each fault comes; those that are not named never do.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Which, and how long from one to the next, on average.
    pub every: &'static [(Nemesis, Duration)],
    /// Everything between hosts and store is late by so much in each direction, which makes the moments between two
    /// steps long enough to be hit.
    pub delay_ms: u64,
}

impl Faults {
    /// How wrong the times that the store notes may be.
    pub fn clock_error(&self) -> Duration {
        let jumps = self.every.iter().any(|(nemesis, _)| *nemesis == Nemesis::JumpClock);
        if jumps { MAX_JUMP } else { Duration::ZERO }
    }
}

/// How far the clock jumps ahead at most. What is due later in the end must not look as if it were stuck.
pub const MAX_JUMP: Duration = Duration::from_secs(10);

/// What the issue of every day is, in quick succession.
pub const EVERY_DAY: Faults = Faults {
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
pub const EVERY_DAY_OF_ONE: Faults = Faults {
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

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Done {
    counts: Vec<(Nemesis, u32)>,
    /// Hosts that the kernel killed for want of memory.
    pub out_of_memory: u32,
    /// Replies that were dropped.
    pub replies_dropped: u32,
    /// Hosts that said in time that the store keeps less than it did.
    pub settings_told: u32,
    /// What hosts should have said or done under a fault and did not.
    pub broken: Vec<String>,
}

impl Done {
    /// Nothing yet, of these faults.
    pub fn none_of(faults: &Faults) -> Self {
        Self { counts: faults.every.iter().map(|(nemesis, _)| (*nemesis, 0)).collect(), ..Self::default() }
    }

    /// One more.
    pub fn count(&mut self, nemesis: Nemesis) {
        if let Some((_, count)) = self.counts.iter_mut().find(|(other, _)| *other == nemesis) {
            *count += 1;
        }
    }

    /// How often there was this one.
    pub fn of(&self, nemesis: Nemesis) -> u32 {
        self.counts.iter().find(|(other, _)| *other == nemesis).map_or(0, |(_, count)| *count)
    }

    /// Each fault, and how often there was one.
    pub fn counts(&self) -> &[(Nemesis, u32)] {
        &self.counts
    }

    /// How many faults there were.
    pub fn total(&self) -> u32 {
        self.counts.iter().map(|(_, count)| count).sum()
    }

    /// Adds what was done in another run under the same faults.
    pub fn add(&mut self, other: Self) {
        for (nemesis, more) in other.counts {
            match self.counts.iter_mut().find(|(known, _)| *known == nemesis) {
                Some((_, count)) => *count += more,
                None => self.counts.push((nemesis, more)),
            }
        }
        self.out_of_memory += other.out_of_memory;
        self.replies_dropped += other.replies_dropped;
        self.settings_told += other.settings_told;
        self.broken.extend(other.broken);
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told: Vec<String> =
            self.counts.iter().map(|(nemesis, count)| format!("{} {count}", nemesis.as_str())).collect();
        f.write_str(&told.join(", "))
    }
}
