//! Turns that are given out by rank, not in the order of arrival: whoever used little of late goes first, then plugins that
//! serve, then small files.
//!
//! So no number of files holds up a small build of a plugin that serves for longer than what runs at that moment, and a file
//! that is put there again and again falls behind everybody else's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

/// How long it takes until half of what a plugin used is forgotten, and all of it being slow.
const HALF_LIFE: Duration = Duration::from_secs(600);
/// Plugins that used less than this of late are equal.
const LITTLE_MS: u64 = 4_000;
/// What is less than this is forgotten.
const NOTHING_MS: f64 = 50.0;

/// What the rank of a plugin's file follows from.
#[derive(Clone, Debug)]
pub(in crate::plugin) struct LoadApplicant {
    /// The name of the plugin.
    pub(in crate::plugin) plugin: Arc<str>,
    /// Whether a version of it serves, or served before the host was started.
    pub(in crate::plugin) serves: bool,
    /// The size of its file.
    pub(in crate::plugin) size_bytes: u64,
}

/// What each plugin used of late.
#[derive(Debug, Default)]
pub(in crate::plugin) struct UsageLedger(Mutex<HashMap<Arc<str>, UsageAccount>>);

#[derive(Clone, Copy, Debug)]
struct UsageAccount {
    spent_ms: f64,
    at: Instant,
    slow_since: Option<Instant>,
}

/// A number of turns, one for each who may work beside others.
#[derive(Debug)]
pub(in crate::plugin) struct RankedTurns {
    state: Mutex<RankedTurnsState>,
    ledger: Arc<UsageLedger>,
    /// Whether the time of a turn is counted.
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
pub(in crate::plugin) struct RankedTurn {
    turns: Arc<RankedTurns>,
    plugin: Arc<str>,
    since: Instant,
}

impl UsageLedger {
    /// Notes that a plugin needed longer than what is quick.
    pub(in crate::plugin) fn note_slow(&self, plugin: &Arc<str>, now: Instant) {
        let mut accounts = self.accounts();
        let account =
            accounts.entry(plugin.clone()).or_insert(UsageAccount { spent_ms: 0.0, at: now, slow_since: None });
        account.slow_since = Some(now);
    }

    /// Whether a plugin needed longer than what is quick not long ago.
    pub(in crate::plugin) fn is_slow(&self, plugin: &str, now: Instant) -> bool {
        self.accounts().get(plugin).is_some_and(|account| account.is_slow(now))
    }

    fn add(&self, plugin: &Arc<str>, spent: Duration, now: Instant) {
        let mut accounts = self.accounts();
        let account =
            accounts.entry(plugin.clone()).or_insert(UsageAccount { spent_ms: 0.0, at: now, slow_since: None });
        *account = UsageAccount { spent_ms: account.left_ms(now) + spent.as_secs_f64() * 1_000.0, at: now, ..*account };
        accounts.retain(|_, account| account.left_ms(now) > NOTHING_MS || account.is_slow(now));
    }

    /// 0 for a plugin that used little, and one more for each time that it is twice as much.
    fn level(&self, plugin: &str, now: Instant) -> u32 {
        let spent_ms = self.accounts().get(plugin).map_or(0.0, |account| account.left_ms(now));
        (spent_ms as u64 / LITTLE_MS + 1).ilog2()
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Arc<str>, UsageAccount>> {
        self.0.lock()
    }
}

impl UsageAccount {
    fn left_ms(&self, now: Instant) -> f64 {
        let half_lives = now.duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.spent_ms * 0.5_f64.powf(half_lives)
    }

    fn is_slow(&self, now: Instant) -> bool {
        self.slow_since.is_some_and(|since| now.duration_since(since) < HALF_LIFE)
    }
}

impl RankedTurns {
    /// So many turns at a time. Where `is_work` is set the time of each is counted against its plugin.
    pub(in crate::plugin) fn new(free: usize, ledger: &Arc<UsageLedger>, is_work: bool) -> Arc<Self> {
        let state = Mutex::new(RankedTurnsState { free, arrivals: 0, waiting: Vec::new() });
        Arc::new(Self { state, ledger: ledger.clone(), is_work })
    }

    /// A turn, if one is free.
    pub(in crate::plugin) fn try_turn(self: &Arc<Self>, applicant: &LoadApplicant) -> Option<RankedTurn> {
        let mut state = self.state();
        state.waiting.retain(|waiting| !waiting.turn.is_closed());
        if !state.waiting.is_empty() {
            return None;
        }
        state.free = state.free.checked_sub(1)?;
        drop(state);
        Some(self.begun(&applicant.plugin))
    }

    /// Waits for a turn. Dropping the future gives the place up.
    pub(in crate::plugin) async fn turn(self: &Arc<Self>, applicant: &LoadApplicant) -> RankedTurn {
        loop {
            let (turn, given) = oneshot::channel();
            {
                let mut state = self.state();
                state.arrivals += 1;
                let arrival = state.arrivals;
                state.waiting.push(WaitingApplicant { applicant: applicant.clone(), arrival, turn });
            }
            self.give();
            // Whoever is in the list is given a turn or goes by itself.
            if let Ok(turn) = given.await {
                return turn;
            }
        }
    }

    /// Gives what is free to those who come first.
    fn give(self: &Arc<Self>) {
        while let Some(waiting) = self.next() {
            // One that went meanwhile gives its turn back at once.
            drop(waiting.turn.send(self.begun(&waiting.applicant.plugin)));
        }
    }

    fn next(&self) -> Option<WaitingApplicant> {
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

    fn begun(self: &Arc<Self>, plugin: &Arc<str>) -> RankedTurn {
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
        self.turns.give();
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
    fn whoever_serves_and_is_small_goes_before_all_who_came_earlier() {
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
    fn whoever_gives_up_holds_up_nobody() {
        let turns = RankedTurns::new(1, &Arc::default(), false);
        let running = turns.try_turn(&applicant("running", false, 1)).unwrap();
        let [gone, stays] = ["gone", "stays"].map(|name| applicant(name, false, 1));
        let mut first = Box::pin(turns.turn(&gone));
        let mut second = Box::pin(turns.turn(&stays));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        drop(running);
        // It was given the turn and went without looking.
        drop(first);
        assert!(second.as_mut().now_or_never().is_some());
        assert!(turns.try_turn(&gone).is_some());
    }

    #[test]
    fn whoever_used_much_of_late_goes_after_whoever_did_not() {
        let ledger = Arc::<UsageLedger>::default();
        let now = Instant::now();
        let level = |ledger: &UsageLedger, after_s| ledger.level("a", now + Duration::from_secs(after_s));
        for (spent_s, expected) in [(3, 0), (2, 1), (7, 2)] {
            ledger.add(&"a".into(), Duration::from_secs(spent_s), now);
            assert_eq!(level(&ledger, 0), expected, "after {spent_s} s more");
        }
        assert_eq!((level(&ledger, 600), level(&ledger, 1_200)), (1, 0), "it is forgotten by halves");
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
