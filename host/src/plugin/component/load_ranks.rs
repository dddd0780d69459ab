//! Turns by rank, not in the order of arrival: first plugins that used little time lately, then plugins that serve, then
//! small files.
//!
//! So a small build of a plugin that serves waits only for what runs at that moment, however many files wait. A plugin whose
//! file changes again and again falls behind all others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

/// After this time half of the time that a plugin used is forgotten, and that it was slow.
const HALF_LIFE: Duration = Duration::from_secs(600);
/// Plugins that used less than this lately have equal rank.
const LITTLE_MS: u64 = 4_000;
/// A use below this is forgotten.
const NEGLIGIBLE_MS: f64 = 50.0;

/// A file that waits for a turn, with what decides its rank.
#[derive(Clone, Debug)]
pub(super) struct LoadApplicant {
    /// The name of the plugin.
    pub(super) plugin: Arc<str>,
    /// Whether a version of it serves, or served before the host was started.
    pub(super) serves: bool,
    /// The size of its file.
    pub(super) size_bytes: u64,
}

/// How much time each plugin used lately.
#[derive(Debug, Default)]
pub(super) struct UsageLedger(Mutex<HashMap<Arc<str>, UsageAccount>>);

#[derive(Clone, Copy, Debug)]
struct UsageAccount {
    spent_ms: f64,
    at: Instant,
    slow_since: Option<Instant>,
}

/// A fixed number of turns that are taken side by side.
#[derive(Debug)]
pub(super) struct RankedTurns {
    state: Mutex<RankedTurnsState>,
    ledger: Arc<UsageLedger>,
    /// Whether the time of a turn counts as used by its plugin.
    is_work: bool,
}

#[derive(Debug)]
struct RankedTurnsState {
    free: usize,
    arrivals: u64,
    waiting: Vec<WaitingApplicant>,
}

#[derive(Debug)]
struct WaitingApplicant {
    applicant: LoadApplicant,
    arrival: u64,
    turn: oneshot::Sender<RankedTurn>,
}

/// A turn; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct RankedTurn {
    turns: Arc<RankedTurns>,
    plugin: Arc<str>,
    since: Instant,
}

impl UsageLedger {
    /// Notes that a plugin exceeded the limits of the quick track.
    pub(super) fn note_slow(&self, plugin: &Arc<str>, now: Instant) {
        let mut accounts = self.accounts();
        let account =
            accounts.entry(plugin.clone()).or_insert(UsageAccount { spent_ms: 0.0, at: now, slow_since: None });
        account.slow_since = Some(now);
    }

    /// Whether a plugin exceeded the limits of the quick track lately.
    pub(super) fn is_slow(&self, plugin: &str, now: Instant) -> bool {
        self.accounts().get(plugin).is_some_and(|account| account.is_slow(now))
    }

    fn add(&self, plugin: &Arc<str>, spent: Duration, now: Instant) {
        let mut accounts = self.accounts();
        let account =
            accounts.entry(plugin.clone()).or_insert(UsageAccount { spent_ms: 0.0, at: now, slow_since: None });
        *account =
            UsageAccount { spent_ms: account.recent_ms(now) + spent.as_secs_f64() * 1_000.0, at: now, ..*account };
        accounts.retain(|_, account| account.recent_ms(now) > NEGLIGIBLE_MS || account.is_slow(now));
    }

    /// 0 for a plugin that used little time; grows by one each time that the use doubles.
    fn level(&self, plugin: &str, now: Instant) -> u32 {
        let spent_ms = self.accounts().get(plugin).map_or(0.0, |account| account.recent_ms(now));
        (spent_ms as u64 / LITTLE_MS + 1).ilog2()
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Arc<str>, UsageAccount>> {
        self.0.lock()
    }
}

impl UsageAccount {
    fn recent_ms(&self, now: Instant) -> f64 {
        let half_lives = now.duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.spent_ms * 0.5_f64.powf(half_lives)
    }

    fn is_slow(&self, now: Instant) -> bool {
        self.slow_since.is_some_and(|since| now.duration_since(since) < HALF_LIFE)
    }
}

impl RankedTurns {
    /// `free` turns at a time. With `is_work`, the time of each turn counts as used by its plugin.
    pub(super) fn new(free: usize, ledger: &Arc<UsageLedger>, is_work: bool) -> Arc<Self> {
        let state = Mutex::new(RankedTurnsState { free, arrivals: 0, waiting: Vec::new() });
        Arc::new(Self { state, ledger: ledger.clone(), is_work })
    }

    /// A turn, if one is free and no other file waits.
    pub(super) fn try_turn(self: &Arc<Self>, applicant: &LoadApplicant) -> Option<RankedTurn> {
        let mut state = self.state();
        state.waiting.retain(|waiting| !waiting.turn.is_closed());
        if !state.waiting.is_empty() {
            return None;
        }
        state.free = state.free.checked_sub(1)?;
        drop(state);
        Some(self.begin_turn(&applicant.plugin))
    }

    /// Waits for a turn. Dropping the future gives up the place.
    pub(super) async fn turn(self: &Arc<Self>, applicant: &LoadApplicant) -> RankedTurn {
        loop {
            let (turn, given) = oneshot::channel();
            {
                let mut state = self.state();
                state.arrivals += 1;
                let arrival = state.arrivals;
                state.waiting.push(WaitingApplicant { applicant: applicant.clone(), arrival, turn });
            }
            self.assign_free();
            // The sender is dropped only without a turn to send; then this asks again.
            if let Ok(turn) = given.await {
                return turn;
            }
        }
    }

