//! Pauses between tries that fail.

use std::time::Duration;

/// Pauses that double from 50 ms to 2 s. Each is shortened by a random part of up to one half.
#[derive(Clone, Debug, Default)]
pub(super) struct RetryBackoff {
    failures: u32,
}

impl RetryBackoff {
    /// The pause after another failure.
    pub(super) fn next_pause(&mut self) -> Duration {
        let ceiling_ms = (50_u64 << self.failures.min(6)).min(2_000);
        self.failures = self.failures.saturating_add(1);
        Duration::from_millis(ceiling_ms / 2 + fastrand::u64(0..=ceiling_ms / 2))
    }

    /// Starts again with the shortest pause, after a success.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_two_seconds_and_start_again_after_success() {
        let mut backoff = RetryBackoff::default();
        let pauses: Vec<u128> = (0..20).map(|_| backoff.next_pause().as_millis()).collect();
        assert!((25..=50).contains(&pauses[0]), "{pauses:?}");
        assert!(pauses[10..].iter().all(|pause| (1_000..=2_000).contains(pause)), "{pauses:?}");
        backoff.reset();
        assert!(backoff.next_pause().as_millis() <= 50);
    }
}
