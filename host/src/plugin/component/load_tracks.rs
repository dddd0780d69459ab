//! Two tracks for loading, so that a quick load never waits for a slow one.
//!
//! A small file takes the quick track. If it exceeds the limits there, it begins anew on the slow track with the full
//! limits. The next files of its plugin then take the slow track at once. So neither many large files nor a small one that is
//! hard to compile delay others. At most two compilations run, and the quick one has a quarter of the memory.

use std::sync::Arc;
use std::time::Instant;

use super::compile_child::CompileLimits;
use super::load_ranks::{LoadApplicant, RankedTurn, RankedTurns, UsageLedger};
use crate::plugin::sandbox::capacity;

/// How many files may be in memory on each track, to be read or tried.
const FILES_IN_MEMORY: usize = 8;
/// Compilations side by side on each track: one may take all cores.
const COMPILATIONS: usize = 1;
/// First instances side by side on each track, of those that the sandbox has room for.
const INTRODUCTIONS: usize = capacity::INTRODUCTIONS / 2;
/// The largest file that takes the quick track at first.
const QUICK_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// The most CPU time of a quick compilation. A busy machine does not lengthen it.
const QUICK_CPU_MS: u64 = 2_000;
/// The most wall time of a quick compilation, for a compiler that hangs.
const QUICK_WALL_MS: u64 = 15_000;
/// The memory that a quick compilation may take, even where a quarter of the limit is less.
const QUICK_MEMORY_BYTES: u64 = 256 * 1024 * 1024;
/// How long a quick first instance may take.
pub(super) const QUICK_INTRODUCTION_MS: u64 = 1_000;

/// One of the two tracks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoadTrack {
    Quick,
    Slow,
}

/// The turns on both tracks.
#[derive(Debug)]
pub(in crate::plugin) struct LoadTracks {
    ledger: Arc<UsageLedger>,
    quick: TrackTurns,
    slow: TrackTurns,
}

/// The turns on one track, for each step of a load.
#[derive(Debug)]
pub(super) struct TrackTurns {
    pub(super) memory: Arc<RankedTurns>,
    pub(super) compilations: Arc<RankedTurns>,
    pub(super) introductions: Arc<RankedTurns>,
}

/// A file that is being loaded.
#[derive(Debug)]
pub(in crate::plugin) struct LoadTicket {
    pub(super) applicant: LoadApplicant,
    pub(super) track: LoadTrack,
    /// Held while the bytes are in memory.
    memory: Option<RankedTurn>,
}

impl Default for LoadTracks {
    fn default() -> Self {
        let ledger = Arc::default();
        Self { quick: TrackTurns::new(&ledger), slow: TrackTurns::new(&ledger), ledger }
    }
}

impl TrackTurns {
    fn new(ledger: &Arc<UsageLedger>) -> Self {
        Self {
            memory: RankedTurns::new(FILES_IN_MEMORY, ledger, false),
            compilations: RankedTurns::new(COMPILATIONS, ledger, true),
            introductions: RankedTurns::new(INTRODUCTIONS, ledger, true),
        }
    }
}

impl LoadTracks {
    /// Chooses the track of a file. `serves` says that a version of the plugin serves or served before the start.
    pub(in crate::plugin) fn ticket(&self, plugin: &str, serves: bool, size_bytes: u64) -> LoadTicket {
        let applicant = LoadApplicant { plugin: plugin.into(), serves, size_bytes };
        let is_slow = size_bytes > QUICK_FILE_BYTES || self.ledger.is_slow(plugin, Instant::now());
        let track = if is_slow { LoadTrack::Slow } else { LoadTrack::Quick };
        LoadTicket { applicant, track, memory: None }
    }

    /// The turns on the track of a file.
    pub(super) fn turns(&self, ticket: &LoadTicket) -> &TrackTurns {
        match ticket.track {
            LoadTrack::Quick => &self.quick,
            LoadTrack::Slow => &self.slow,
        }
    }

    /// Waits until the file may be in memory.
    pub(in crate::plugin) async fn enter_memory(&self, ticket: &mut LoadTicket) {
        if ticket.memory.is_none() {
            ticket.memory = Some(self.turns(ticket).memory.turn(&ticket.applicant).await);
        }
    }

    /// Moves a file to the slow track, and the next files of its plugin too.
    pub(super) fn move_to_slow_track(&self, ticket: &mut LoadTicket) {
        self.ledger.note_slow(&ticket.applicant.plugin, Instant::now());
        ticket.track = LoadTrack::Slow;
        ticket.memory = None;
    }
}

impl LoadTicket {
    /// Notes that the bytes are no longer in memory.
    pub(super) fn leave_memory(&mut self) {
        self.memory = None;
    }
}

impl LoadTrack {
    /// The limits of a compilation on this track. `all` are those of the slow one.
    pub(super) fn limits(self, all: CompileLimits) -> CompileLimits {
        match self {
            Self::Slow => all,
            Self::Quick => CompileLimits {
                memory_bytes: all.memory_bytes.min((all.memory_bytes / 4).max(QUICK_MEMORY_BYTES)),
                cpu_ms: all.cpu_ms.min(QUICK_CPU_MS),
                wall_ms: all.wall_ms.min(QUICK_WALL_MS),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_take_the_quick_track_until_they_turn_out_slow() {
        let tracks = LoadTracks::default();
        assert_eq!(tracks.ticket("a", true, QUICK_FILE_BYTES + 1).track, LoadTrack::Slow);
        let mut ticket = tracks.ticket("a", false, QUICK_FILE_BYTES);
        assert_eq!(ticket.track, LoadTrack::Quick);
        tracks.move_to_slow_track(&mut ticket);
        assert_eq!((ticket.track, tracks.ticket("a", false, 1).track), (LoadTrack::Slow, LoadTrack::Slow));
        assert_eq!(tracks.ticket("b", false, 1).track, LoadTrack::Quick);
    }

    #[test]
    fn a_quick_compilation_may_take_a_part_of_the_limits() {
        let all = CompileLimits::default();
        let quick = LoadTrack::Quick.limits(all);
        assert_eq!((quick.memory_bytes, quick.cpu_ms), (all.memory_bytes / 4, QUICK_CPU_MS));
        assert_eq!(LoadTrack::Slow.limits(all), all);
        let little = CompileLimits { memory_bytes: 64 << 20, cpu_ms: 1_000, wall_ms: 10 };
        assert_eq!(LoadTrack::Quick.limits(little), little, "no more than all");
    }
}