    /// Gives the free turns to the files of the highest rank.
    fn assign_free(self: &Arc<Self>) {
        while let Some(waiting) = self.take_first() {
            // If the file no longer waits, dropping the turn gives it back at once.
            drop(waiting.turn.send(self.begin_turn(&waiting.applicant.plugin)));
        }
    }

    fn take_first(&self) -> Option<WaitingApplicant> {
        let now = Instant::now();
        let mut state = self.state();
        state.waiting.retain(|waiting| !waiting.turn.is_closed());
        if state.free == 0 {
            return None;
        }
        let ranks = state.waiting.iter().map(|WaitingApplicant { applicant, arrival, .. }| {
            let level = self.ledger.level(&applicant.plugin, now);
            (level, !applicant.serves, applicant.size_bytes, *arrival)
        });
        let (first, _) = ranks.enumerate().min_by_key(|(_, rank)| *rank)?;
        state.free -= 1;
        Some(state.waiting.swap_remove(first))
    }

    fn begin_turn(self: &Arc<Self>, plugin: &Arc<str>) -> RankedTurn {
        RankedTurn { turns: self.clone(), plugin: plugin.clone(), since: Instant::now() }
    }

    fn state(&self) -> MutexGuard<'_, RankedTurnsState> {
        self.state.lock()
    }
}

impl Drop for RankedTurn {
    fn drop(&mut self) {
        if self.turns.is_work {
            self.turns.ledger.add(&self.plugin, self.since.elapsed(), Instant::now());
        }
        self.turns.state().free += 1;
        self.turns.assign_free();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn applicant(plugin: &str, serves: bool, size_bytes: u64) -> LoadApplicant {
        LoadApplicant { plugin: plugin.into(), serves, size_bytes }
    }

    #[test]
    fn small_files_of_serving_plugins_go_before_earlier_ones() {
        let turns = RankedTurns::new(1, &Arc::default(), false);
        let running = turns.try_turn(&applicant("running", false, 1)).unwrap();
        let applicants = [
            ("large", false, 9),
            ("small", false, 1),
            ("serves", true, 9),
            ("small-serves", true, 1),
            ("late", true, 1),
        ];
        let mut waiting: Vec<_> = applicants
            .iter()
            .map(|(name, serves, size_bytes)| {
                let (turns, applicant) = (turns.clone(), applicant(name, *serves, *size_bytes));
                (*name, Box::pin(async move { turns.turn(&applicant).await }))
            })
            .collect();
        assert!(waiting.iter_mut().all(|(_, turn)| turn.as_mut().now_or_never().is_none()));
        assert!(turns.try_turn(&applicant("quick", true, 0)).is_none(), "none is free");
        drop(running);
        let mut order = Vec::new();
        while !waiting.is_empty() {
            let at = waiting.iter_mut().position(|(_, turn)| turn.as_mut().now_or_never().is_some()).unwrap();
            order.push(waiting.remove(at).0);
        }
        assert_eq!(order, ["small-serves", "late", "serves", "small", "large"]);
    }

    #[test]
    fn a_file_that_gives_up_delays_no_other() {
        let turns = RankedTurns::new(1, &Arc::default(), false);
        let running = turns.try_turn(&applicant("running", false, 1)).unwrap();
        let [gone, stays] = ["gone", "stays"].map(|name| applicant(name, false, 1));
        let mut first = Box::pin(turns.turn(&gone));
        let mut second = Box::pin(turns.turn(&stays));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        drop(running);
        // It got the turn and gave up without taking it.
        drop(first);
        assert!(second.as_mut().now_or_never().is_some());
        assert!(turns.try_turn(&gone).is_some());
    }

    #[test]
    fn plugins_that_used_much_time_lately_go_last() {
        let ledger = Arc::<UsageLedger>::default();
        let now = Instant::now();
        let level = |ledger: &UsageLedger, after_s| ledger.level("a", now + Duration::from_secs(after_s));
        for (spent_s, expected) in [(3, 0), (2, 1), (7, 2)] {
            ledger.add(&"a".into(), Duration::from_secs(spent_s), now);
            assert_eq!(level(&ledger, 0), expected, "after {spent_s} s more");
        }
        assert_eq!((level(&ledger, 600), level(&ledger, 1_200)), (1, 0), "the use halves");
        ledger.note_slow(&"a".into(), now);
        assert!(ledger.is_slow("a", now + HALF_LIFE / 2) && !ledger.is_slow("a", now + HALF_LIFE));
        assert!(!ledger.is_slow("b", now));

        let turns = RankedTurns::new(1, &ledger, true);
        let running = turns.try_turn(&applicant("running", false, 1)).unwrap();
        ledger.add(&"a".into(), Duration::from_secs(60), Instant::now());
        let [greedy, modest] = [applicant("a", true, 1), applicant("b", false, 9)];
        let mut greedy = Box::pin(turns.turn(&greedy));
        let mut modest = Box::pin(turns.turn(&modest));
        assert!(greedy.as_mut().now_or_never().is_none() && modest.as_mut().now_or_never().is_none());
        drop(running);
        assert!(greedy.as_mut().now_or_never().is_none() && modest.as_mut().now_or_never().is_some());
    }
}
