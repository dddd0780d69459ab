//! Limits how often connections are made.
//!
//! All connections of one broker share a gate. It protects a server that is away, or that closes every connection at
//! once: at most five attempts in the first second, then one every two seconds. Only an answered command counts as
//! success; an accepted connection does not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::fault::ConnectionFate;
use parking_lot::Mutex;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The pause after Redis refused the credentials. Retrying soon cannot help.
const SLOW_PAUSE: Duration = Duration::from_secs(5);

/// Decides when the next connection may be made.
#[derive(Debug, Default)]
pub(super) struct ConnectionGate {
    state: Mutex<GateState>,
    has_failed: AtomicBool,
}

#[derive(Debug, Default)]
struct GateState {
    attempts: u32,
    opens_at: Option<Instant>,
    reason: String,
}

/// No connection may be made yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GateClosed {
    /// Time until the next attempt.
    pub(super) wait: Duration,
    /// The last failure.
    pub(super) reason: String,
}

impl ConnectionGate {
    /// Asks for permission to connect. A permission counts as an attempt.
    pub(super) fn enter(&self) -> Result<(), GateClosed> {
        let mut state = self.lock();
        let now = Instant::now();
        if let Some(opens_at) = state.opens_at.filter(|opens_at| *opens_at > now) {
            return Err(GateClosed { wait: opens_at - now, reason: state.reason.clone() });
        }
        state.attempts = state.attempts.saturating_add(1);
        // The first attempt is free: a broken connection can usually be replaced at once.
        if state.attempts > 1 {
            state.opens_at = Some(now + pause(state.attempts, fastrand::f64()));
        }
        self.has_failed.store(true, Ordering::Release);
        Ok(())
    }

    /// Notes that a connection could not be made or could not be used.
    pub(super) fn note_failure(&self, reason: &str, connection: ConnectionFate) {
        let mut state = self.lock();
        reason.clone_into(&mut state.reason);
        let least = match connection {
            ConnectionFate::RebuildSlowly => SLOW_PAUSE,
            _ => pause(state.attempts, fastrand::f64()),
        };
        let opens_at = Instant::now() + least;
        state.opens_at = Some(state.opens_at.map_or(opens_at, |before| before.max(opens_at)));
        self.has_failed.store(true, Ordering::Release);
    }

    /// Notes that a command was answered. Takes no lock unless an attempt failed before.
    pub(super) fn note_success(&self) {
        if self.has_failed.swap(false, Ordering::AcqRel) {
            *self.lock() = GateState::default();
        }
    }

    /// Time until the next attempt may be made.
    pub(super) fn remaining_pause(&self) -> Duration {
        self.lock().opens_at.map_or(Duration::ZERO, |opens_at| opens_at.saturating_duration_since(Instant::now()))
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, GateState> {
        self.state.lock()
    }
}

/// The pause after `attempts` failures. `jitter`, in 0..1, spreads it over its upper half.
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
    fn a_failure_closes_the_gate_with_its_reason() {
        let gate = ConnectionGate::default();
        gate.enter().unwrap();
        gate.note_failure("refused", ConnectionFate::Rebuild);
        assert_eq!(gate.enter().unwrap_err().reason, "refused");
        assert!(gate.remaining_pause() <= FIRST_PAUSE);
        gate.note_failure("wrong password", ConnectionFate::RebuildSlowly);
        assert!(gate.remaining_pause() > LONGEST_PAUSE);
        gate.note_success();
        gate.enter().unwrap();
    }

    #[test]
    fn unanswered_connections_are_limited() {
        let gate = ConnectionGate::default();
        let permitted = (0..1_000).filter(|_| gate.enter().is_ok()).count();
        assert_eq!(permitted, 2, "the first is free, the second closes the gate");
    }
}
