//! Limits how many lists of ended events a host reads at the same time.
//!
//! A list reads far more than a claim or a settle. With the limit, many clients that ask for lists delay the other
//! calls only a little.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Error;

/// The most lists that one host reads at the same time.
const MAX_LISTS: usize = 2;
/// How long a list waits for its turn.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// Hands out turns in the order of the requests.
#[derive(Debug)]
pub(super) struct ListLimiter {
    turns: Arc<Semaphore>,
    max_wait: Duration,
}

impl Default for ListLimiter {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(MAX_LISTS)), max_wait: MAX_WAIT }
    }
}

impl ListLimiter {
    /// Waits for a turn. The turn ends when the permit is dropped. A read that goes on after its call was dropped keeps it.
    ///
    /// # Errors
    /// [`Error::Busy`]: no turn was free in time.
    pub(super) async fn enter(&self) -> Result<OwnedSemaphorePermit, Error> {
        match tokio::time::timeout(self.max_wait, Arc::clone(&self.turns).acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(Error::Busy(format!(
                "{MAX_LISTS} lists of events are being read, which is the limit: try again later"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_list_without_a_turn_in_time_is_refused_and_the_next_one_is_read() {
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
