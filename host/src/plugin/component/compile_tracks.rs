//! Two lanes for loading: what is quick never waits for what is slow.
//!
//! A small file goes the quick way. If it needs longer there than is quick, it is begun anew on the slow way with the full
//! limits, and its plugin's next files go there at once. So neither a number of large files nor a small one that is hard to
//! compile holds up others, and at most two compilations run, of which the quick one has a quarter of the memory.

use std::sync::Arc;
use std::time::Instant;

use super::load_ranks::{LoadApplicant, RankedTurn, RankedTurns, UsageLedger};
use crate::plugin::CompileLimits;
use crate::plugin::sandbox::capacity;

/// Files that are read or tried side by side, on each way. Each of them is in memory meanwhile.
const ROOMS: usize = 8;
/// Compilations side by side on each way: one may take all cores.
const COMPILATIONS: usize = 1;
/// First instances side by side on each way, of those for which the sandbox has room.
const INTRODUCTIONS: usize = capacity::INTRODUCTIONS / 2;
/// The largest file that goes the quick way at first.
const QUICK_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// What a quick compilation takes at most. It is counted in CPU time, which others do not lengthen.
const QUICK_CPU_MS: u64 = 2_000;
/// The same by the clock, for a compiler that hangs.
const QUICK_WALL_MS: u64 = 15_000;
/// Memory that a quick compilation may take, even where a quarter of the limit is less.
const QUICK_MEMORY_BYTES: u64 = 256 * 1024 * 1024;
/// How long a quick first instance may take.
pub(in crate::plugin) const QUICK_INTRODUCTION_MS: u64 = 1_000;

/// One of the two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin) enum CompileTrack {
    Quick,
    Slow,
}

/// The turns of both ways.
#[derive(Debug)]
pub(in crate::plugin) struct CompileTracks {
    ledger: Arc<UsageLedger>,
    quick: TrackTurns,
    slow: TrackTurns,
}

/// The turns of the steps of one way.
#[derive(Debug)]
pub(in crate::plugin) struct TrackTurns {
    pub(in crate::plugin) rooms: Arc<RankedTurns>,
    pub(in crate::plugin) compilations: Arc<RankedTurns>,
    pub(in crate::plugin) introductions: Arc<RankedTurns>,
}

/// A file on its way.
#[derive(Debug)]
pub(in crate::plugin) struct CompilePassage {
    applicant: LoadApplicant,
    lane: CompileTrack,
    /// Its bytes may be in memory.
    room: Option<RankedTurn>,
}

impl Default for CompileTracks {
    fn default() -> Self {
        let ledger = Arc::default();
        Self { quick: TrackTurns::new(&ledger), slow: TrackTurns::new(&ledger), ledger }
    }
}

impl TrackTurns {
    fn new(ledger: &Arc<UsageLedger>) -> Self {
        Self {
            rooms: RankedTurns::new(ROOMS, ledger, false),
            compilations: RankedTurns::new(COMPILATIONS, ledger, true),
            introductions: RankedTurns::new(INTRODUCTIONS, ledger, true),
        }
    }
}

impl CompileTracks {
    /// The beginning of a file's way.
    pub(in crate::plugin) fn passage(&self, plugin: &str, serves: bool, size_bytes: u64) -> CompilePassage {
        let applicant = LoadApplicant { plugin: plugin.into(), serves, size_bytes };
        let is_slow = size_bytes > QUICK_FILE_BYTES || self.ledger.is_slow(plugin, Instant::now());
        CompilePassage { applicant, lane: if is_slow { CompileTrack::Slow } else { CompileTrack::Quick }, room: None }
    }

    /// The turns of the way that a file goes.
    pub(in crate::plugin) fn steps(&self, passage: &CompilePassage) -> &TrackTurns {
        match passage.lane {
            CompileTrack::Quick => &self.quick,
            CompileTrack::Slow => &self.slow,
        }
    }

    /// Waits until the file may be in memory.
    pub(in crate::plugin) async fn enter_room(&self, passage: &mut CompilePassage) {
        if passage.room.is_none() {
            passage.room = Some(self.steps(passage).rooms.turn(&passage.applicant).await);
        }
    }

    /// Has a file go the slow way from here on, and the next ones of its plugin.
    pub(in crate::plugin) fn slow_down(&self, passage: &mut CompilePassage) {
        self.ledger.note_slow(&passage.applicant.plugin, Instant::now());
        passage.lane = CompileTrack::Slow;
        passage.room = None;
    }
}

impl CompilePassage {
    pub(in crate::plugin) fn applicant(&self) -> &LoadApplicant {
        &self.applicant
    }

    pub(in crate::plugin) fn lane(&self) -> CompileTrack {
        self.lane
    }

    /// Its bytes are in memory no more.
    pub(in crate::plugin) fn leave_room(&mut self) {
        self.room = None;
    }
}

impl CompileTrack {
    /// What a compilation may take here of what it may take at most.
    pub(in crate::plugin) fn limits(self, all: CompileLimits) -> CompileLimits {
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
    fn small_files_go_the_quick_way_until_they_turn_out_slow() {
        let lanes = CompileTracks::default();
        assert_eq!(lanes.passage("a", true, QUICK_FILE_BYTES + 1).lane(), CompileTrack::Slow);
        let mut passage = lanes.passage("a", false, QUICK_FILE_BYTES);
        assert_eq!(passage.lane(), CompileTrack::Quick);
        lanes.slow_down(&mut passage);
        assert_eq!((passage.lane(), lanes.passage("a", false, 1).lane()), (CompileTrack::Slow, CompileTrack::Slow));
        assert_eq!(lanes.passage("b", false, 1).lane(), CompileTrack::Quick);
    }

    #[test]
    fn what_is_quick_takes_a_part_of_what_may_be_taken() {
        let all = CompileLimits::default();
        let quick = CompileTrack::Quick.limits(all);
        assert_eq!((quick.memory_bytes, quick.cpu_ms), (all.memory_bytes / 4, QUICK_CPU_MS));
        assert_eq!(CompileTrack::Slow.limits(all), all);
        let little = CompileLimits { memory_bytes: 64 << 20, cpu_ms: 1_000, wall_ms: 10 };
        assert_eq!(CompileTrack::Quick.limits(little), little, "no more than all");
    }
}
