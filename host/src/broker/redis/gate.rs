//! How often connections may be made.
//!
//! All connections of one broker share a gate, so that a server that is away, or one that closes every connection at
//! once, is not stormed: fewer than five attempts a second, then one every two seconds. Only an answer to a command
//! counts as success; being let in does not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::fault::ConnectionFate;
use parking_lot::Mutex;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The pause after Redis did not let us in: what is wrong with a password is not mended by haste.
const SLOW_PAUSE: Duration = Duration::from_secs(5);

/// The gate.
#[derive(Debug, Default)]
pub(super) struct AppendGate {
    state: Mutex<GateState>,
    has_failed: AtomicBool,
}

#[derive(Debug, Default)]
struct GateState {
    attempts: u32,
    opens_at: Option<Instant>,
    why: String,
}

/// The gate is shut.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GateClosed {
    /// Until then.
    pub(super) wait: Duration,
    /// What went wrong the last time.
    pub(super) why: String,
}

impl AppendGate {
    /// Asks for leave to make a connection; given leave, counts as an attempt.
    pub(super) fn enter(&self) -> Result<(), GateClosed> {
        let mut state = self.lock();
        let now = Instant::now();
        if let Some(opens_at) = state.opens_at.filter(|opens_at| *opens_at > now) {
            return Err(GateClosed { wait: opens_at - now, why: state.why.clone() });
        }
        state.attempts = state.attempts.saturating_add(1);
        // The first one is free: a connection that broke is usually made again at once.
        if state.attempts > 1 {
            state.opens_at = Some(now + pause(state.attempts, fastrand::f64()));
        }
        self.has_failed.store(true, Ordering::Release);
        Ok(())
    }

    /// A connection could not be made, or was of no use.
    pub(super) fn failed(&self, why: &str, connection: ConnectionFate) {
        let mut state = self.lock();
        why.clone_into(&mut state.why);
        let least = match connection {
            ConnectionFate::RebuildSlowly => SLOW_PAUSE,
            _ => pause(state.attempts, fastrand::f64()),
        };
        let opens_at = Instant::now() + least;
        state.opens_at = Some(state.opens_at.map_or(opens_at, |before| before.max(opens_at)));
        self.has_failed.store(true, Ordering::Release);
    }

    /// A command was answered. Costs nothing when all is well.
    pub(super) fn succeeded(&self) {
        if self.has_failed.swap(false, Ordering::AcqRel) {
            *self.lock() = GateState::default();
        }
    }

    /// How long until the next attempt may be made.
    pub(super) fn wait(&self) -> Duration {
        self.lock().opens_at.map_or(Duration::ZERO, |opens_at| opens_at.saturating_duration_since(Instant::now()))
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, GateState> {
        self.state.lock()
    }
}

/// The pause after so many attempts without success; `jitter` in 0..1 spreads it over its upper half.
fn pause(attempts: u32, jitter: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(8));
    doubled.min(LONGEST_PAUSE).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        for (attempts, jitter, expected_ms) in
            [(1, 1.0, 250), (1, 0.0, 125), (2, 1.0, 500), (4, 1.0, 2_000), (u32::MAX, 1.0, 2_000)]
        {
            assert_eq!(pause(attempts, jitter), Duration::from_millis(expected_ms), "{attempts} attempts");
        }
    }

    #[test]
    fn after_a_failure_the_gate_is_shut_and_says_why() {
        let gate = AppendGate::default();
        gate.enter().unwrap();
        gate.failed("refused", ConnectionFate::Rebuild);
        assert_eq!(gate.enter().unwrap_err().why, "refused");
        assert!(gate.wait() <= FIRST_PAUSE);
        gate.failed("wrong password", ConnectionFate::RebuildSlowly);
        assert!(gate.wait() > LONGEST_PAUSE);
        gate.succeeded();
        gate.enter().unwrap();
    }

    #[test]
    fn connections_that_are_never_answered_are_not_made_in_a_storm() {
        let gate = AppendGate::default();
        let let_in = (0..1_000).filter(|_| gate.enter().is_ok()).count();
        assert_eq!(let_in, 2, "the first is free, the second shuts the gate");
    }
}
