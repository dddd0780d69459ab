//! How many lists of ended events are read at the same time.
//!
//! A list looks at much more than a step of an event does. However many clients ask for one, the others are not to wait
//! for the store longer than a few such looks take.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::Error;

/// The most lists that one host reads at the same time.
const MAX_LISTS: usize = 2;
/// How long a list waits for its turn.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// Hands out turns, in the order in which they are asked for.
#[derive(Debug)]
pub(super) struct ListLimiter {
    turns: Semaphore,
    max_wait: Duration,
}

impl Default for ListLimiter {
    fn default() -> Self {
        Self { turns: Semaphore::new(MAX_LISTS), max_wait: MAX_WAIT }
    }
}

impl ListLimiter {
    /// Waits for a turn, which lasts until what is answered is dropped.
    ///
    /// # Errors
    /// [`Error::Busy`]: it did not come in time.
    pub(super) async fn enter(&self) -> Result<SemaphorePermit<'_>, Error> {
        match tokio::time::timeout(self.max_wait, self.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(Error::Busy(format!(
                "{MAX_LISTS} lists of events are being read, which is the most at a time: ask again later, or for less"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_does_not_get_a_turn_in_time_is_refused_and_the_next_one_goes_on() {
        let limit = ListLimiter { max_wait: Duration::ZERO, ..ListLimiter::default() };
        let mut turns = Vec::new();
        for _ in 0..MAX_LISTS {
            turns.push(limit.enter().await.unwrap());
        }
        let refused = limit.enter().await.map(drop).unwrap_err();
        assert!(matches!(&refused, Error::Busy(_)) && refused.is_transient(), "{refused}");
        turns.pop();
        turns.push(limit.enter().await.unwrap());
    }
}
